"""Entropy-penalised training of all layers onto grids at once, towards a size."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from taut.budget.finish import USUAL, finish
from taut.budget.looks import Looks
from taut.budget.rate import FIRST_PRICE, RateControl
from taut.budget.trial import Plan, Setup, Trial, own_layers, put_all, round_seed, settle, train_round
from taut.compressors import Chain, Codebook, Prune, Quantize
from taut.compressors.base import Compressor
from taut.layers import bake, find_layers
from taut.measure import evaluate
from taut.parametrizations import Entropy
from taut.reparametrize import Wrapped, wrap


def attempt(
    setup: Setup, how: Entropy, dense: nn.Module, target: float, step: int, price: float = 0.0,
    control: type[RateControl] = RateControl,
) -> tuple[Trial, float]:  # fmt: skip
    """One training from ``dense`` towards a file of ``target`` bytes, measured as it would ship; and the last price of a bit.

    ``price``: the first one, 0 for none yet. Of the ends of the last epochs, when the size is about right, the best is taken.
    """
    assert setup.recovery is not None
    model = copy.deepcopy(dense)
    training = wrap(model, dict.fromkeys(own_layers(model), how))
    penalty = control(training, target, lambda: setup.cost(_stored(training)), price or FIRST_PRICE)
    looks = Looks(setup, lambda: _measured(setup, training), setup.recovery.epochs)
    train_round(setup, model, setup.recovery, round_seed(setup, step, 0), penalty, looks)
    return looks.best(), penalty.price


def _measured(setup: Setup, training: Wrapped) -> Trial:
    """A network in training as it would ship now; what is trained stays as it is."""
    present, plan = _ended(copy.deepcopy(training))
    shipped = settle(setup, put_all(present, plan, None))
    return Trial(present, shipped, plan, evaluate(shipped, setup.val, setup.objective), setup.cost(shipped))


def _ended(training: Wrapped) -> tuple[nn.Module, Plan]:
    """The network with plain weights on their grids, and what stores each of them."""
    names = list(training.layers)
    present = bake(training.finalize())
    layers = find_layers(present)
    return present, {name: setting(layers[name].weight.detach()) for name in names}


def _stored(training: Wrapped) -> nn.Module:
    """A copy of a network in training, as it would be stored now."""
    stored = put_all(*_ended(copy.deepcopy(training)), None)
    finish(stored, USUAL)
    return stored


def setting(weight: Tensor, most: int | None = None, by: str = "magnitude") -> Compressor:
    """The compressor that stores the nonzeros of a weight on a codebook: of all their values, exactly, or of ``most`` at most.

    Example:
        >>> import torch
        >>> weight = torch.tensor([0.0, 0.5, -0.5, 0.0, 1.0])
        >>> code = setting(weight).compress(weight)
        >>> torch.equal(code.decompress(), weight), code.values.centroids.tolist()
        (True, [-0.5, 0.5, 1.0])
    """
    nonzero = weight[weight != 0]
    if not len(nonzero):
        return Quantize(step=1.0)
    k = min(len(nonzero.unique()), most or len(nonzero))
    return Chain(Prune(density=len(nonzero) / weight.numel()), Codebook(k=k, by=by, keep_zero=False))
