"""Study ``pull-taut``: which way of compressing a trained network loses least at equal bytes?

    python benchmarks/pull_taut.py lenet-300-100 mnist --data-dir DIR --workers 2
    python benchmarks/pull_taut.py lenet-5-caffe mnist --data-dir DIR --workers 2
    python benchmarks/pull_taut.py resnet-20 cifar-10 --data-dir DIR --workers 2
    python benchmarks/pull_taut.py lenet-300-100 mnist --data-dir DIR --slice          a few minutes: one seed, four values

Starts from the committed baselines (``benchmarks/baselines``). Every way of ``sharing.py`` has the same number of epochs in all,
the same loss, optimizer and augmentation; those that train from scratch have the baseline's epochs besides. What comes out is
finished in the same manner, coded, and measured on validation and test data. One record a way and setting, appended to
``benchmarks/results/pull-taut.jsonl``; finished points are not run again. A steering's record holds every measured step, with
what was predicted, and ``max_drop``, the fraction of validation accuracy that it was allowed to lose; one that does not arrive
leaves a record without bytes.
"""

import argparse
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from baselines import trained
from running import DATA, KEEP, run_all, tell_workers
from sharing import WAYS, Task
from torch import nn

import taut
from taut.bench.data import Splits, load
from taut.bench.networks import build
from taut.bench.recipes import RECIPES, evaluate
from taut.codec.files import sizes
from taut.deliver import machine
from taut.measure import ledger
from taut.version import VERSION

RESULTS = Path(__file__).parent / "results" / "pull-taut.jsonl"


EVERYTHING = {name: tuple(range(len(way.settings))) for name, way in WAYS.items()}


@dataclass(frozen=True)
class Plan:
    """What the study runs on a network: ``epochs`` of every way, passes over one of ``parts`` parts of the training data each, at
    the learning rate ``lr``; ``ways`` and the places of their settings, all of them by default.
    """

    epochs: int
    lr: float
    parts: int = 1
    ways: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: EVERYTHING)


CODEBOOKS = ("steering", "k-means", "k-means by curvature", "k-means by damped curvature")
# the larger networks cost hours: fewer ways and settings, and shorter passes, so that a steering has as many measured steps
PLANS = {
    "lenet-300-100": Plan(20, 2e-3),
    "lenet-5-caffe": Plan(12, 2e-3, 2, dict.fromkeys(CODEBOOKS, (1, 3, 4)) | {
        "entropy codebook": (1, 3, 5), "deep compression": (1, 3, 5), "learning-compression": (1, 3),
    }),
    "resnet-20": Plan(16, 1e-3, 8, dict.fromkeys(CODEBOOKS, (1, 3))),
    "vgg-small": Plan(16, 1e-3, 8, dict.fromkeys(("steering", "k-means"), (1, 3))),
}  # fmt: skip
SLICE = ("steering", "k-means")

STEP = ("distance", "predicted", "measured", "error", "kept", "coded")
"""What a record says of each step of a steering."""

Record = dict[str, Any]


def point(network: str, dataset: str, way: str, rank: int, seed: int, epochs: int, lr: float, parts: int = 1) -> list[Record]:
    """Compress the baseline of one seed by one way at its ``rank``-th setting, and measure: the record."""
    torch.set_num_threads(1)
    splits, setting = load(dataset, os.environ.get(DATA) or None), WAYS[way].settings[rank]
    start = perf_counter()
    task = Task(trained(network, dataset, seed), build(network, seed), splits, RECIPES[network, dataset], epochs, lr, seed, parts)
    shared = {
        "network": network, "dataset": dataset, "training": "plain", "method": way, "seed": seed, "version": VERSION,
        "machine": machine(), "torch": torch.__version__, "baseline": measured(task.network, splits),
        "setting": {"way": way, "value": setting, "epochs": epochs / parts, "parts": parts, "lr": lr},
    }  # fmt: skip
    model = WAYS[way].make(task, setting)
    shared["compress_seconds"] = perf_counter() - start
    if task.allowed is not None:
        shared["setting"] |= {"max_drop": task.allowed, "arrived": model is not None}
        shared["steps"] = [{key: getattr(step, key) for key in STEP} for step in task.log]
    if model is None:
        return [shared]
    model = task.shipped(model)
    if os.environ.get(KEEP):
        shared["file"] = f"{network}-{way}-{setting:g}-s{seed}.taut".replace(" ", "_")
        taut.save(model, Path(os.environ[KEEP], shared["file"]))
    return [shared | measured(model, splits)]


def measured(model: nn.Module, splits: Splits) -> Record:
    """What a record says of a network."""
    loss, accuracy = evaluate(model, splits.val)
    totals = ledger(model, splits.example_input, *sizes(model)).totals()
    record: Record = {key: totals[key] for key in ("params", "nonzeros", "macs", "bytes")}
    return record | {"loss_val": loss, "metric_val": accuracy, "metric_test": evaluate(model, splits.test)[1]}


def specs(network: str, dataset: str, seeds: Iterable[int], ways: Iterable[str], short: bool) -> Iterable[dict[str, Any]]:
    """The sweeps of the study: one a seed, a grid a way, since each way has its own settings."""
    plan = PLANS[network]
    fixed = {"network": network, "dataset": dataset, "epochs": plan.epochs, "lr": plan.lr, "parts": plan.parts}
    for seed in seeds:
        grids = [
            {"way": [way], "rank": [1, 3] if short else list(plan.ways[way]), "seed": [seed]}
            for way in (SLICE if short else ways) if way in plan.ways
        ]  # fmt: skip
        yield {"study": "pull-taut", "run": "pull_taut:point", "grid": grids, "fixed": fixed}


def main() -> None:
    """Run the sweeps, one way after the other."""
    args = arguments()
    tell_workers(args.data_dir, **{KEEP: args.keep})
    out = args.out or (RESULTS.with_stem("pull-taut-slice") if args.slice else RESULTS)
    run_all(specs(args.network, args.dataset, args.seeds, args.ways, args.slice), out, args.workers)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(PLANS))
    parser.add_argument("dataset", choices=["mnist", "cifar-10"])
    parser.add_argument("--data-dir", type=Path, help="folder of the data set's files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the baselines")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--slice", action="store_true", help="two ways, two settings")
    parser.add_argument("--keep", type=Path, help="leave the files of the networks in this folder")
    parser.add_argument("--out", type=Path, help="instead of the committed results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
