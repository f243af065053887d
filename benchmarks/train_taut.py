"""Study ``train-taut``: which way of training gives the best accuracy at any compression?

    python benchmarks/train_taut.py lenet-300-100 mnist --data-dir DIR --workers 2
    python benchmarks/train_taut.py lenet-5-caffe fashion-mnist --data-dir DIR --workers 2
    python benchmarks/train_taut.py resnet-20 cifar-10 --data-dir DIR --workers 2 --resume DIR2
    python benchmarks/train_taut.py lenet-300-100 mnist --data-dir DIR --slice       a few minutes: one seed, three ways

Every way of ``trainings.py`` trains the network with the same data, augmentation, epochs and schedule. The first seed tries
all of its strengths; those that are the best on validation data at some level are run with the other seeds too. Each
trained network is compressed to every level (its parameters, or multiply-adds, divided by the level) by the families of
``families.py``, as it is and after the same short fine-tuning, and what comes out is measured and coded, on validation and test
data. One record a level and network, appended to ``benchmarks/results/train-taut.jsonl``; finished points are not run again.

How a level is met (which sensitivity shares out the ranks, which importance ranks the weights) is chosen on validation data
for each network. The strength of a way at a level is chosen when the curves are drawn, on validation data too. Latency is
that of the ONNX graph at batch 1 on one thread, timed in turn with that of the network before compression.

The outside peer's way needs ``pip install torchao --no-deps``; without it that way alone fails.
"""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from families import FAMILIES, Candidates, Trained, plain
from fitting import fit, tune
from plans import PLANS, SLICE, Plan
from running import DATA, KEEP, RESUME, Spent, run_all, tell_workers
from torch import nn
from trainings import WAYS

import taut
from taut.bench.data import load
from taut.bench.networks import build
from taut.bench.recipes import evaluate
from taut.codec.files import sizes
from taut.deliver import machine
from taut.latency import Timing, time_models_onnx
from taut.layers import bake
from taut.measure import ledger, reestimate_batchnorm
from taut.records import read_records
from taut.version import VERSION

RESULTS = Path(__file__).parent / "results" / "train-taut.jsonl"
ALIVE = 0.8
"""The accuracy from which a level has a say in which strengths are run with more seeds."""
TIMING = Timing(repeats=11, limit=2.0)

Record = dict[str, Any]


def point(network: str, dataset: str, way: str, rank: int, seed: int, epochs: int, tuning: int) -> list[Record]:
    """Train one way at its ``rank``-th strength, compress to every level, and measure: the records."""
    torch.set_num_threads(1)
    splits, plan = load(dataset, os.environ.get(DATA) or None), PLANS[network]
    strength = plan.tried(way)[rank]
    training = WAYS[way].at(strength)
    later = round(training.early * epochs)
    label, folder = f"{WAYS[way].name or way} {strength:g}", os.environ.get(RESUME)
    checkpoint = None if folder is None else Path(folder, f"{network}-{dataset}-{label}-s{seed}.ckpt")
    spent = Spent(checkpoint)
    trained = fit(plan, training, build(network, seed), splits, epochs - later, seed, spent.tick, checkpoint)
    seconds = spent.seconds
    shared = {
        "network": network, "dataset": dataset, "training": label, "seed": seed, "train_seconds": seconds,
        "version": VERSION, "machine": machine(), "torch": torch.__version__,
    }  # fmt: skip
    before = plain(trained)
    knobs = {"way": way, "strength": strength, "epochs": epochs}
    alone = measured(before, trained, f"{network}-{way}-{strength:g}-s{seed}")
    shared["baseline"] = alone
    against = before, alone
    # a network that collapsed can be compressed to no level: it has this record alone
    records = [shared | alone | {"method": "as trained", "setting": {**knobs, "level": 1, "tuned": 0}}]
    for family in plan.pairs[way]:
        for level in [strength] if family == "hashed" else plan.levels:
            found = best(FAMILIES[family](trained, level), trained, plan.choosing)
            if found is None:
                continue  # no network of this family is so small
            how, small = found
            name = f"{network}-{way}-{strength:g}-s{seed}-{family}-{level:g}"
            setting, start = {**knobs, "level": level}, perf_counter()
            if later:
                small = tune(plan, small, splits, later, seed)
                shared["train_seconds"] = seconds + perf_counter() - start
            more: Record = {"method": family, "setting": {**setting, "tuned": 0}, "how": how}
            records.append(shared | measured(small, trained, name, against) | more)
            start = perf_counter()
            tuned = tune(plan, small, splits, tuning, seed)
            more = {"method": f"{family}, fine-tuned", "setting": {**setting, "tuned": tuning}, "how": how}
            more["compress_seconds"] = perf_counter() - start
            records.append(shared | measured(tuned, trained, f"{name}-tuned", against) | more)
    return records


def best(candidates: Candidates, trained: Trained, images: int | None = None) -> tuple[str, nn.Module] | None:
    """The candidate with the lowest validation loss, its batch norms' statistics taken anew."""
    scored, val = [], trained.splits.val if images is None else trained.splits.val.take(images)
    for how, model in candidates:
        reestimate_batchnorm(model, trained.augmented)
        scored.append((evaluate(model, val)[0], how, model))
    return min(scored, key=lambda item: item[:2])[1:] if scored else None


def measured(model: nn.Module, trained: Trained, name: str, against: tuple[nn.Module, Record] | None = None) -> Record:
    """What a record says of a network, as it would ship; its latency in turn with that of the network it came from."""
    loss, accuracy = evaluate(model, trained.splits.val)
    totals = ledger(model, trained.example, *sizes(model)).totals()
    record: Record = {key: totals[key] for key in ("params", "nonzeros", "macs", "bytes")}
    record |= {"loss_val": loss, "metric_val": accuracy, "metric_test": evaluate(model, trained.splits.test)[1]}
    models = {"now": bake(model)} | ({} if against is None else {"before": against[0]})
    times = {
        state: {"latency_ms": time.median_ms, "latency_spread": [time.low_ms, time.high_ms]}
        for state, time in time_models_onnx(models, trained.example, timing=TIMING).items()
    }
    record |= times["now"]
    if against is not None:
        record["baseline"] = against[1] | times["before"]
    if os.environ.get(KEEP):
        record["file"] = f"{name}.taut".replace(" ", "_")
        taut.save(model, Path(os.environ[KEEP], record["file"]))
    return record


def specs(network: str, dataset: str, short: bool, out: Path) -> Iterable[dict[str, Any]]:
    """The sweeps of the study: one a seed, a grid a way, since each way has its own strengths; made as they come, from the
    records so far. Ways that compress the trainings of others come last, when those are there.
    """
    plan = PLANS[network]
    fixed = {"network": network, "dataset": dataset, "epochs": 5 if short else plan.epochs, "tuning": 1 if short else plan.tuning}
    ways = sorted(SLICE if short else plan.pairs, key=lambda way: WAYS[way].name is not None)
    for seed in plan.seeds[:1] if short else plan.seeds:
        records = [] if short or seed == plan.seeds[0] else read_records(out)
        grids = []
        for way in ways:
            ranks = SLICE[way] if short else plan.ranks.get(way, range(len(plan.tried(way))))
            grids.append({"way": [way], "rank": winners(records, network, way, plan) if records else list(ranks), "seed": [seed]})
        yield {"study": "train-taut", "run": "train_taut:point", "grid": [grid for grid in grids if grid["rank"]], "fixed": fixed}


def winners(records: Iterable[Record], network: str, way: str, plan: Plan) -> list[int]:
    """The strengths of a way, by their place, that are the best at some level, on the first seed's validation data; levels at
    which nothing is left of any of them choose none.
    """
    strengths = plan.tried(way)
    if "hashed" in plan.pairs[way]:
        return list(range(len(strengths)))  # one network a level
    found: dict[tuple[str, float], list[Record]] = {}
    for r in records:
        setting = r["setting"]
        if (r["network"], r["seed"], setting["way"]) == (network, plan.seeds[0], way) and setting["level"] > 1:
            found.setdefault((r["method"], setting["level"]), []).append(r)
    best = [max(tried, key=lambda r: r["metric_val"]) for tried in found.values()]
    return sorted({strengths.index(r["setting"]["strength"]) for r in best if r["metric_val"] >= ALIVE})


def main() -> None:
    """Run the sweeps, one way after the other."""
    args = arguments()
    tell_workers(args.data_dir, **{KEEP: args.keep, RESUME: args.resume})
    out = args.out or (RESULTS.with_stem("train-taut-slice") if args.slice else RESULTS)
    run_all(specs(args.network, args.dataset, args.slice, out), out, args.workers, args.ray)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(PLANS))
    parser.add_argument("dataset", choices=["mnist", "fashion-mnist", "cifar-10"])
    parser.add_argument("--data-dir", type=Path, help="folder of the data set's files")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--ray", action="store_true", help="as tasks of a Ray cluster")
    parser.add_argument("--slice", action="store_true", help="three ways, two strengths, one seed, few epochs")
    parser.add_argument("--keep", type=Path, help="leave the files of the networks in this folder")
    parser.add_argument("--resume", type=Path, help="keep trainings here after every epoch, to go on with or use again")
    parser.add_argument("--out", type=Path, help="instead of the committed results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
