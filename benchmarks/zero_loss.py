"""Study ``zero-loss``: how small does a trained network get with nothing lost, and with what certainty?

    python benchmarks/zero_loss.py lenet-300-100 mnist --data-dir DIR --seed 0
    python benchmarks/zero_loss.py lenet-5-caffe mnist --data-dir DIR --seed 0 --drops 0 0.1 0.5 1 --work FOLDER

Starts from the committed baseline of the seed (``benchmarks/baselines``). First the dense network is given what compression will
have: two long rounds of the same recovery, with the same augmentation and distillation; what is best on validation data is the
reference, which ``--save-reference`` keeps beside the baseline for the next time. Then one ``taut.compress``, for the largest
allowed drop of validation accuracy (in points), which goes from large sizes to small ones. For each drop, the smallest network
of that search within it is delivered, written and read back, and test data is looked at once, for it; where even the first sizes
lost more than a drop, that one has a search of its own, of longer trainings. With ``--long`` all are chosen from one search of
long trainings for the smallest drop. With ``--method untrained`` nothing is trained, the dense network neither: rate-aware
quantization, a search for each drop. With ``--work`` an interrupted search goes on, and study ``records`` chooses from it too.

One record a drop in ``benchmarks/results/zero-loss.jsonl``: the chosen point alone. ``setting.max_drop`` in points; in ``test``
the change of the test metric with its paired 95 % interval and the p-value of the exact McNemar test; ``baseline`` is the
reference. ``compress_seconds``: until the point was measured; ``search_seconds``: all of the search. A drop whose record is there
is not run again. All points of the search are in ``zero-loss-curves.jsonl``, without test data.
"""

import argparse
import shlex
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import references
import torch
from first_path import hidden
from searches import curve_file, keep_curve, teller

from taut.bench.augment import AUGMENTATIONS
from taut.bench.data import Batches, load
from taut.bench.networks import build
from taut.bench.recipes import RECIPES, evaluate
from taut.budget import Budget, Gradual, Recovery, Shrink, compress
from taut.budget.run import Method, Result
from taut.compressors import RateQuantize
from taut.compressors.pool import Pool
from taut.deliver import deliver
from taut.errors import TautError
from taut.precision import PRECISIONS
from taut.records import append_record, read_records

RESULTS = Path(__file__).parent / "results" / "zero-loss.jsonl"
RECOVERY = {
    "lenet-300-100": Recovery(epochs=40, lr=6e-3, mix=False, first=0.02),
    "lenet-5-caffe": Recovery(epochs=20, lr=1.3e-3, mix=False, distill=0.9, temperature=4.0, first=0.008),
    "resnet-20": Recovery(epochs=6, lr=1e-3, first=0.1),
    "vgg-small": Recovery(epochs=6, lr=1e-3, first=0.03),
}
LONG = {
    "lenet-300-100": Recovery(epochs=200, lr=6e-3, mix=False, first=0.0119),
    "lenet-5-caffe": replace(RECOVERY["lenet-5-caffe"], first=0.006),
}
"""With ``--long``: straight to about a hundredth of the size, and to a two hundredth."""
METHODS: dict[str, list[Method]] = {
    "default": [], "gradual": [Gradual()], "narrowed": [Shrink(keep=0.5, step=0.5), Gradual()],
    "narrow": [Shrink(keep=0.3, step=0.3, round_to=1, epochs=10), Gradual()],
    "pooled": [Gradual(within={"fc1": Pool(by=2)})], "untrained": [RateQuantize(by="loss")],
}  # fmt: skip
"""What the search tries: :func:`taut.budget.compress.default_methods`; weights removed little by little in a long training; the
same at half the width, which trains in half the time, and at three tenths, for tiny files; the same with a first layer that reads
its image at half the resolution; nothing trained.
"""
NARROW = ("narrowed", "narrow")
"""Those of them that a search for a small drop leaves out."""
USUAL = {"lenet-300-100": "gradual", "lenet-5-caffe": "narrowed"}
"""The method of a network if nothing else is said; long trainings are on images that are turned, scaled and moved."""
DENSE = {"lenet-300-100": 3, "lenet-5-caffe": 1, "resnet-20": 1, "vgg-small": 1}
"""How many times the epochs of a training each of the dense network's two rounds has."""
MINUTES = {"lenet-300-100": 60, "lenet-5-caffe": 60, "resnet-20": 60, "vgg-small": 60}
LARGER = 1.5
"""Where a drop's own search begins, as a multiple of the largest size that the common one tried."""
LOOSEST = 1.0
"""The drop, in points, that a search goes to at least."""


class Study:
    """One baseline, its data, its reference and the search from there: what points are chosen from."""

    def __init__(self, args: argparse.Namespace, study: str = "zero-loss") -> None:
        if args.long and args.network not in LONG:
            raise TautError(f"--long has no recovery for {args.network}: leave it out, or add one to LONG ({', '.join(LONG)})")
        torch.set_num_threads(args.threads)
        usual = replace(RECOVERY[args.network], precision=args.precision)
        self.args, self.how = args, asked(args, usual)
        self.rounds = 0 if args.method == "untrained" else DENSE.get(args.network, 1) * usual.epochs
        splits, recipe = load(args.dataset, args.data_dir), RECIPES[args.network, args.dataset]
        args.augment = args.augment or ("affine" if METHODS[args.method] and self.rounds else recipe["augment"])
        batches = partial(Batches, splits.train, recipe["batch_size"], seed=args.seed, repeat=args.repeat)
        self.train = batches(augment=named(args.augment))
        self.val, self.test = (Batches(part, 1000, shuffle=False) for part in (splits.val, splits.test))
        self.labels = {"study": study, "network": args.network, "dataset": args.dataset, "training": "plain"}
        begun = argparse.Namespace(**vars(args) | {"augment": args.reference or args.augment})
        dense = references.Dense(begun, usual, self.rounds, batches(augment=named(begun.augment)), splits)
        self.start, self.reference = dense.reference()
        self.accuracy = evaluate(self.reference, splits.val)[1]
        print(f"reference: {self.start}, validation {self.accuracy}", flush=True)

    def search(self, drop: float, how: Recovery | None = None, whole: bool = False) -> Result:
        """Go from large sizes to small ones while no more than ``drop`` points are lost; ``whole``: not narrowed first."""
        args, self.used = self.args, how or self.how
        self.method = "gradual" if whole and args.method in NARROW else args.method
        folder = None if args.work is None else args.work / f"search-{self.method}-{drop:g}"

        return compress(
            self.reference, self.train, self.val, Budget(metric_drop=drop / 100), recover=self.used if self.rounds else False,
            methods=METHODS[self.method] or None, seed=args.seed, time_limit=max(1.0, 60 * args.minutes - spent(folder)),
            progress=teller(), labels=self.labels, workdir=folder,
        )  # fmt: skip

    def deliver(self, wanted: list[tuple[float, dict[str, float]]]) -> None:
        """For each drop, with the aim that names it, the smallest network of one search; where the first sizes that it tried have
        lost too much already, of a search of that drop's own, from a larger size, each step as long as a round of the dense one.
        With ``--long`` of one search for the smallest drop. Where nothing is trained each drop has a search: they are short.
        """
        wanted = sorted(wanted, key=lambda one: -one[0])
        if not self.rounds:
            for drop, aim in wanted:
                self.choose(self.search(drop), drop, aim)
            return
        if self.args.long:
            how = asked(self.args, replace(LONG[self.args.network], precision=self.args.precision))
            found = self.search(wanted[-1][0], how, whole=True)
            for drop, aim in wanted:
                self.choose(found, drop, aim)
            return
        found = self.search(max(wanted[0][0], self.args.loosest))
        for drop, aim in wanted:
            # of a narrowed network as it is, no size was asked
            tried = [point.bytes for point in found.curve if point.plan]
            if tried and not found.within(Budget(metric_drop=drop / 100)).best.plan:
                first = LARGER * max(tried) / found.baseline.bytes
                found = self.search(drop, replace(self.how, epochs=self.rounds, first=first), whole=True)
            self.choose(found, drop, aim)

    def choose(self, found: Result, drop: float, aim: dict[str, float]) -> None:
        """Deliver the smallest network within ``drop`` points, and append its record; ``aim`` names it."""
        args, result = self.args, found.within(Budget(metric_drop=drop / 100))
        script = f"benchmarks/{self.labels['study'].replace('-', '_')}.py"
        command, name = shlex.join(["python", script, *hidden(sys.argv[1:])]), next(iter(aim.values()))
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) if args.keep is None else args.keep / f"{args.network}-s{args.seed}-{name:g}"
            done = deliver(
                result, folder, build(args.network), self.val, test=self.test, command=command, labels=self.labels
            )  # fmt: skip
            points = read_records(folder / "curve.jsonl")
        chosen = [record for record in points if record.get("best")][-1]
        trained, step = (str(self.used), f"{self.used.epochs} epochs a step") if self.rounds else ("none", "nothing trained")
        way = {"methods": way_of(args), "augment": args.augment, "recovery": trained, "reference": self.start}
        setting = {**aim, **way, "searched": self.method, "minutes": args.minutes, "loosest": args.loosest}
        setting |= {"dense_rounds": 2 * [self.rounds]} | ({} if args.repeat is None else {"repeat": args.repeat})
        setting |= {"reference_augment": args.reference} if args.reference else {}
        more = {"setting": setting | {"plan": chosen["setting"]}, "ratio": done.summary["ratio"]}
        more |= {"search_seconds": max(point.seconds for point in found.curve)}
        append_record(args.out, chosen | more | {"torch": torch.__version__, "threads": args.threads})
        keep_curve(curve_file(args.out), points, way, step)
        print(done.summary["ratio"], done.summary["test"], flush=True)


def named(augment: str) -> str | None:
    """The augmentation of a command line."""
    return None if augment == references.NONE else augment


def asked(args: argparse.Namespace, how: Recovery) -> Recovery:
    """With the epochs and the learning rate of a training, and the first size, of the command line."""
    return replace(how, epochs=args.epochs or how.epochs, lr=args.lr or how.lr, first=args.first or how.first)


def spent(folder: Path | None) -> float:
    """The seconds that a search in this folder has had before."""
    file = None if folder is None else folder / "curve.jsonl"
    return 0.0 if file is None or not file.exists() else max(record["compress_seconds"] for record in read_records(file))


def main() -> None:
    """One search, if a drop has no record yet, and what it has for each of these."""
    args = arguments()
    if drops := left(args, "max_drop", args.drops):
        Study(args).deliver([(drop, {"max_drop": drop}) for drop in drops])


def left(args: argparse.Namespace, key: str, wanted: Iterable[float]) -> list[float]:
    """Those of the wanted values of a setting that have no record of this network, seed and method yet."""
    args.method = args.method or USUAL.get(args.network, "default")
    known, this = read_records(args.out) if args.out.exists() else [], (args.network, args.seed, way_of(args))
    done = {r["setting"][key] for r in known if (r["network"], r["seed"], r["setting"]["methods"]) == this}
    return [value for value in wanted if value not in done]


def way_of(args: argparse.Namespace) -> str:
    """What was done, as records name it."""
    trained_so = (args.reference or args.augment) == references.NONE and args.method != "untrained"
    return args.method + args.long * ", long" + trained_so * references.AS_THEY_ARE


def parser(text: str, networks: Iterable[str], results: Path) -> argparse.ArgumentParser:
    """The command line of a study of chosen points."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(networks))
    parser.add_argument("dataset", choices=["mnist", "cifar-10"])
    parser.add_argument("--data-dir", type=Path, help="folder of the data set's files")
    parser.add_argument("--seed", type=int, default=0, help="of the baseline and the search")
    parser.add_argument("--minutes", type=float, help="time limit of a search, in all its runs")
    parser.add_argument("--method", choices=list(METHODS), help="by the network, if not given")
    parser.add_argument("--augment", choices=[*AUGMENTATIONS, references.NONE], help="of training from there on")
    parser.add_argument("--repeat", type=int, help="epochs that are augmented differently; then they come again, to save time")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of the arithmetic in training")
    parser.add_argument("--long", action="store_true", help="long trainings, for the smallest drop; the others from there")
    parser.add_argument("--first", type=float, help="part of the dense size that a search begins with")
    parser.add_argument("--epochs", type=int, help="of each training of a search")
    parser.add_argument("--lr", type=float, help="of each training of a search; tiny networks bear a higher one")
    parser.add_argument("--loosest", type=float, default=LOOSEST, help="points that the search may lose, if no drop is larger")
    parser.add_argument("--work", type=Path, help="folder of this network and seed, where an interrupted search goes on")
    parser.add_argument("--save-reference", action="store_true", help="keep the dense network that was trained on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="leave the delivered files in this folder")
    parser.add_argument("--out", type=Path, default=results)
    return parser


def arguments() -> argparse.Namespace:
    """The command line."""
    line = parser(str(__doc__), RECOVERY, RESULTS)
    line.set_defaults(reference=None)  # what loses nothing is trained as the network before was
    line.add_argument("--drops", type=float, nargs="+", default=[0.0, 0.1, 0.5, 1.0], help="in points of validation accuracy")
    args = line.parse_args()
    args.minutes = args.minutes or MINUTES[args.network]
    return args


if __name__ == "__main__":
    main()
