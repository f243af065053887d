"""Study ``text``: a language model taken the whole way, from trained weights to a small file and a graph that runs.

    python benchmarks/baselines.py char-transformer python-source           first, if the baseline is not there
    python benchmarks/text.py --increase 1

Starts from the committed baseline of ``char-transformer``, which foretells the source code of Python's own modules character by
character. Nothing is trained: rate-aware quantization looks at 512 texts, and the search goes on while the loss per character on
validation files is at most ``--increase`` percent above the baseline's. The point is chosen on validation data; test files are
looked at once, for the network that was written, read back and exported. One record in ``benchmarks/results/text.jsonl``: bytes
of the whole file, loss and accuracy per character on both, the graph's bytes and the time of a pass in ONNX Runtime beside the
original's. The text is that of the Python that runs, which ``python`` names.
"""

import argparse
import platform
import shlex
import sys
import tempfile
from itertools import islice
from pathlib import Path

import torch
from baselines import trained
from first_path import hidden
from searches import teller

from taut.bench.data import Batches, load
from taut.bench.networks import build
from taut.bench.recipes import evaluate
from taut.bench.splits import Splits
from taut.budget import Budget, compress
from taut.budget.run import Result
from taut.compressors import RateQuantize
from taut.deliver import deliver
from taut.records import append_record, read_records

RESULTS = Path(__file__).parent / "results" / "text.jsonl"
NETWORK, DATASET = "char-transformer", "python-source"
TEXTS = 512
"""Examples that the quantizer looks at, of 128 characters each."""
LABELS = {"study": "text", "network": NETWORK, "dataset": DATASET, "training": "plain"}


def search(args: argparse.Namespace, splits: Splits) -> Result:
    """The smallest file whose loss per character is within the percentage."""
    network = trained(NETWORK, DATASET, args.seed)
    before = evaluate(network, splits.val)[0]
    print(f"baseline: {before:.4f} nats a character on validation files", flush=True)
    batches = list(islice(Batches(splits.train, 32, seed=args.seed), TEXTS // 32))

    return compress(
        network, batches, Batches(splits.val, 128, shuffle=False), Budget(loss_increase=args.increase / 100 * before),
        methods=[RateQuantize(by="loss")], recover=False, seed=args.seed, time_limit=60 * args.minutes, progress=teller("loss"),
        labels=LABELS, workdir=args.work,
    )  # fmt: skip


def record(args: argparse.Namespace, result: Result, splits: Splits) -> dict:
    """What is written, measured as it is read back."""
    command = shlex.join(["python", "benchmarks/text.py", *hidden(sys.argv[1:])])
    val, test = (Batches(part, 128, shuffle=False) for part in (splits.val, splits.test))
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        done = deliver(result, folder, build(NETWORK), val, test=test, command=command, labels=LABELS)
        chosen = [line for line in read_records(folder / "curve.jsonl") if line.get("best")][-1]
    losses = {"baseline": evaluate(result.original, splits.test)[0], "compressed": evaluate(result.model, splits.test)[0]}
    return chosen | {
        "setting": {"increase": args.increase, "plan": chosen["setting"]}, "ratio": done.summary["ratio"], "loss_test": losses,
        "onnx_bytes": {name: done.summary[name]["onnx_bytes"] for name in losses}, "latency_batch": 1,
        "search_seconds": max(point.seconds for point in result.curve), "texts": TEXTS, "python": platform.python_version(),
        "torch": torch.__version__, "threads": args.threads,
    }  # fmt: skip


def main() -> None:
    """Search, deliver, and append the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--increase", type=float, default=1.0, help="percent of the loss per character that may be added")
    parser.add_argument("--seed", type=int, default=0, help="of the baseline")
    parser.add_argument("--minutes", type=float, default=60, help="time limit of the search")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="where an interrupted search goes on")
    parser.add_argument("--keep", type=Path, help="leave the delivered files in this folder")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    splits = load(DATASET)
    found = record(args, search(args, splits), splits)
    append_record(args.out, found)
    print(found["ratio"], found["loss_test"], found["test"])


if __name__ == "__main__":
    main()
