"""Study ``zero-loss``: how small does a trained network get with nothing lost, and with what certainty?

    python benchmarks/zero_loss.py lenet-300-100 mnist --data-dir DIR --seed 0
    python benchmarks/zero_loss.py lenet-5-caffe mnist --data-dir DIR --seed 0 --drops 0 0.1 0.5 1

Starts from the committed baseline of the seed (``benchmarks/baselines``). First the dense network is given what compression will
have: as many epochs of the same recovery, with the same augmentation and distillation; what is better on validation data is the
reference. Then one ``taut.compress`` for each allowed drop of validation accuracy (in points), each within its minutes. The
smallest network within the budget is delivered, written and read back, and test data is looked at once, for it.

One record a drop in ``benchmarks/results/zero-loss.jsonl``: the chosen point alone. ``setting.max_drop`` in points; in ``test``
the change of the test metric with its paired 95 % interval and the p-value of the exact McNemar test; ``baseline`` is the
reference. A drop whose record is there is not run again.
"""

import argparse
import copy
import shlex
import sys
import tempfile
from collections.abc import Iterable, Mapping
from math import inf
from pathlib import Path
from time import monotonic

import torch
from baselines import trained
from first_path import hidden

from taut.bench.augment import AUGMENTATIONS
from taut.bench.data import Batches, load
from taut.bench.networks import build
from taut.bench.recipes import RECIPES, evaluate
from taut.budget import Budget, Gradual, Recovery, compress
from taut.budget.recover import recover
from taut.budget.run import Method
from taut.curve import Point
from taut.deliver import deliver
from taut.objective import Objective
from taut.records import append_record, read_records

RESULTS = Path(__file__).parent / "results" / "zero-loss.jsonl"
RECOVERY = {
    "lenet-300-100": Recovery(epochs=60, lr=2e-3, first=0.016),
    "lenet-5-caffe": Recovery(epochs=18, lr=2e-3, first=0.006),
    "resnet-20": Recovery(epochs=6, lr=1e-3, first=0.1),
    "vgg-small": Recovery(epochs=6, lr=1e-3, first=0.03),
}
METHODS: dict[str, list[Method]] = {"default": [], "gradual": [Gradual()]}
"""What the search tries: :func:`taut.budget.compress.default_methods`, or weights removed little by little in a long training."""
MINUTES = {"lenet-300-100": 15, "lenet-5-caffe": 15, "resnet-20": 60, "vgg-small": 60}


class Study:
    """One baseline, its data and its reference: what a study of chosen points, one a budget, starts from."""

    def __init__(self, args: argparse.Namespace, study: str = "zero-loss", recovery: Mapping[str, Recovery] = RECOVERY) -> None:
        torch.set_num_threads(args.threads)
        self.args, self.how = args, recovery[args.network]
        splits, recipe = load(args.dataset, args.data_dir), RECIPES[args.network, args.dataset]
        args.augment = args.augment or recipe["augment"]
        self.train = Batches(splits.train, recipe["batch_size"], seed=args.seed, augment=args.augment)
        self.val, self.test = (Batches(part, 1000, shuffle=False) for part in (splits.val, splits.test))
        self.labels = {"study": study, "network": args.network, "dataset": args.dataset, "training": "plain"}
        before = trained(args.network, args.dataset, args.seed)
        longer = copy.deepcopy(before)
        recover(longer, before, self.train, Objective(), self.how, seed=args.seed, deadline=inf)
        found = {"as trained": before, "trained on": longer}
        accuracy = {name: evaluate(model, splits.val)[1] for name, model in found.items()}
        self.start = max(accuracy, key=lambda name: accuracy[name])
        self.reference, self.accuracy = found[self.start], accuracy[self.start]
        print(f"reference: {self.start}, validation {accuracy}", flush=True)

    def run(self, drop: float, aim: dict[str, float]) -> None:
        """Compress under one budget, ``drop`` in points, and append the record of what was chosen; ``aim`` names it."""
        args, start = self.args, monotonic()

        def tell(point: Point) -> None:
            kept = "kept" if point.kept else "-"
            print(f"{monotonic() - start:6.0f} s {point.step:3d} {kept:4s} {point.metric:.4f} {point.bytes:8d}", flush=True)

        result = compress(
            self.reference, self.train, self.val, Budget(metric_drop=drop / 100), recover=self.how, seed=args.seed,
            time_limit=60 * args.minutes, progress=tell, labels=self.labels,
        )  # fmt: skip
        seconds = monotonic() - start
        script = f"benchmarks/{self.labels['study'].replace('-', '_')}.py"
        command, name = shlex.join(["python", script, *hidden(sys.argv[1:])]), next(iter(aim.values()))
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) if args.keep is None else args.keep / f"{args.network}-s{args.seed}-{name:g}"
            done = deliver(
                result, folder, build(args.network), self.val, test=self.test, command=command, labels=self.labels
            )  # fmt: skip
            chosen = [record for record in read_records(folder / "curve.jsonl") if record.get("best")][-1]
        setting = {**aim, "methods": args.method, "augment": args.augment, "minutes": args.minutes}
        setting |= {"recovery": str(self.how), "reference": self.start}
        more = {"setting": setting | {"plan": chosen["setting"]}, "ratio": done.summary["ratio"], "compress_seconds": seconds}
        append_record(args.out, chosen | more | {"torch": torch.__version__, "threads": args.threads})
        print(done.summary["ratio"], done.summary["test"], flush=True)


def main() -> None:
    """One search a drop that has no record yet."""
    args = arguments()
    if drops := left(args, "max_drop", args.drops):
        study = Study(args)
        for drop in drops:
            study.run(drop, {"max_drop": drop})


def left(args: argparse.Namespace, key: str, wanted: Iterable[float]) -> list[float]:
    """Those of the wanted values of a setting that have no record of this network and seed yet."""
    known = read_records(args.out) if args.out.exists() else []
    done = {r["setting"][key] for r in known if (r["network"], r["seed"]) == (args.network, args.seed)}
    return [value for value in wanted if value not in done]


def parser(text: str, networks: Iterable[str], results: Path) -> argparse.ArgumentParser:
    """The command line of a study of chosen points."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(networks))
    parser.add_argument("dataset", choices=["mnist", "cifar-10"])
    parser.add_argument("--data-dir", type=Path, help="folder of the data set's files")
    parser.add_argument("--seed", type=int, default=0, help="of the baseline and the search")
    parser.add_argument("--minutes", type=float, help="time limit of each search")
    parser.add_argument("--method", choices=list(METHODS), default="default")
    parser.add_argument("--augment", choices=list(AUGMENTATIONS), help="of the training after the baseline's, if not the same")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="leave the delivered files in this folder")
    parser.add_argument("--out", type=Path, default=results)
    return parser


def arguments() -> argparse.Namespace:
    """The command line."""
    line = parser(str(__doc__), RECOVERY, RESULTS)
    line.add_argument("--drops", type=float, nargs="+", default=[0.0, 0.1, 0.5, 1.0], help="in points of validation accuracy")
    args = line.parse_args()
    args.minutes = args.minutes or MINUTES[args.network]
    return args


if __name__ == "__main__":
    main()
