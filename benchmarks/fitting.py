"""One training of study ``train-taut``, and the fine-tuning of what compression left."""

import copy
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

from families import Trained
from plans import Plan
from torch import Tensor, nn
from trainings import EVERY, Training

from taut.bench.data import Batches, Splits
from taut.bench.recipes import Progress, train
from taut.layers import find_layers
from taut.regularizers import Nuclear, NuclearSparseGroup, TrainedRank
from taut.regularizers.base import Regularizer
from taut.reparametrize import Wrapped, wrap

BATCH = 128


def fit(
    plan: Plan, how: Training, model: nn.Module, splits: Splits, epochs: int, seed: int, progress: Progress | None = None,
    checkpoint: Path | None = None,
) -> Trained:  # fmt: skip
    """One way of training. The last layer has no penalty: its rows are the classes."""
    names, skeleton = list(find_layers(model)), copy.deepcopy(model)
    training, penalty = None, None
    if how.parametrization is not None:
        training = wrap(model, dict.fromkeys(names, how.parametrization))
        price = how.price / (len(splits.train) if how.examples else 1)
        penalty = _rising(training, price)
    regularizers, per = None, how.per
    if how.regularizer is not None:
        regularizers = {names[-1]: None, "*": seen(how.regularizer, plan.matrix)}
        if per is not None and plan.unit == "macs":
            per, regularizers["*"] = "macs", priced(regularizers["*"], model, splits.example_input)
    steps = -(-len(splits.train) // BATCH) * epochs
    train(
        model, splits, batch_size=BATCH, augment=plan.augment, optimizer="sgd", schedule="cosine", epochs=epochs, lr=plan.lr,
        weight_decay=max(how.decay, plan.decay), regularizers=regularizers, every=EVERY, per=per, seed=seed,
        warmup=steps // 10 if regularizers else 0, penalty=penalty, progress=progress, checkpoint=checkpoint,
        sizes=plan.sizes, around=None if how.around is None else partial(how.around, model),
    )  # fmt: skip
    calibration, augmented = (
        [batch for _, batch in zip(range(16), Batches(splits.train, BATCH, seed=seed, augment=augment), strict=False)]
        for augment in (None, plan.augment)
    )
    return Trained(model, training, splits, calibration, skeleton, plan.unit, plan.schemes, augmented)


def seen(regularizer: Regularizer, matrix: str) -> Regularizer:
    """The same penalty, of convolutions as the matrices that low rank will make of them."""
    if isinstance(regularizer, NuclearSparseGroup):
        return dataclasses.replace(regularizer, matrix=matrix)
    return dataclasses.replace(regularizer, view=matrix) if isinstance(regularizer, Nuclear | TrainedRank) else regularizer


def priced(regularizer: Regularizer, model: nn.Module, example: Tensor) -> Regularizer:
    """A penalty per multiply-add that is, of all layers together, what it was per weight."""
    layers = find_layers(model, example).values()
    share = sum(layer.weight.numel() for layer in layers) / sum(layer.macs for layer in layers)
    return dataclasses.replace(regularizer, **{name: share * getattr(regularizer, name) for name in regularizer.strengths})


def _rising(training: Wrapped, price: float) -> Callable[[float], Tensor]:
    """The penalty of a parametrized network, up over a third: from a random start all of it would take all weights away."""
    return lambda done: min(1.0, 3 * done) * price * training.penalty()


def tune(
    plan: Plan, model: nn.Module, splits: Splits, epochs: int, seed: int, progress: Progress | None = None
) -> nn.Module:  # fmt: skip
    """What the codes leave free, trained a little more; the same for every method.

    With Adam: factors are of all scales, which one learning rate for SGD does not suit.
    """
    return train(
        copy.deepcopy(model), splits, batch_size=BATCH, augment=plan.augment, optimizer="adam", schedule="onecycle", lr=2e-3,
        epochs=epochs, seed=seed + 1000, progress=progress,
    )  # fmt: skip
