"""The demo: a network trained to be compressible on real data, compressed under a budget, shipped, and read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from torch import nn

from taut.bench import recipes
from taut.bench.data import Batches, Splits, load
from taut.bench.networks import build
from taut.budget import Budget, Recovery, Result, Shrink, compress, default_methods
from taut.curve import Point
from taut.deliver import Delivery, deliver
from taut.errors import TautError
from taut.regularizers import GroupLasso, NuclearSparseGroup
from taut.regularizers.base import Regularizer

Told = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Scale:
    """One size of the demo: what is trained, towards what, how recovery and the removal of filters go, and for how many steps."""

    network: str
    regularizers: dict[str, Regularizer | None]
    recovery: Recovery
    shrink: Shrink
    latency_batch: int
    steps: int


SHRINK = Shrink(keep=0.55, step=0.6)
"""At most three of the steps remove filters: the rest is for the file's size."""

SCALES = {
    "digits": Scale(
        "digits-cnn",
        {"out": None, "*": NuclearSparseGroup(nuclear=0.5, sparse_group=0.1, alpha=0.5)},
        recovery=Recovery(epochs=30, lr=3e-3, first=0.015),
        shrink=SHRINK,
        latency_batch=1,
        steps=6,
    ),
    "fashion-mnist": Scale(
        "fashion-cnn",
        {"out": None, "*": GroupLasso(0.03)},
        recovery=Recovery(epochs=8, lr=2e-3, first=0.028),
        shrink=SHRINK,
        latency_batch=32,
        steps=5,
    ),
}


@dataclass(frozen=True)
class Demo:
    """What :func:`run` did: the search's result, what was written, and how long training and compression took, in seconds."""

    result: Result
    delivery: Delivery
    train_seconds: float
    compress_seconds: float


def run(
    out: str | Path,
    data: str = "digits",
    data_dir: str | Path | None = None,
    seed: int = 0,
    *,
    command: str = "",
    training: Told | None = None,
    searching: Callable[[Point], None] | None = None,
) -> Demo:
    """Train, compress under ``Budget(metric_drop=0.0)``, and write the file, the graph, the curve, the page and the summary.

    ``data`` is ``"digits"`` (ships with scikit-learn) or ``"fashion-mnist"`` (60,000 images; see :func:`taut.bench.data.load`).
    ``training(epoch, epochs, loss)`` and ``searching(point)`` are called as the work goes on.

    Raises:
        TautError: a data set without a demo, or one that is not found.
    """
    if data not in SCALES:
        raise TautError(f"there is no demo for {data!r}; choose one of {', '.join(SCALES)}")
    scale, splits = SCALES[data], load(data, data_dir)
    start = monotonic()
    network = trained(scale, splits, data, seed, training)
    trained_at = monotonic()
    recipe = recipes.RECIPES[scale.network, data]
    train = Batches(splits.train, recipe["batch_size"], seed=seed, augment=recipe["augment"])
    val = Batches(splits.val, 500, shuffle=False)
    labels = {
        "study": "demo",
        "network": scale.network,
        "dataset": data,
        "training": _training(scale),
        "train_seconds": trained_at - start,
    }
    result = compress(
        network, train, val, Budget(metric_drop=0.0), methods=[scale.shrink, *default_methods("bytes")],
        recover=scale.recovery, max_steps=scale.steps, seed=seed, progress=searching, labels=labels,
    )  # fmt: skip
    compressed_at = monotonic()
    test = Batches(splits.test, 500, shuffle=False)
    delivery = deliver(
        result, out, build(scale.network, seed), val, test=test, command=command, labels=labels, batch=scale.latency_batch
    )  # fmt: skip
    return Demo(result, delivery, trained_at - start, compressed_at - trained_at)


def trained(scale: Scale, splits: Splits, data: str, seed: int, training: Told | None = None) -> nn.Module:
    """The demo's network, trained with its recipe and pulled towards low rank and few filters."""
    recipe = recipes.RECIPES[scale.network, data]
    return recipes.train(
        build(scale.network, seed), splits, **recipe, regularizers=scale.regularizers, every=10, seed=seed, progress=training
    )


def _training(scale: Scale) -> str:
    return " + ".join(str(regularizer) for regularizer in scale.regularizers.values() if regularizer is not None)
