"""Study ``factor-early``: the training time saved by factoring a network while it trains.

    python benchmarks/factor_early.py lenet-300-100 mnist --data-dir DIR
    python benchmarks/factor_early.py lenet-5-caffe fashion-mnist --data-dir DIR

Two trainings of the same number of epochs with the same penalty: in one the whole network is trained to the end and then put
into factors; in the other it is put into the same number of parameters half way, and the small network is trained on. They
are run in turn, whole - early - early - whole, on one thread, and timed epoch by epoch, in wall and in processor time. One
record a level, appended to ``benchmarks/results/factor-early.jsonl``: the network that was factored early, and as its
``baseline`` the one that was factored at the end. In ``setting``: ``saved``, the share of the training's processor time that
early factoring saves, and ``epoch_ratio``, the median time of an epoch of the small network over that of the whole one.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from families import FAMILIES, Trained
from fitting import fit, tune
from plans import PLANS
from torch import nn
from train_taut import best, measured
from trainings import WAYS

from taut.bench.data import load
from taut.bench.networks import build
from taut.deliver import machine
from taut.errors import TautError
from taut.records import append_record
from taut.version import VERSION

RESULTS = Path(__file__).parent / "results" / "factor-early.jsonl"
EARLY = "nuclear + sparse group, factored early"


class Clock:
    """The wall and processor seconds of each epoch; ``tick`` is a training's ``progress``."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.start()

    def start(self) -> None:
        """What comes now is an epoch."""
        self.at = perf_counter(), process_time()

    def tick(self, *_: Any) -> None:
        """An epoch has ended."""
        wall, cpu = self.at
        self.wall.append(perf_counter() - wall)
        self.cpu.append(process_time() - cpu)
        self.start()


class Run:
    """The trainings of one network, strength and seed."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.plan = args, PLANS[args.network]
        self.splits = load(args.dataset, args.data_dir)
        self.epochs = args.epochs or self.plan.epochs
        self.training = WAYS[EARLY].at(args.strength)

    def train(self, epochs: int, clock: Clock) -> Trained:
        """The whole network, for some epochs."""
        clock.start()
        network = build(self.args.network, self.args.seed)
        return fit(self.plan, self.training, network, self.splits, epochs, self.args.seed, clock.tick)

    def factored(self, trained: Trained, level: float) -> nn.Module:
        """The network in factors, of the level's size."""
        found = best(FAMILIES[self.args.family](trained, level), trained)
        if found is None:
            raise TautError(f"no network of {self.args.family} is {level:g} times smaller")
        return found[1]

    def whole(self, level: float, clock: Clock) -> tuple[nn.Module, Trained]:
        """Trained to the end, then factored."""
        trained = self.train(self.epochs, clock)
        return self.factored(trained, level), trained

    def early(self, level: float, clock: Clock) -> tuple[nn.Module, Trained]:
        """Factored half way; what factoring takes belongs to the first epoch after it."""
        half = self.epochs // 2
        trained = self.train(half, clock)
        small = self.factored(trained, level)
        return tune(self.plan, small, self.splits, self.epochs - half, self.args.seed, clock.tick), trained


def study(run: Run, level: float) -> dict[str, Any]:
    """The record of one level."""
    clocks = {"whole": Clock(), "early": Clock()}
    ways: dict[str, Callable[[float, Clock], tuple[nn.Module, Trained]]] = {"whole": run.whole, "early": run.early}
    made = {name: measured(*ways[name](level, clocks[name]), name) for name in ("whole", "early", "early", "whole")}
    half = run.epochs // 2
    late = [cpu for i, cpu in enumerate(clocks["early"].cpu) if i % run.epochs >= half]
    setting = {
        "level": level, "strength": run.args.strength, "epochs": run.epochs, "threads": 1,
        "saved": 1 - sum(clocks["early"].cpu) / sum(clocks["whole"].cpu),
        "saved_wall": 1 - sum(clocks["early"].wall) / sum(clocks["whole"].wall),
        "epoch_ratio": median(late) / median(clocks["whole"].cpu),
    }  # fmt: skip
    return {
        "study": "factor-early", "network": run.args.network, "dataset": run.args.dataset,
        "training": f"{EARLY} {run.args.strength:g}", "method": run.args.family, "setting": setting, "seed": run.args.seed,
        **made["early"], "train_seconds": sum(clocks["early"].wall) / 2,
        "baseline": made["whole"] | {"train_seconds": sum(clocks["whole"].wall) / 2},
        "version": VERSION, "torch": torch.__version__, "machine": machine(),
    }  # fmt: skip


def main() -> None:
    """Run the levels and append the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(PLANS))
    parser.add_argument("dataset", choices=["mnist", "fashion-mnist", "cifar-10"])
    parser.add_argument("--data-dir", type=Path, help="folder of the data set's files")
    parser.add_argument("--levels", type=float, nargs="+", default=[10.0], help="times fewer parameters or multiply-adds")
    parser.add_argument("--family", choices=["low-rank", "narrow low-rank"], default="low-rank")
    parser.add_argument("--strength", type=float, default=1e-4, help="of the penalty, per weight")
    parser.add_argument("--epochs", type=int, help="in place of the study's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    run = Run(args)
    for level in args.levels:
        record = study(run, level)
        append_record(args.out, record)
        print(level, record["setting"], f"{record['metric_val']:.4f} against {record['baseline']['metric_val']:.4f}", flush=True)


if __name__ == "__main__":
    main()
