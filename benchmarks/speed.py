"""Study ``speed``: is a network with less arithmetic faster, by how much of what was removed?

    python benchmarks/speed.py vgg-small

The network is made smaller in several ways and to several levels, exported as ``taut.export_onnx`` ships it, and timed in ONNX
Runtime against the network before, in turn, in fresh sessions of one thread; and so in torch. What is measured is time alone:
weights are random (``--weights FILE`` takes trained ones), so that the ranks and filters chosen are not those that accuracy
would choose, and no record has an accuracy.

Ways: filters removed by ``taut.shrink`` in multiples of 8; the same by Torch-Pruning with its defaults, in any number;
low rank, in both matricisations, the ranks shared out for multiply-adds (any rank, or multiples of 8) or for milliseconds
(``ranks_by_budget``, its table of timings made for the batch). A level is how many times less of what is shared out is aimed
at; one that no rank reaches has no record. One record a way, level and batch: ``setting.mac_ratio``, ``setting.speedup`` with
its range over the sessions, ``setting.share``, the quotient of the two.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import taut
from taut.bench.networks import build
from taut.codec.files import sizes
from taut.deliver import machine
from taut.errors import BudgetError
from taut.flat import with_batch
from taut.latency import Timing, ratios_files, time_onnx, time_torch
from taut.layers import bake
from taut.measure import ledger
from taut.ranks import ranks_by_budget
from taut.records import append_records, read_records
from taut.sensitivity import Sensitivity
from taut.shape_times import ShapeTimes
from taut.version import VERSION

RESULTS = Path(__file__).parent / "results" / "speed.jsonl"
INPUTS = {"vgg-small": (3, 32, 32), "resnet-20": (3, 32, 32), "fashion-cnn": (1, 28, 28)}
LEVELS = (2.0, 3.0, 4.0)
BATCHES = (1, 32)
ROUNDS = 7
TIMING = Timing(repeats=9, warmup=2, limit=20.0)

Record = dict[str, Any]


def narrowed(model: nn.Module, x: Tensor, level: float, _batch: int) -> nn.Module:
    """The same share of every layer's filters."""
    return taut.shrink(model, x, keep=level**-0.5, scope="layer", round_to=8)


def torch_pruning(model: nn.Module, x: Tensor, level: float, _batch: int) -> nn.Module:
    """The peer, as its page shows it."""
    import torch_pruning as tp

    smaller = copy.deepcopy(model)
    importance, last = tp.importance.GroupMagnitudeImportance(p=2), list(smaller.modules())[-1]
    pruner = tp.pruner.BasePruner(smaller, x, importance=importance, pruning_ratio=1 - level**-0.5, ignored_layers=[last])
    pruner.step()
    return smaller


def low_rank(unit: str, scheme: int, round_to: int = 1) -> Callable[[nn.Module, Tensor, float, int], nn.Module]:
    """Ranks for so much less of a unit."""

    def make(model: nn.Module, x: Tensor, level: float, batch: int) -> nn.Module:
        times = ShapeTimes(x, batch=batch)
        total = times.total(model) if unit == "latency" else ledger(model, x).totals()["macs"]
        how = {"unit": unit, "scheme": scheme, "round_to": round_to}
        plan = ranks_by_budget(model, total / level, Sensitivity("energy"), example_input=x, times=times, **how)
        return bake(taut.apply(model, plan, x))

    return make


WAYS = {
    "narrowed": narrowed,
    "Torch-Pruning": torch_pruning,
    "low rank for MACs": low_rank("macs", 1),
    "low rank for MACs, scheme 2": low_rank("macs", 2),
    "low rank for MACs, eights": low_rank("macs", 1, 8),
    "low rank for MACs, eights, scheme 2": low_rank("macs", 2, 8),
    "low rank for time": low_rank("latency", 1),
    "low rank for time, scheme 2": low_rank("latency", 2),
}


def point(network: str, model: nn.Module, way: str, level: float, batch: int) -> Record:
    """The record of one way at one level and batch."""
    x = torch.randn(1, *INPUTS[network], generator=torch.Generator().manual_seed(0))
    small = WAYS[way](model, x, level, batch).eval()
    costs = {name: ledger(m, x, *sizes(m)).totals() for name, m in (("before", model), ("after", small))}
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder, f"{name}.onnx") for name in costs}
        for name, m in (("before", model), ("after", small)):
            taut.export_onnx(m, paths[name], x)
        found = sorted(1 / r for r in ratios_files(paths, with_batch(x, batch), rounds=ROUNDS, timing=TIMING))
        times = time_onnx(paths, x, batch=batch, timing=TIMING)
    own = time_torch({"before": model, "after": small}, x, batch=batch, timing=TIMING)
    macs, speedup = costs["before"]["macs"] / costs["after"]["macs"], median(found)
    setting = {
        "level": level, "batch": batch, "threads": 1, "mac_ratio": macs, "speedup": speedup, "speedup_low": found[0],
        "speedup_high": found[-1], "share": speedup / macs, "speedup_torch": own["before"].median_ms / own["after"].median_ms,
    }  # fmt: skip
    record = {
        "study": "speed", "network": network, "dataset": "none", "training": "none", "method": way, "setting": setting, "seed": 0,
        "baseline": costs["before"] | _latency(times["before"]), "version": VERSION, "machine": machine(),
        "torch": torch.__version__,
    }  # fmt: skip
    return record | costs["after"] | _latency(times["after"])


def _latency(time: Any) -> Record:
    return {"latency_ms": time.median_ms, "latency_spread": [time.low_ms, time.high_ms]}


def main() -> None:
    """Measure every point that has no record yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(INPUTS))
    parser.add_argument("--weights", type=Path, help="trained weights, a safetensors file")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = build(args.network).eval()
    if args.weights is not None:
        model.load_state_dict(load_file(args.weights))
    done = read_records(args.out) if args.out.exists() else []
    known = {(r["network"], r["method"], r["setting"]["level"], r["setting"]["batch"]) for r in done}
    for key in [(args.network, way, level, batch) for level in args.levels for way in args.ways for batch in BATCHES]:
        if key in known:
            continue
        try:
            record = point(args.network, model, *key[1:])
        except BudgetError as error:
            print(f"{key[1:]}: {error}", flush=True)
            continue
        append_records(args.out, [record])
        told = record["setting"]
        print(f"{key[1:]}: MACs {told['mac_ratio']:.2f}, faster {told['speedup']:.2f}, share {told['share']:.2f}", flush=True)


if __name__ == "__main__":
    main()
