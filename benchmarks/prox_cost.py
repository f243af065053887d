"""Study ``prox-cost``: what a proximal step of the nuclear norm adds to the time of training.

    python benchmarks/prox_cost.py lenet-5-caffe resnet-20 transformer-1024 --periods 20
    python benchmarks/prox_cost.py lenet-5-caffe --periods 2 --out try.jsonl           a try of a few seconds

Plain training, training with the prox every 10 steps and with the prox every step are timed in turn in one run, ten steps
(a period) of each, in rotating order, on synthetic data. Two states: ``start`` (random weights, full rank) and ``low-rank``
(weights cut to an eighth of their rank, then some steps with the prox that are not timed). One record a network, state and
interval, appended to ``benchmarks/results/prox-cost.jsonl``. In ``setting``:

``ratio``          time of all timed periods with the prox over that of plain training: what is aimed at is 1.10 for every 10
``ratio_median``   the same of the medians of steps: (nine steps without and one with the prox) / ten plain steps
``ratio_cpu``      as ``ratio``, in processor time: on a machine with other work the wall times are theirs too
``error_change``   distance to the exact prox (fp64 SVD of the same weights) over what that changes; all layers, and the worst
``error_weight``   the same over the norm of the weights
``fresh``          eigendecompositions of all layers in the timed periods, and ``calls``, the times a layer was shrunk
"""

import argparse
import copy
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, quantiles
from time import perf_counter, process_time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taut.bench.networks import build
from taut.deliver import machine
from taut.layers import find_layers
from taut.numeric.singular import shrink_singular_values, svd
from taut.records import append_record
from taut.regularizers import Nuclear
from taut.train import ProxOptimizer
from taut.version import VERSION

RESULTS = Path(__file__).parent / "results" / "prox-cost.jsonl"
PERIOD = 10
LR = 0.01


class Block(nn.Module):
    """A transformer block, norms first: attention of 16 heads and a hidden layer four times as wide."""

    def __init__(self, width: int = 1024, heads: int = 16) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, tokens, width)`` to the same shape."""
        y = self.norm1(x)
        heads = (part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        x = x + self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


@dataclass(frozen=True)
class Case:
    """A network, and batches made for it."""

    model: nn.Module
    batch: Callable[[torch.Generator], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]
    size: int


def case(name: str, seed: int) -> Case:
    """The network called ``name``; classes are noisy copies of ten images, tokens go to their cyclic neighbours."""
    if name == "transformer-1024":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            block = Block()

        def tokens(generator: torch.Generator) -> tuple[Tensor, Tensor]:
            x = torch.randn(1, 1024, 1024, generator=generator)
            return x, x.roll(1, dims=-1)

        return Case(block, tokens, F.mse_loss, 1)
    size, shape = {"lenet-5-caffe": (64, (1, 28, 28)), "resnet-20": (128, (3, 32, 32))}[name]
    kinds = torch.randn(10, *shape, generator=torch.Generator().manual_seed(seed))

    def images(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        y = torch.randint(10, (size,), generator=generator)
        return kinds[y] + torch.randn(size, *shape, generator=generator), y

    return Case(build(name, seed), images, F.cross_entropy, size)


class Timed(ProxOptimizer):
    """Counts the seconds of its proximal steps; with ``watch`` it keeps the weights before and after the last one."""

    def _apply(self, length: Callable[[dict], float]) -> None:
        """The proximal step, timed."""
        if self.watch:
            self.before = {layer.name: layer.weight.detach().clone() for layer, _ in self.chosen}
        start = perf_counter()
        super()._apply(length)
        self.seconds.append(perf_counter() - start)
        if self.watch:
            self.after = {layer.name: layer.weight.detach().clone() for layer, _ in self.chosen}


class Training:
    """One way of training a copy of the network."""

    def __init__(self, of: Case, regularizer: Nuclear, every: int | None, seed: int) -> None:
        self.case, self.model = of, copy.deepcopy(of.model).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LR, momentum=0.9)
        if every is not None:
            self.optimizer = Timed(self.optimizer, self.model, {"*": regularizer}, every=every)
            self.optimizer.watch, self.optimizer.seconds = False, []
        self.generator = torch.Generator().manual_seed(seed)
        self.steps: list[float] = []
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def period(self) -> None:
        """Ten steps; making the batches is not timed."""
        wall = cpu = 0.0
        for _ in range(PERIOD):
            x, y = self.case.batch(self.generator)
            start, own = perf_counter(), process_time()
            self.optimizer.zero_grad()
            self.case.loss(self.model(x), y).backward()
            self.optimizer.step()
            self.steps.append(perf_counter() - start)
            wall, cpu = wall + self.steps[-1], cpu + process_time() - own
        self.wall.append(wall)
        self.cpu.append(cpu)

    def forget(self) -> None:
        """Throw the times of the warm-up away."""
        self.steps, self.wall, self.cpu = [], [], []
        if isinstance(self.optimizer, Timed):
            self.optimizer.seconds = []


def cut(model: nn.Module, share: float) -> None:
    """Cut every weight to a share of its rank, in place."""
    for layer in find_layers(model).values():
        w = layer.weight.detach()
        u, s, vt = svd(w.reshape(w.shape[0], -1))
        rank = max(1, round(share * len(s)))
        w.copy_(((u[:, :rank] * s[:rank]) @ vt[:rank]).reshape(w.shape))


def errors(optimizer: Timed) -> dict[str, object]:
    """The last proximal step next to the exact one, layer by layer and in total."""
    lr, squares, worst, ranks = optimizer.param_groups[0]["lr"], torch.zeros(3, dtype=torch.float64), 0.0, {}
    for layer, regularizer in optimizer.chosen:
        before, after = (part[layer.name].flatten(1).double() for part in (optimizer.before, optimizer.after))
        exact = shrink_singular_values(before, lr * optimizer.every * regularizer.strength)
        sizes = torch.stack([(after - exact).square().sum(), (before - exact).square().sum(), exact.square().sum()])
        squares, worst = squares + sizes, max(worst, float((sizes[0] / sizes[1]).sqrt()))
        rank = int(torch.linalg.matrix_rank(exact, rtol=1e-6))
        ranks[layer.name] = f"{rank}/{min(exact.shape)}"
    error, change, weight = squares.sqrt().tolist()
    return {"error_change": error / change, "error_change_worst": worst, "error_weight": error / weight, "ranks": ranks}


def counted(optimizer: Timed, what: str) -> int:
    """How many ``calls`` or ``fresh`` bases the memories of all layers count."""
    return sum(kept.get(what, 0) for kept in optimizer.memory.values())


def study(name: str, state: str, args: argparse.Namespace) -> None:
    """Time one network in one state and append its records."""
    of = case(name, args.seed)
    regularizer = Nuclear(args.strength or {"start": 1e-3, "low-rank": 1e-2}[state], method=args.method)
    if state == "low-rank":
        cut(of.model, 1 / 8)
        settle = Training(of, regularizer, PERIOD, args.seed + 1)
        for _ in range(args.settle):
            settle.period()
        of = Case(settle.model, of.batch, of.loss, of.size)
    ways = {every: Training(of, regularizer, every, args.seed) for every in (None, PERIOD, 1)}
    for way in ways.values():
        way.period()
        way.forget()
    counts = {every: [counted(ways[every].optimizer, what) for what in ("calls", "fresh")] for every in (PERIOD, 1)}
    for turn in range(args.periods):
        order = list(ways.values())
        for way in order[turn % 3 :] + order[: turn % 3]:
            way.period()
    for every in (PERIOD, 1):
        calls, fresh = (counted(ways[every].optimizer, what) - was for what, was in zip(("calls", "fresh"), counts[every]))
        figures = compare(ways[None], ways[every], every) | {"calls": calls, "fresh": fresh}
        ways[every].optimizer.watch = True
        ways[every].period()
        setting = {"every": every, "state": state, "batch": of.size, "periods": args.periods, "threads": args.threads}
        append_record(args.out, {
            "study": "prox-cost", "network": name, "dataset": "synthetic", "training": str(regularizer),
            "method": f"prox every {every}, {args.method}", "setting": setting | figures | errors(ways[every].optimizer),
            "seed": args.seed, "params": sum(p.numel() for p in of.model.parameters()), "train_seconds": sum(ways[every].wall),
            "baseline": {"training": "plain", "train_seconds": sum(ways[None].wall), "step_ms": 1e3 * median(ways[None].steps)},
            "version": VERSION, "torch": torch.__version__, "machine": machine() | ({"note": args.note} if args.note else {}),
            "command": shlex.join(["python", "benchmarks/prox_cost.py", *sys.argv[1:]]),
        })  # fmt: skip
        print(f"{name} {state} every {every}: ratio {figures['ratio']:.3f} (processor {figures['ratio_cpu']:.3f})", flush=True)


def compare(plain: Training, way: Training, every: int) -> dict[str, object]:
    """The times of one way of training next to plain training."""
    step, prox = median(plain.steps), way.optimizer.seconds
    low, _, high = quantiles([a / b for a, b in zip(way.wall, plain.wall)], n=4) if len(prox) > 1 else (0.0, 0.0, 0.0)
    return {
        "ratio": sum(way.wall) / sum(plain.wall), "ratio_spread": [low, high],
        "ratio_median": 1 + median(prox) / every / step, "ratio_cpu": sum(way.cpu) / sum(plain.cpu),
        "prox_ms": 1e3 * median(prox), "prox_ms_mean": 1e3 * fmean(prox), "prox_ms_max": 1e3 * max(prox),
    }  # fmt: skip


def main() -> None:
    """Time the networks and append the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", choices=["lenet-5-caffe", "resnet-20", "transformer-1024"])
    parser.add_argument("--states", nargs="+", choices=["start", "low-rank"], default=["start", "low-rank"])
    parser.add_argument("--periods", type=int, default=20, help="ten steps each, at least 2")
    parser.add_argument("--settle", type=int, default=3, help="periods before the low-rank state is timed")
    parser.add_argument("--method", default="auto", help="of Nuclear")
    parser.add_argument("--strength", type=float, help="of Nuclear; the default depends on the state")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--note", help="what to say of the machine, such as: other work ran beside")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.networks:
        for state in args.states:
            study(name, state, args)


if __name__ == "__main__":
    main()
