"""Study ``records``: the smallest file at a stated test error, to be held against the best that was published.

    python benchmarks/records.py lenet-300-100 mnist --data-dir DIR --seed 0
    python benchmarks/records.py lenet-5-caffe mnist --data-dir DIR --seed 0 --targets 0.96

For each test error aimed at, in percent, the smallest network of one search from the committed baseline of the seed, as in study
``zero-loss``: by ``Gradual``, on images that are turned, scaled and moved, for LeNet-300-100 with a first layer that reads its
image at half the resolution. With the same ``--work`` folder, what is there of the same method is used. The budget is on
validation data: an error of at most the target, less a margin if one is given. As there the dense network is first trained on.
Test data is looked at once, for what is delivered.

One record a target in ``benchmarks/results/records.jsonl``: the chosen point alone, ``setting.target_error`` in percent of test
error; whether ``metric_test`` keeps it is for the reader to see. A target whose record is there is not run again.
"""

from argparse import Namespace
from pathlib import Path

from references import NONE
from zero_loss import MINUTES, Study, left, parser

from taut.bench.augment import AUGMENTATIONS
from taut.errors import TautError

RESULTS = Path(__file__).parent / "results" / "records.jsonl"
TARGETS = {"lenet-300-100": (1.9, 1.5), "lenet-5-caffe": (0.96, 0.75)}
"""The errors at which the best published sizes stand (124 times at 1.9 %; 1,110 at 0.96 %, 555 at 0.69 %), and harder ones."""
METHODS = {"lenet-300-100": "pooled"}
"""The method of a network, where it is not that of study ``zero-loss``."""
MARGIN = 0.0
"""Points of error that validation data is to be better than the target."""


def main() -> None:
    """One search, if a target has no record yet, and what it has for each of these."""
    args = arguments()
    if targets := left(args, "target_error", args.targets):
        study = Study(args, "records")
        drops = {target: drop(study.accuracy, target, args.margin) for target in targets}
        study.deliver([(drops[target], {"target_error": target, "margin": args.margin}) for target in targets])


def drop(accuracy: float, target: float, margin: float) -> float:
    """The points that a network of this validation accuracy may lose, for a test error of ``target`` percent.

    Example:
        >>> round(drop(0.9896, 1.9, 0.1), 2)
        0.76
    """
    points = 100 * accuracy - (100 - target + margin)
    if points < 0:
        raise TautError(
            f"the dense network has {100 * (1 - accuracy):.2f} % error on validation data, more than {target} % less {margin}; "
            "begin with a better one, or aim at more"
        )
    return points


def arguments() -> Namespace:
    """The command line."""
    line = parser(str(__doc__), TARGETS, RESULTS)
    line.add_argument("--targets", type=float, nargs="+", help="in percent of test error")
    images = {"choices": [*AUGMENTATIONS, NONE], "help": "of the dense network's training, if another: tiny networks bear less"}
    line.add_argument("--reference", **images)
    line.add_argument("--margin", type=float, default=MARGIN, help="points that validation data is to be better")
    args = line.parse_args()
    args.method = args.method or METHODS.get(args.network)
    args.minutes, args.targets = args.minutes or MINUTES[args.network], args.targets or TARGETS[args.network]
    return args


if __name__ == "__main__":
    main()
