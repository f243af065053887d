"""Study ``averages``: what the averages of batch norms should be taken of, when a network has changed.

    python benchmarks/averages.py resnet-20 cifar-10 --data-dir DIR         a minute
    python benchmarks/averages.py bnn-small cifar-10 --data-dir DIR

A committed baseline, with the averages that its training left; with plain averages over 4,000 training images, augmented as in
training; with those over the same images as they are. One record each, on validation data.
"""

import argparse
import copy
from pathlib import Path

import torch
from baselines import trained

from taut.bench.data import Batches, load
from taut.bench.networks import BINARY
from taut.bench.recipes import RECIPES, evaluate
from taut.deliver import machine
from taut.measure import reestimate_batchnorm
from taut.parametrizations import Binary
from taut.records import append_record
from taut.reparametrize import wrap
from taut.version import VERSION

RESULTS = Path(__file__).parent / "results" / "averages.jsonl"
BATCH, IMAGES = 250, 4000


def main() -> None:
    """Measure the network with each kind of averages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=["resnet-20", "bnn-small"])
    parser.add_argument("dataset", choices=["cifar-10"])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    splits, augment = load(args.dataset, args.data_dir), RECIPES[args.network, args.dataset]["augment"]
    whole = trained(args.network, args.dataset, args.seed)
    if args.network == "bnn-small":
        whole = wrap(whole, {BINARY: Binary()}).finalize()
    ways = {"as training left them": None, "augmented": augment, "as they are": "none"}
    for way, how in ways.items():
        model = copy.deepcopy(whole).eval()
        if how is not None:
            some = splits.train.take(IMAGES)
            reestimate_batchnorm(model, Batches(some, BATCH, seed=args.seed, augment=None if how == "none" else how))
        loss, accuracy = evaluate(model, splits.val)
        record = {
            "study": "averages", "network": args.network, "dataset": args.dataset, "training": "plain", "seed": args.seed,
            "method": way, "setting": {"images": IMAGES, "batch": BATCH}, "loss_val": loss, "metric_val": accuracy,
        }  # fmt: skip
        append_record(args.out, record | {"version": VERSION, "torch": torch.__version__, "machine": machine()})
        print(f"{way}: {accuracy:.4f}, loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
