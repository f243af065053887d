"""Study ``first-path``: trained baselines, compressed by ``taut.compress`` with no drop of the validation metric.

    python benchmarks/first_path.py lenet-300-100 mnist --data-dir DIR
    python benchmarks/first_path.py lenet-5-caffe mnist --data-dir DIR

Starts from the committed baseline (``benchmarks/baselines``) and gives recovery the same augmentation that the baseline
had. Every measured point, and last the delivered one, is appended to ``benchmarks/results/first-path.jsonl``. The point is
chosen on validation data; test data is looked at once, for the delivered network. ``--keep DIR`` leaves its files there.
"""

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

import torch
from baselines import trained
from searches import teller

from taut.bench.data import Batches, load
from taut.bench.networks import build
from taut.bench.recipes import RECIPES
from taut.budget import Budget, Recovery, compress
from taut.deliver import deliver
from taut.records import append_record, read_records

RESULTS = Path(__file__).parent / "results" / "first-path.jsonl"
RECOVERY = {
    "lenet-300-100": Recovery(epochs=30, lr=2e-3, first=0.02),
    "lenet-5-caffe": Recovery(epochs=18, lr=2e-3, first=0.0148),
}
MINUTES = {"lenet-300-100": 14, "lenet-5-caffe": 28}


def main() -> None:
    """Compress one baseline and append its points."""
    args = arguments()
    torch.set_num_threads(args.threads)
    splits = load(args.dataset, args.data_dir)
    recipe = RECIPES[args.network, args.dataset]
    network = trained(args.network, args.dataset, args.seed)
    train = Batches(splits.train, recipe["batch_size"], seed=args.seed, augment=recipe["augment"])
    val, test = (Batches(part, 1000, shuffle=False) for part in (splits.val, splits.test))
    command = shlex.join(["python", "benchmarks/first_path.py", *hidden(sys.argv[1:])])
    labels = {"study": "first-path", "network": args.network, "dataset": args.dataset, "training": "plain"}

    result = compress(
        network, train, val, Budget(metric_drop=args.max_drop / 100), recover=RECOVERY[args.network], seed=args.seed,
        time_limit=60 * args.minutes, progress=teller(), labels=labels, workdir=args.workdir,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        out = args.keep or Path(temporary)
        done = deliver(result, out, build(args.network), val, test=test, command=command, labels=labels)
        for record in read_records(out / "curve.jsonl"):
            append_record(RESULTS, record | {"max_drop": args.max_drop, "torch": torch.__version__, "threads": args.threads})
    print(done.summary["ratio"], done.summary["test"])


def hidden(words: list[str]) -> list[str]:
    """The command with the reader's own folder in place of this machine's."""
    folders = ("--data-dir", "--keep", "--work", "--workdir", "--out")
    return ["DIR" if i and words[i - 1] in folders else word for i, word in enumerate(words)]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(RECOVERY))
    parser.add_argument("dataset", choices=["mnist"])
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the IDX files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-drop", type=float, default=0.0, help="percentage points of validation accuracy")
    parser.add_argument("--minutes", type=float, help="time limit of the search")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="leave the delivered files in this folder")
    parser.add_argument("--workdir", type=Path, help="log and resume here")
    args = parser.parse_args()
    args.minutes = args.minutes or MINUTES[args.network]
    return args


if __name__ == "__main__":
    main()
