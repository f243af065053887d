"""Study ``peers``: the chain of tools that can be installed against taut, on the same networks with the same training.

    python benchmarks/peers.py digits --seeds 0 1 2
    python benchmarks/peers.py fashion-mnist --data-dir DIR --seeds 0 1 2 --resume DIR2
    python benchmarks/peers.py digits --table                                          what the records say

A residual network of 1.2 million parameters (``digits-resnet``, ``fashion-resnet``) is trained by its recipe. From there every
way of ``chains.py`` has the same epochs in all, the same loss, optimizer and data, at each of its settings: Torch-Pruning,
fine-tuning, and the codec of the neural network coding standard; taut's narrowing and entropy-penalised training, alone and
together; and ways that train nothing, 8-bit graphs of ONNX Runtime's quantizer and of NNCF among them. One record a network
that came out, appended to ``benchmarks/results/peers.jsonl``: the length of the whole file, the accuracy of what is read back
from it, and its latency as a graph in ONNX Runtime at batch 1 on one thread, in turn with that of the network before. Settings
whose records are there are not run again.

``--table`` prints, for each way, the smallest file within drops of validation accuracy, the change of its test accuracy and its
speed-up, medians over the seeds.

Peers are optional: ``pip install torch-pruning zstandard zipnn torchao nncf`` and ``pip install nncodec --no-deps``.
"""

import argparse
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from chains import WAYS, Found, Task, named
from peer_tables import table
from torch import Tensor, nn

import taut
from taut.bench.data import Splits, load
from taut.bench.networks import build
from taut.bench.recipes import RECIPES, evaluate, train
from taut.deliver import machine
from taut.export.int8 import Running
from taut.latency import Latency, Timing, time_models_onnx, time_onnx
from taut.layers import bake
from taut.measure import ledger
from taut.records import append_records, read_records
from taut.runtime import session
from taut.version import VERSION

RESULTS = Path(__file__).parent / "results" / "peers.jsonl"
NETWORKS = {"digits": "digits-resnet", "fashion-mnist": "fashion-resnet"}
EPOCHS = {"digits": (60, 2e-3), "fashion-mnist": (15, 2e-3)}
"""Of every way that trains, and the learning rate; digits has twenty steps an epoch."""
TIMING = Timing(repeats=11, limit=2.0)

Record = dict[str, Any]


def run(args: argparse.Namespace, seed: int) -> None:
    """Append the records of every way and setting that has none."""
    network, splits = NETWORKS[args.dataset], load(args.dataset, args.data_dir)
    known = {(r["method"], r["setting"]["value"]) for r in _records(args) if r["seed"] == seed}
    wanted = [(way, value) for way in args.ways for value in WAYS[way].settings if (way, value) not in known]
    if not wanted:
        return
    recipe, (epochs, lr) = RECIPES[network, args.dataset], EPOCHS[args.dataset]
    kept = None if args.resume is None else args.resume / f"{network}-s{seed}.ckpt"
    baseline = train(build(network, seed), splits, seed=seed, threads=args.threads, checkpoint=kept, **recipe)
    task = Task(baseline, splits, recipe["batch_size"], recipe["augment"], args.epochs or epochs, lr, seed)
    before = measured(Found(baseline, b"", {}), splits) | {"bytes": 4 * sum(p.numel() for p in baseline.parameters())}
    for way, value in wanted:
        setting = {"value": value, "epochs": task.epochs, "lr": lr, "baseline_epochs": recipe["epochs"]}
        shared = {
            "study": "peers", "network": network, "dataset": args.dataset, "training": "plain", "method": way, "seed": seed,
            "version": VERSION, "machine": machine(), "torch": torch.__version__,
        }  # fmt: skip
        start, records = perf_counter(), []
        for found in WAYS[way].make(task, value):
            spent = perf_counter() - start
            record = measured(found, splits, baseline, before) | {"compress_seconds": spent, "setting": setting | found.how}
            records.append(shared | record)
            if args.keep:
                Path(args.keep / f"s{seed}-{named(way, value, found.how)}").write_bytes(found.file)
            start = perf_counter()
        append_records(args.out, records)  # all of a setting or nothing
        print(network, seed, way, value, [(r["bytes"], r["metric_val"]) for r in records], flush=True)


def measured(found: Found, splits: Splits, start: nn.Module | None = None, before: Record | None = None) -> Record:
    """What a record says of a network; its latency in turn with that of ``start``."""
    with tempfile.TemporaryDirectory() as folder:
        path, x = Path(folder, "m.onnx"), splits.example_input
        path.write_bytes(found.file)
        model = Running(session(path)) if found.model is None else found.model.eval()
        loss, accuracy = evaluate(model, splits.val)
        totals = ledger(found.model or start, x).totals()  # integers are as many as the floats before them
        record: Record = {key: totals[key] for key in ("params", "nonzeros", "macs")} | {"bytes": len(found.file)}
        record |= {"loss_val": loss, "metric_val": accuracy, "metric_test": evaluate(model, splits.test)[1]}
        if start is None or before is None:
            return record
        times = {
            name: {"latency_ms": time.median_ms, "latency_spread": [time.low_ms, time.high_ms]}
            for name, time in in_turn(found.model, path, start, x).items()
        }
    return record | times["now"] | {"baseline": before | times["before"]}


def in_turn(model: nn.Module | None, graph: Path, start: nn.Module, x: Tensor) -> dict[str, Latency]:
    """The latencies in ONNX Runtime of a model, or of a file that is a graph, ``now``, and of the network before it."""
    if model is not None:
        return time_models_onnx({"now": bake(model), "before": start}, x, timing=TIMING)
    before = graph.with_name("before.onnx")
    taut.export_onnx(start, before, x)
    return time_onnx({"now": graph, "before": before}, x, timing=TIMING)


def _records(args: argparse.Namespace) -> list[Record]:
    found = read_records(args.out) if args.out.exists() else []
    return [r for r in found if r["dataset"] == args.dataset]


def main() -> None:
    """Measure, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=sorted(NETWORKS))
    parser.add_argument("--data-dir", type=Path, help="folder of the data set's files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY")
    parser.add_argument("--epochs", type=int, help="of every way, in place of the study's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", type=Path, help="keep the trainings of the baselines here, to go on with or use again")
    parser.add_argument("--keep", type=Path, help="leave the files in this folder")
    parser.add_argument("--table", action="store_true", help="print what the records say")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.table:
        print(table(_records(args)))
        return
    torch.set_num_threads(args.threads)
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        run(args, seed)


if __name__ == "__main__":
    main()
