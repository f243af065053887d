"""Study ``no-training``: how small does a trained network's file get when nothing is trained any more, at which accuracy?

    python benchmarks/no_training.py lenet-300-100 mnist --data-dir DIR --seeds 0 1
    python benchmarks/no_training.py lenet-5-caffe mnist --data-dir DIR
    python benchmarks/no_training.py lenet-300-100 mnist --data-dir DIR --ways nncodec          the outside peer, if installed

Each way codes the committed baseline (``benchmarks/baselines``) at every one of its settings. ``rounded``: uniform grids, a step
relative to each layer's deviation, with taut's coder. ``rate-aware``: ``RateQuantize(price, by="loss")``, one price for all
layers; ``rate-aware, alone``: the same without making up for errors. Both read 4,096 training images, or 512 texts, no labels.
``nncodec``: the codec of the neural network coding standard (ISO/IEC 15938-17) with its defaults (dependent quantization,
DeepCABAC) at every ``qp``. One record a setting, in ``benchmarks/results/no-training.jsonl``: the length of the whole file, loss
and accuracy on validation data, accuracy on test data (nothing is chosen by it), the seconds to look at the data, to quantize
and encode, and to decode all tensors. A setting whose record is there is not run again. ``--table`` prints the smallest file of
each way within drops of validation accuracy.
"""

import argparse
import copy
import tempfile
from itertools import islice
from math import isclose
from pathlib import Path
from time import perf_counter
from typing import Any

import standard_codec
import torch
from baselines import trained
from md_tables import markdown
from torch import nn
from within import smallest

import taut
from taut.bench.data import Batches, Splits, load
from taut.bench.recipes import RECIPES, evaluate
from taut.budget.finish import finish
from taut.budget.loss_model import LossModel, fit
from taut.budget.trial import put_all
from taut.compressors import Compressor, Quantize, RateQuantize
from taut.deliver import machine
from taut.layers import bake, find_layers
from taut.objective import Objective
from taut.records import append_record, read_records
from taut.version import VERSION

RESULTS = Path(__file__).parent / "results" / "no-training.jsonl"
IMAGES, TEXTS = 4096, 512
"""Examples that ways with data look at; a text is 128 characters long."""
PRICES = tuple(1e-12 * 2**i for i in range(28))
"""The last ten for ``char-transformer``, of which 2.56e-10 still leaves a quarter, and nothing lost."""
SETTINGS: dict[str, tuple[float, ...]] = {
    "rounded": (0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75),
    "rate-aware": PRICES,
    "rate-aware, alone": PRICES,
    "nncodec": tuple(range(-36, -9)),
}
DROPS = (0.1, 0.5, 1.0)
Decoded = tuple[nn.Module, int, dict[str, float]]
"""The network that comes out, the bytes of its file, and the seconds: to look at the data, to quantize and encode, to decode."""


class Coder:
    """One baseline, and what the ways know of it."""

    def __init__(self, network: nn.Module, splits: Splits) -> None:
        self.network = network
        self.examples = IMAGES if splits.train.y.dim() == 1 else TEXTS
        self.data = [x for x, _ in islice(Batches(splits.train, 128, seed=0), self.examples // 128)]
        self._known: dict[str, tuple[LossModel, float]] = {}

    def known(self, way: str) -> tuple[LossModel, float]:
        """What a way knows of the loss, and the seconds that it took to look: once for all settings."""
        if way == "rounded":
            return LossModel({}), 0.0
        if way not in self._known:
            start = perf_counter()
            model = fit(self.network, self.data, Objective(), inputs=way == "rate-aware", samples=self.examples)
            self._known[way] = model, perf_counter() - start
        return self._known[way]

    def code(self, way: str, setting: float) -> Decoded:
        """The baseline by one way at one setting, read back."""
        if way == "nncodec":
            stream, back, encode, decode = standard_codec.coded(self.network, int(setting))
            return back, len(stream), _seconds(0.0, encode, decode)
        model, look = self.known(way)
        start = perf_counter()
        layers = find_layers(self.network)
        coded = put_all(self.network, {n: _method(way, setting, layer.weight) for n, layer in layers.items()}, model)
        finish(coded)
        with tempfile.TemporaryDirectory() as folder:
            size = taut.save(coded, Path(folder, "m.taut"))
            encoded = perf_counter()
            taut.load_state_dict(Path(folder, "m.taut"))
            decoded = perf_counter()
            back = taut.load(Path(folder, "m.taut"), into=copy.deepcopy(self.network)).eval()
        return back, size, _seconds(look, encoded - start, decoded - encoded)


def _seconds(look: float, encode: float, decode: float) -> dict[str, float]:
    return {"calibrate_seconds": look, "compress_seconds": encode, "decode_seconds": decode}


def _method(way: str, setting: float, weight: torch.Tensor) -> Compressor:
    return Quantize(step=setting * float(weight.detach().std())) if way == "rounded" else RateQuantize(setting, by="loss")


def run(args: argparse.Namespace, seed: int) -> None:
    """Append a record for every setting that has none."""
    splits, network = load(args.dataset, args.data_dir), trained(args.network, args.dataset, seed)
    known = {(r["network"], r["method"], r["setting"]["value"], r["seed"]) for r in _records(args.out)}
    coder = Coder(network, splits)
    before = measured(network, splits)
    for way in args.ways:
        for setting in SETTINGS[way]:
            wanted = args.settings is None or any(isclose(setting, value, rel_tol=0.01) for value in args.settings)
            if not wanted or (args.network, way, setting, seed) in known:
                continue
            back, size, seconds = coder.code(way, setting)
            record = {
                "study": "no-training", "network": args.network, "dataset": args.dataset, "training": "plain", "method": way,
                "setting": {"value": setting}, "seed": seed, "bytes": size, **seconds,
                "baseline": before | {"bytes": 4 * before["params"]}, "version": VERSION, "machine": machine(),
                "torch": torch.__version__,
            }  # fmt: skip
            append_record(args.out, record | measured(back, splits))
            print(args.network, seed, way, setting, size, flush=True)


def measured(model: nn.Module, splits: Splits) -> dict[str, Any]:
    """What a record says of a network."""
    loss, accuracy = evaluate(model, splits.val)
    count = sum(p.numel() for p in bake(model).parameters())
    return {"params": count, "loss_val": loss, "metric_val": accuracy, "metric_test": evaluate(model, splits.test)[1]}


def table(records: list[dict[str, Any]]) -> str:
    """For each network and seed the smallest file of each way within each drop of validation accuracy, in Markdown."""
    rows = []
    for network, seed in sorted({(r["network"], r["seed"]) for r in records}):
        for way in SETTINGS:
            found = [r for r in records if (r["network"], r["seed"], r["method"]) == (network, seed, way)]
            if found:
                rows.append([f"{network}, seed {seed}", way, *(_cell(found, drop) for drop in DROPS)])
    return markdown(["network", "way", *(f"at most {drop:g} points less" for drop in DROPS)], rows)


def _cell(found: list[dict[str, Any]], drop: float) -> str:
    kept = smallest(found, drop)
    if not kept:
        return "—"
    (best,) = kept  # of one seed
    return f"{best['bytes']:,} ({best['baseline']['bytes'] / best['bytes']:.1f}×), test {100 * best['metric_test']:.2f} %"


def _records(out: Path) -> list[dict[str, Any]]:
    return read_records(out) if out.exists() else []


def main() -> None:
    """Measure, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", choices=sorted({network for network, _ in RECIPES}))
    parser.add_argument("dataset", nargs="?", choices=sorted({dataset for _, dataset in RECIPES}))
    parser.add_argument("--data-dir", type=Path, help="folder of the data set's files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the baselines")
    parser.add_argument("--ways", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), metavar="WAY")
    parser.add_argument("--settings", type=float, nargs="+", help="only these of the ways' settings, for a large network")
    parser.add_argument("--table", action="store_true", help="print what the records say")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.table:
        print(table(_records(args.out)))
        return
    if args.network is None or args.dataset is None:
        parser.error("name a network and its data set, or give --table")
    for seed in args.seeds:
        run(args, seed)


if __name__ == "__main__":
    main()
