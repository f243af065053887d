"""The ways of compressing a trained network that study ``pull-taut`` compares, each at its settings.

A way is given a :class:`Task` and one setting, and gives the coded network, or none if it cannot be had. All may train for the
same number of epochs in all, with the same loss (labels and the original network's outputs), optimizer and augmentation.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from math import inf
from typing import Any

from torch import Tensor, nn

from taut import apply
from taut.bench.data import Batches, Split, Splits
from taut.bench.recipes import train
from taut.budget import Budget, Recovery
from taut.budget.finish import finish
from taut.budget.loss_model import fit
from taut.budget.recover import recover
from taut.budget.steer import steer
from taut.budget.steering import Steering, SteerStep
from taut.budget.trial import put_all
from taut.compressors import Chain, Codebook, Compressor, Prune, Quantize
from taut.compressors.adaptive_precision import AdaptivePrecision
from taut.compressors.codebook import EntropyCodebook, LinearCodebook
from taut.compressors.hashed import Hashed
from taut.layers import bake, find_layers
from taut.learning_compression import settle
from taut.measure import reestimate_batchnorm
from taut.objective import Objective
from taut.parametrizations import HashedWeights, LossAware
from taut.parametrizations.base import Parametrization
from taut.regularizers import Distance
from taut.reparametrize import wrap
from taut.train import ProxOptimizer

DROPS = (0.0, 0.005, 0.02, 0.1)
"""What a steering may lose of the validation accuracy: the first of them at which it arrives."""
FINISH = 4
"""Of a steering's passes over the data, those that train what the codes leave free, at least; those not needed to arrive too."""


class Passes(Batches):
    """Each pass is over one of ``parts`` parts of an epoch, the next one every time."""

    def __init__(self, split: Split, parts: int, batch_size: int, seed: int, augment: str | None) -> None:
        super().__init__(split, batch_size, seed=seed, augment=augment)
        self.parts = parts

    def __len__(self) -> int:
        return -(-super().__len__() // self.parts)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        now, size = self.epoch, len(self)
        self.epoch = now // self.parts  # the same order for all parts of an epoch
        part = now % self.parts
        yield from islice(super().__iter__(), part * size, (part + 1) * size)
        self.epoch = now + 1


@dataclass
class Task:
    """A trained network, the data, and what each way may spend: ``epochs`` passes in all, each over one of ``parts`` parts of the
    training data, at the learning rate ``lr``.

    ``fresh``: the untrained network; ``recipe``: how the trained one was trained. ``log``: the last steering's measured steps.
    """

    network: nn.Module
    fresh: nn.Module
    splits: Splits
    recipe: dict[str, Any]
    epochs: int
    lr: float
    seed: int
    parts: int = 1
    log: list[SteerStep] = field(default_factory=list)
    allowed: float | None = None

    def __post_init__(self) -> None:
        size, augment = self.recipe["batch_size"], self.recipe["augment"]
        self.train = Passes(self.splits.train, self.parts, size, self.seed, augment)
        self.val = Batches(self.splits.val, 1000, shuffle=False)

    def tune(self, model: nn.Module, epochs: int, **more: Any) -> nn.Module:
        """Train what is free in ``model``, in place."""
        how = Recovery(epochs=epochs, lr=self.lr)
        recover(model, self.network, self.train, Objective(), how, seed=self.seed, deadline=inf, **more)
        return model.eval()

    def stats(self, model: nn.Module) -> Any:
        """What compressors that ask for curvature are given."""
        return fit(model, self.train, Objective(), seed=self.seed)

    def shipped(self, model: nn.Module) -> nn.Module:
        """A coded network as it ships: batch norms taken anew, vectors on short grids."""
        reestimate_batchnorm(model, self.train)
        finish(model)
        return model.eval()


Found = nn.Module | None
Make = Callable[[Any, Tensor], Compressor]
"""The compressor of one weight at a setting."""


def coded(task: Task, setting: Any, make: Make) -> Found:
    """Put every layer into its set at once, and train what the codes leave free."""
    plan = {name: make(setting, layer.weight.detach()) for name, layer in find_layers(task.network).items()}
    put = put_all(task.network, plan, task.stats(task.network))
    return task.tune(put, task.epochs)


def steered(task: Task, setting: Any, how: Steering | None = None) -> Found:
    """Steer onto the codebook; the loosest of :data:`DROPS` that is needed."""
    how = replace(
        how or Steering(), steps=task.epochs - FINISH,
        train=Recovery(epochs=1, lr=task.lr), finish=Recovery(epochs=FINISH, lr=task.lr),
    )  # fmt: skip
    plan = {"*": Codebook(k=setting, by="fisher", damping=1.0)}
    for drop in DROPS:
        found = steer(task.network, plan, task.train, task.val, Budget(metric_drop=drop), how=how, seed=task.seed)
        task.log, task.allowed = list(found.steps), drop
        if found.reached:
            return task.tune(found.model, task.epochs - FINISH - len(found.steps))
    return None


def deep_compression(task: Task, setting: Any) -> Found:
    """Prune in three stages with training between them, then a table of evenly started values for what is left (Han 2016)."""
    model, part = task.network, task.epochs // 4
    for stage in (1, 2, 3):
        pruned = apply(model, {"*": Prune(density=setting ** (stage / 3))})
        model = bake(task.tune(pruned, part))
    shared = apply(model, {"*": Chain(Prune(density=setting), LinearCodebook(k=16))})
    return task.tune(shared, task.epochs - 3 * part)


def learned(task: Task, setting: Any) -> Found:
    """Learning-compression: a growing pull to a codebook that is renewed every epoch, for two thirds of the epochs."""
    model, early = copy.deepcopy(task.network), 2 * task.epochs // 3
    every = max(1, len(task.train) // 40)
    period = len(task.train) // every
    pull = Distance(Codebook(k=setting), strength=1 / every, growth=1000 ** (1 / early), period=period)
    kept: list[ProxOptimizer] = []

    def around(optimizer: Any) -> ProxOptimizer:
        kept.append(ProxOptimizer(optimizer, model, {"*": pull}, every=every))
        return kept[0]

    train(
        model, task.splits, epochs=early // task.parts, batch_size=task.recipe["batch_size"], augment=task.recipe["augment"],
        lr=task.lr, seed=task.seed, around=around,
    )  # fmt: skip
    return task.tune(apply(model, settle(kept[0])), task.epochs - early)


def from_scratch(task: Task, setting: Any, make: Callable[[Any], Parametrization]) -> Found:
    """A network that is in its set from the first step on, trained as long as the baseline and its compression."""
    model = copy.deepcopy(task.fresh)
    names = list(find_layers(model))
    chosen = names if make is hashed else names[:-1]
    training = wrap(model, dict.fromkeys(chosen, make(setting)))
    recipe = task.recipe | {"epochs": task.recipe["epochs"] + task.epochs // task.parts, "weight_decay": 0.0}
    train(model, task.splits, seed=task.seed, **recipe)
    return training.finalize().eval()


def hashed(setting: Any) -> Parametrization:
    """Chen et al. 2015, with their one value for so many weights."""
    return HashedWeights(ratio=1 / setting)


@dataclass(frozen=True)
class Way:
    """``settings`` from the largest file to the smallest, and what makes the network at one."""

    settings: tuple[Any, ...]
    make: Callable[[Task, Any], Found]


VALUES = (16, 8, 6, 4, 3, 2)
FEW = (8, 4)


def _coded(make: Make) -> Callable[[Task, Any], Found]:
    return partial(coded, make=make)


WAYS = {
    "steering": Way(VALUES, steered),
    "k-means": Way(VALUES, _coded(lambda k, _: Codebook(k=k))),
    "k-means by curvature": Way(VALUES, _coded(lambda k, _: Codebook(k=k, by="fisher"))),
    "k-means by damped curvature": Way(VALUES, _coded(lambda k, _: Codebook(k=k, by="fisher", damping=1.0))),
    "steering, linear model": Way(FEW, partial(steered, how=Steering(model="linear"))),
    "steering, curvature alone": Way(FEW, partial(steered, how=Steering(model="curvature"))),
    "steering, no trust region": Way(FEW, partial(steered, how=Steering(radius=1e6))),
    "uniform": Way((0.25, 0.5, 1.0, 1.5, 2.0, 3.0), _coded(lambda step, w: Quantize(step=step * float(w.std())))),
    "entropy codebook": Way(
        (0.003, 0.01, 0.03, 0.06, 0.1, 0.2), _coded(lambda price, _: EntropyCodebook(price=price, by="fisher"))
    ),
    "damped entropy codebook": Way(
        (0.003, 0.01, 0.03, 0.06, 0.1, 0.2), _coded(lambda price, _: EntropyCodebook(price=price, by="fisher", damping=1.0))
    ),
    "deep compression": Way((0.3, 0.2, 0.12, 0.08, 0.05, 0.03), deep_compression),
    "learning-compression": Way(VALUES, learned),
    "adaptive precision": Way(
        (0.01, 0.02, 0.04, 0.08, 0.15, 0.3), _coded(lambda t, _: AdaptivePrecision(tolerance=t, by="fisher"))
    ),
    "hashed after training": Way((2, 8, 32, 64), _coded(lambda s, _: Hashed(ratio=1 / s))),
    "hashed": Way((2, 8, 32, 64), partial(from_scratch, make=hashed)),
    "loss-aware binary": Way((2,), partial(from_scratch, make=lambda _: LossAware())),
}

