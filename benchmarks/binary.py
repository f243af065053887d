"""Study ``binary``: binarized layers against dense ones in time, and ``bnn-small`` against itself in bytes.

    python benchmarks/binary.py kernels                                     a minute, on one core
    python benchmarks/binary.py network --data-dir DIR --seed 0             CIFAR-10; hours
    python benchmarks/binary.py network --data-dir DIR --epochs 1 --tuning 1 --examples 1000 --out try.jsonl

``kernels``: a linear layer of signs on a batch of signs, float32 in torch and packed (``taut.xnor``), timed in turn in one run on
one thread; packing the inputs is part of the packed time. The outputs are compared first, and equal. ``latency_ms`` is that of
the packed kernel, and the ``baseline``'s that of ``torch.nn.functional.linear``. In ``setting``: ``shape``, ``batch``,
``speedup``, the ratio of these two, and what a network sees, both layers called as modules: ``module_ms``, ``module_dense_ms``,
``module_speedup`` and ``module_speedup_cpu``, that of the processor's time.

``network``: ``bnn-small`` is trained with binary weights and activations, its real-valued copies kept in
``benchmarks/baselines``. It is first stored as it is, and with its real layers on 8 bits, its batch norms on short grids, and
kernels stored once, where that is shorter. Then, each from there, with the same fine-tuning and the same storage: as it is; with
few kernels (the ``kernels`` of ``taut.parametrizations.Binary``); with a price on their bits (its ``price``); with fewer filters
(``taut.shrink``) too. Weights stay binary. One record a point, with the bytes of its file, its validation and test accuracy,
and its latency in torch, packed, in turn with that of the dense float32 network of the same layers, the ``baseline``, whose
``bytes`` are 4 for each parameter and whose accuracy is that of the binarized network before compression. Points that are in the
records are not run again.
"""

import argparse
import copy
import time
from math import inf
from pathlib import Path
from typing import Any

import torch
from baselines import path, trained
from running import Spent
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import linear

import taut
from taut.bench.data import Batches, Splits, load
from taut.bench.networks import BINARY, build
from taut.bench.recipes import RECIPES, evaluate, train
from taut.binary import signs
from taut.budget import Recovery
from taut.budget.finish import finish
from taut.budget.recover import recover
from taut.codec.files import file_size, sizes
from taut.compressors import Quantize
from taut.compressors.binary import Binary as BinaryWeights
from taut.deliver import machine
from taut.latency import Latency, Timing, time_in_turn, time_torch
from taut.layers import bake
from taut.measure import ledger
from taut.objective import Objective
from taut.parametrizations import Binary
from taut.records import append_record, read_records
from taut.reparametrize import Wrapped, wrap
from taut.version import VERSION
from taut.xnor import pack

RESULTS = Path(__file__).parent / "results" / "binary.jsonl"
NETWORK, DATASET = "bnn-small", "cifar-10"
SIZES, BATCHES = (1024, 2048, 4096), (1, 64)
POINTS = (
    (1.0, 512, 0.12), (1.0, 512, 0.2), (1.0, 0, 0.0), (0.9, 512, 0.1), (1.0, 512, 0.3), (1.0, 112, 0.0), (1.0, 64, 0.0),
    (1.0, 512, 0.13),
)  # fmt: skip
"""The share of filters that is kept, the kernels that are used (0: all), and the price of a bit of theirs."""
LOOK = 0.5
"""From this part of the fine-tuning on the ends of epochs are looked at."""
VECTOR_BITS = 12
"""Of batch norms' scales and shifts: coarser ones turn activations over, whose signs are all that the next layer sees."""

Record = dict[str, Any]


def kernels(out: Path, timing: Timing) -> None:
    """Time layers of several sizes."""
    torch.set_num_threads(1)
    for size in SIZES:
        torch.manual_seed(size)
        layer = nn.Sequential(nn.Linear(size, size, bias=False))
        coded = taut.apply(layer, {"0": BinaryWeights("none")}).eval()
        dense, packed = bake(coded)[0], pack(coded, signs(torch.randn(1, size)))[0]
        for batch in BATCHES:
            x = signs(torch.randn(batch, size))
            with torch.no_grad():
                if not torch.equal(dense(x), packed(x)):
                    raise SystemExit(f"{size} x {size}, batch {batch}: the outputs differ")
                runners = {
                    "dense": lambda layer=dense, x=x: layer(x), "packed": lambda layer=packed, x=x: layer(x),
                    "linear": lambda w=dense.weight, x=x: linear(x, w), "kernel": bare(packed, x),
                }  # fmt: skip
                wall = time_in_turn(runners, timing, batch=batch)
                own = {name: processor_ms(run) for name, run in runners.items()}
            setting = {"shape": [size, size], "batch": batch, "threads": 1, "outputs": "equal"}
            setting |= {
                "speedup": wall["linear"].median_ms / wall["kernel"].median_ms,
                "module_ms": wall["packed"].median_ms,
                "module_dense_ms": wall["dense"].median_ms,
                "module_speedup": wall["dense"].median_ms / wall["packed"].median_ms,
                "module_speedup_cpu": own["dense"] / own["packed"],
            }
            record = {
                "study": "binary", "network": f"linear-{size}", "dataset": "signs", "training": "none", "method": "xnor-popcount",
                "setting": setting, "seed": size, "params": size**2, "bytes": file_size(coded), **latency(wall["kernel"]),
                "baseline": {"params": size**2, "bytes": 4 * size**2, **latency(wall["linear"])},
            }  # fmt: skip
            append_record(out, record | about())
            fast, whole = setting["speedup"], setting["module_speedup"]
            print(f"{size} x {size}, batch {batch}: {fast:.1f} times as fast, as modules {whole:.1f}", flush=True)


def bare(packed: nn.Module, x: torch.Tensor) -> Any:
    """The kernel alone, packing and products, without what Python does around it."""
    w, out = packed.weights, torch.empty(len(x), packed.weights.rows)
    return lambda: w.linear(x.data_ptr(), len(x), w.inputs, *w.at, out.data_ptr())


def processor_ms(run: Any, repeats: int = 15, seconds: float = 0.01) -> float:
    """The median of the thread's own processor time of one call, in milliseconds: other programs count less in it."""
    found = []
    for _ in range(repeats):
        start, calls = time.thread_time(), 0
        while time.thread_time() - start < seconds:
            run()
            calls += 1
        found.append(1e3 * (time.thread_time() - start) / calls)
    return sorted(found)[repeats // 2]


def latency(measured: Latency) -> Record:
    """A timing as records hold it."""
    spread = [measured.low_ms, measured.high_ms]
    return {"latency_ms": measured.median_ms, "latency_spread": spread, "latency_runs": measured.runs}


def about() -> Record:
    """Where and with what a record was made."""
    return {"version": VERSION, "torch": torch.__version__, "machine": machine()}


def binarized(splits: Splits, recipe: Record, args: argparse.Namespace) -> tuple[nn.Module, float]:
    """The trained network with its real-valued copies as weights, from the committed file or trained now; seconds of training."""
    target, keep, spent = path(NETWORK, DATASET, args.seed), args.examples is None, Spent(args.resume)
    if keep and target.exists():
        return trained(NETWORK, DATASET, args.seed), spent.seconds
    training = wrap(build(NETWORK, args.seed), {BINARY: Binary()})

    def progress(epoch: int, epochs: int, loss: float) -> None:
        spent.tick(epoch, epochs, loss)
        print(f"{epoch}/{epochs}: loss {loss:.4f}, {spent.seconds:.0f} s", flush=True)

    train(training.model, splits, seed=args.seed, threads=args.threads, progress=progress, checkpoint=args.resume, **recipe)
    model = training.unwrap()
    if keep:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, target)
    return model.eval(), spent.seconds


def compressed(copies: nn.Module, splits: Splits, share: float, how: Binary, tuning: Recovery, seed: int) -> nn.Module:
    """The network with this share of its filters and these binary weights, fine-tuned to the labels and to what the binarized
    network says, as it ships: the best of the last epochs on validation data.
    """
    model, recipe = copy.deepcopy(copies), RECIPES[NETWORK, DATASET]
    binary = wrap(copy.deepcopy(model), {BINARY: Binary()}).finalize().eval()
    if share < 1:
        # which filters matter is asked of the binary network, of whose weights the copies then start
        few = Batches(splits.train.take(2000), 50, seed=seed)
        model = bake(taut.shrink(binary, splits.train.x[:8], keep=share, importance="fisher", data=few, round_to=8))
    training = wrap(model, {BINARY: how})
    batches = Batches(splits.train, recipe["batch_size"], seed=seed, augment=recipe["augment"])
    ends: list[nn.Module] = []

    def look(done: float) -> None:
        if done >= LOOK:
            ends.append(stored(copy.deepcopy(training)))

    recover(training.model, binary, batches, Objective(), tuning, seed=seed + 1, deadline=inf, watch=look)
    # as early stopping does: near the end of a training an epoch more or less turns a few images over
    return max(ends or [stored(training)], key=lambda end: evaluate(end, splits.val)[1])


def stored(training: Wrapped) -> nn.Module:
    """The binary network as it ships: its real layers on 8 bits, its batch norms on grids."""
    model = taut.apply(training.finalize().eval(), {"stem*": Quantize(8, per="row"), "out": Quantize(8, per="row")})
    # batch norms keep what training averaged: plain averages over images that are not augmented cost a point
    finish(model, VECTOR_BITS)
    return model.eval()


def measured(model: nn.Module, dense: nn.Module, splits: Splits, keep: Path | None, name: str) -> tuple[Record, Record]:
    """What the records say of a network; and the latency of the dense one."""
    loss, accuracy = evaluate(model, splits.val)
    totals = ledger(model, splits.example_input, *sizes(model)).totals()
    record = {key: totals[key] for key in ("params", "nonzeros", "macs", "bytes")}
    record |= {"loss_val": loss, "metric_val": accuracy, "metric_test": evaluate(model, splits.test)[1]}
    runners = {"packed": pack(model, splits.example_input), "dense": dense}
    times = time_torch(runners, splits.example_input, timing=Timing(repeats=11, limit=10.0))
    if keep is not None:
        record["file"] = f"{name}.taut"
        taut.save(model, keep / record["file"])
    return record | latency(times["packed"]), latency(times["dense"])


def network(splits: Splits, args: argparse.Namespace, points: Any = POINTS) -> None:
    """Train, compress in several ways, measure."""
    recipe = RECIPES[NETWORK, DATASET] | ({"epochs": args.epochs} if args.epochs else {})
    copies, seconds = binarized(splits, recipe, args)
    whole = wrap(copy.deepcopy(copies), {BINARY: Binary()}).finalize().eval()
    dense, wanted = bake(whole), sum(p.numel() for p in copies.parameters())
    before, timed = measured(whole, dense, splits, args.keep, f"{NETWORK}-s{args.seed}")
    shared = {"study": "binary", "network": NETWORK, "dataset": DATASET, "training": "Binary()", "seed": args.seed}
    reference = before | {"bytes": 4 * wanted}
    reference.pop("file", None)
    run(shared, {"stage": "trained"}, "Binary", args, lambda: (before, timed), reference, {"train_seconds": seconds})
    stored = [(1.0, 0, 0.0, 0), *((*point, args.tuning) for point in points)]
    for share, count, price, epochs in stored:
        start = time.perf_counter()
        tuning = Recovery(epochs=epochs, lr=args.tuning_lr)
        setting = {"stage": "tuned", "keep": share, "kernels": count, "tuning": epochs, "epochs": recipe["epochs"]}
        setting |= ({"price": price} if price else {}) | ({"lr": args.tuning_lr, "distill": tuning.distill} if epochs else {})
        setting["vector_bits"] = VECTOR_BITS
        setting |= {"looks": LOOK} if epochs else {}
        method = " + ".join(["shrink"] * (share < 1) + [f"BinaryKernels(k={count})" if count else "Binary"])

        def point(share: float = share, count: int = count, price: float = price, tuning: Recovery = tuning) -> Any:
            how = Binary(kernels=count, price=price)
            model = compressed(copies, splits, share, how, tuning, args.seed)
            name = f"{NETWORK}-s{args.seed}-{share:g}-{count}-{price:g}-{tuning.epochs}"
            return measured(model, dense, splits, args.keep, name)

        run(shared, setting, method, args, point, reference, {"start": start})


def run(shared: Record, setting: Record, method: str, args: Any, point: Any, reference: Record, seconds: Record) -> None:
    """One record, unless it is there already."""
    key = shared | {"setting": setting, "method": method}
    done = read_records(args.out) if args.out.exists() else []
    if any(all(record.get(name) == value for name, value in key.items()) for record in done):
        return
    found, against = point()
    took = {"compress_seconds": time.perf_counter() - seconds["start"]} if "start" in seconds else seconds
    append_record(args.out, key | found | {"baseline": reference | against} | took | about())
    ratio = reference["bytes"] / found["bytes"]
    print(
        f"{method} {setting}: {ratio:.1f} times, validation {found['metric_val']:.4f} of {reference['metric_val']:.4f}",
        flush=True,
    )


def main() -> None:
    """Read the command line and run a part of the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["kernels", "network"])
    parser.add_argument("--data-dir", type=Path, help="folder of CIFAR-10's files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="of training, in place of the recipe's")
    parser.add_argument("--tuning", type=int, default=3, help="epochs of fine-tuning after each compression")
    parser.add_argument("--tuning-lr", type=float, default=1e-4, help="the step that fine-tuning begins with")
    parser.add_argument("--examples", type=int, help="use only so many of each part of the data, and keep no baseline: for a try")
    every = range(len(POINTS))
    parser.add_argument("--points", type=int, nargs="+", choices=every, default=every, help="some of the points, from 0 on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", type=Path, help="keep the training in this file after every epoch, and go on from there")
    parser.add_argument("--repeats", type=int, default=25, help="timings of each layer")
    parser.add_argument("--keep", type=Path, help="leave the files in this folder")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.part == "kernels":
        kernels(args.out, Timing(repeats=args.repeats, min_seconds=2e-3, limit=20.0))
        return
    torch.set_num_threads(args.threads)
    if args.keep is not None:
        args.keep.mkdir(parents=True, exist_ok=True)
    splits = load(DATASET, args.data_dir)
    if args.examples:
        parts = (part.take(args.examples) for part in (splits.train, splits.val, splits.test))
        splits = Splits(splits.name, *parts)
    network(splits, args, [POINTS[i] for i in args.points])


if __name__ == "__main__":
    main()
