"""The ways of training that study ``train-taut`` compares: a name, the family it is for, and what one strength means for it.

Every way has one knob, the strength, tried at the same number of values. A strength of a penalty is per weight at the first
weights (``taut.strengths.even``): one number then suits layers of all shapes. Where a plan counts multiply-adds, the penalty is
shared out by those, with the same sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from taut.layers import find_layers
from taut.parametrizations import HashedWeights, Parametrization, SparseVariationalDropout, SvdTraining, Variational
from taut.regularizers import (
    L1,
    Force,
    GroupLasso,
    HoyerSquare,
    LearnedRank,
    Nuclear,
    NuclearSparseGroup,
    SparseGroupLasso,
    TrainedRank,
)
from taut.regularizers.base import Regularizer

EVERY = 10
"""Steps between two proximal steps, for every penalty."""
DECAY = 1e-3
"""Weight decay of the pairs with l2, and of nothing else."""


@dataclass(frozen=True)
class Training:
    """One way of training at one strength.

    ``regularizer``: for all layers but the last, whose units are the classes; ``per``: how its strength is shared out.
    ``parametrization``, with what one unit of its penalty adds to the loss (``price``), in training examples if ``examples``.
    ``around``: a peer's optimizer around the one that trains. ``early``: the last part of the epochs, in which the small network
    of a level is trained on, without the penalty.
    """

    regularizer: Regularizer | None = None
    per: str | None = "params"
    decay: float = 0.0
    parametrization: Parametrization | None = None
    price: float = 0.0
    examples: bool = False
    around: Callable[[nn.Module, Optimizer], Optimizer] | None = None
    early: float = 0.0


@dataclass(frozen=True)
class Way:
    """A rival: the families of compression that it is paired with, its strengths, and the training at one.

    ``name``: what the records call the training, where another way trains in the same manner for other families.
    """

    families: tuple[str, ...]
    strengths: tuple[float, ...]
    at: Callable[[float], Training]
    name: str | None = None


def _penalty(kind: Callable[..., Regularizer], decay: float = 0.0, **more: Any) -> Callable[[float], Training]:
    return lambda strength: Training(kind(strength, **more), decay=decay)


def _decades(low: float, high: float, count: int = 4) -> tuple[float, ...]:
    step = (high / low) ** (1 / (count - 1))
    return tuple(float(f"{low * step**i:.2g}") for i in range(count))


def _torchao(strength: float) -> Training:
    """The outside peer: torchao's prototype of regularized training, its nuclear norm on all layers but the last.

    Its threshold is the strength times the sum of the learning rates so far, on weights that are kept beside the shrunk ones.
    """

    def around(model: nn.Module, stepper: Optimizer) -> Optimizer:
        from torchao.prototype.pat.optim import PruneOptimizer  # not needed by the other ways

        weights = [layer.weight for layer in find_layers(model).values()][:-1]
        plain = stepper.param_groups[0]
        plain["params"] = [p for p in plain["params"] if all(p is not weight for weight in weights)]
        chosen = {"prox_type": "ProxNuclearNorm", "group_type": "SVDGrouper", "prox_freq": EVERY}
        stepper.add_param_group({"params": weights, "lr": plain["lr"], "weight_decay": 0.0, **chosen})
        return PruneOptimizer(stepper, reg_lambda=strength)

    return Training(around=around)


PER_WEIGHT = _decades(1e-5, 3e-4)
"""Of penalties, in units of the loss per weight: 235,000 weights make 2.4 to 70 at the start. Chosen by trials of six epochs: the
weakest changes little, the strongest costs points."""


def _both(strength: float, early: float = 0.0) -> Training:
    return Training(NuclearSparseGroup(nuclear=strength, sparse_group=strength / 3), early=early)


_EARLY = "nuclear + sparse group, factored early"
_L2 = _decades(1e-4, 1e-2)
WAYS = {
    "nuclear + sparse group": Way(("low-rank",), PER_WEIGHT, _both),
    _EARLY: Way(("low-rank",), PER_WEIGHT, partial(_both, early=0.5)),
    "plain": Way(("low-rank", "pruning", "neurons", "random"), (0.0,), lambda _: Training()),
    "l2": Way(("low-rank", "pruning", "neurons"), _L2, lambda s: Training(decay=s)),
    "plain, narrow": Way(("narrow low-rank",), (0.0,), lambda _: Training(), name="plain"),
    "l2, narrow": Way(("narrow low-rank",), _L2, lambda s: Training(decay=s), name="l2"),
    "both, narrow": Way(("narrow low-rank",), PER_WEIGHT, _both, name="nuclear + sparse group"),
    "both, narrow, early": Way(("narrow low-rank",), PER_WEIGHT, partial(_both, early=0.5), name=_EARLY),
    "l1": Way(("low-rank", "pruning"), PER_WEIGHT, _penalty(L1)),
    "nuclear": Way(("low-rank",), PER_WEIGHT, _penalty(Nuclear)),
    "nuclear + l2": Way(("low-rank",), PER_WEIGHT, _penalty(Nuclear, decay=DECAY)),
    "force": Way(("low-rank",), _decades(1e-5, 3e-4), lambda s: Training(Force(s), per=None)),
    "trained rank pruning": Way(
        ("low-rank",), (0.99, 0.97, 0.95, 0.9), lambda s: Training(TrainedRank(3e-4, energy=s), per=None)
    ),
    "svd training": Way(
        ("low-rank",), _decades(1e-3, 1e-2), lambda s: Training(parametrization=SvdTraining(sparsity=s), price=1.0)
    ),
    # a period is an epoch of proximal steps
    "learning-compression": Way(
        ("low-rank",),
        _decades(1e-6, 3e-5),
        lambda s: Training(LearnedRank(alpha=s, strength=1e-3, growth=1.3, period=39), per=None),
    ),
    "torchao nuclear": Way(("low-rank",), _decades(3e-3, 1e-1), _torchao),
    "hoyer-square": Way(("pruning",), PER_WEIGHT, _penalty(HoyerSquare)),
    "variational": Way(
        ("pruning",), _decades(0.01, 0.1), lambda s: Training(parametrization=Variational(), price=s, examples=True)
    ),
    "sparse variational dropout": Way(
        ("pruning",),
        _decades(0.05, 1.0),
        lambda s: Training(parametrization=SparseVariationalDropout(), price=s, examples=True),
    ),
    "group lasso": Way(("neurons",), PER_WEIGHT, _penalty(GroupLasso)),
    "sparse group lasso": Way(("neurons",), PER_WEIGHT, _penalty(SparseGroupLasso)),
    # one training a level: the number of values is set before
    "hashed": Way(("hashed",), (2, 5, 10, 20, 40, 80), lambda s: Training(parametrization=HashedWeights(ratio=1 / s))),
}
