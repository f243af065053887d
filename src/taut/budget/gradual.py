"""The gradual stage of the search: weights removed little by little during one long training, by what the loss says of each."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from taut.apply import apply
from taut.budget.priced import fewer_values, usual_cost
from taut.budget.trial import Setup, Trial, own_layers, round_seed, train_round
from taut.compressors.base import Compressor
from taut.compressors.coded import Factored
from taut.errors import TautError
from taut.layers import Layer, find_layers
from taut.numeric.significance import beside, log_odds
from taut.objective import inputs_of
from taut.shrink import remove_zeros

BITS_OF_VALUE, BITS_OF_BIAS = 3.5, 7.0
"""Of a weight's value, without its place, and of a bias, that stay."""
BYTES_PER_WEIGHT = 0.9
"""Of a weight that stays, before a file says better: its place and its value."""
EVERY = 1e-3
"""The part of the training between two removals: many small ones, so that others can take over."""
MEMORY = 0.998
"""How much of the mean squared gradient a step keeps: less is noise, which removes the wrong weights."""
AGAIN = 20
"""Removals between two looks at what the places cost."""
WIDTHS = 8
"""What widths are multiples of: runtimes take longer for 63 channels than for 64."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gradual:
    """Remove weights gradually during training, and give the rest few values: part of ``methods`` for :func:`taut.compress`.

    What goes next are the weights with the least ``w^2 E[g^2]`` over what they take in the file: the diagonal Fisher estimate of
    the loss of removing them (Theis et al. 2018, arXiv 1801.05787, eq. 8), taken as the training goes, for each bit. All layers
    are one ranking, biases too. The number of weights falls geometrically up to the part ``until`` of the training, at a full
    learning rate; then those that are left are trained as it falls. A weight costs less beside others, and in rows and columns
    that have many (:func:`taut.numeric.significance.log_odds`). Neurons and filters that nothing reads any more, or that read
    nothing, go. Then all layers are put on grids at the highest price of a bit that the budget allows (:class:`RateQuantize`), or
    on some values that each layer's weights share, whichever is better. Rounds of recovery should be long: 30 epochs and more.

    ``within``: layers, by name or pattern, that are first put into a set, and the parts of their codes take the weight's place:
    with :class:`taut.compressors.Pool` blocks of inputs are removed, not single inputs, each at the cost of one
    place in the file.

    Example:
        >>> Gradual(until=0.5)
        Gradual(until=0.5, within={})
    """

    until: float = 0.75
    within: Mapping[str, Compressor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.1 <= self.until < 1:
            raise TautError(f"{self}: give until from 0.1 to below 1")


class Remover:
    """Keeps removed weights at zero, and removes more: called after every step of a training with the part that is done.

    ``weights``: the tensors in training, one ranking; ``count``: how many of their entries are left from ``until`` on. A layer
    keeps one weight at least. ``bits``: of a value.
    """

    def __init__(self, weights: list[nn.Parameter], count: int, until: float, bits: float) -> None:
        self.weights, self.count, self.until, self.bits = weights, max(count, len(weights)), until, bits
        self.left = [(w.detach() != 0).to(w) for w in weights]
        self.first = sum(int(mask.sum()) for mask in self.left)
        self.squares = [torch.zeros_like(w, requires_grad=False) for w in weights]
        self.near = [beside(w.detach()) if w.dim() > 1 else () for w in weights]
        self.costs: list[Tensor] = []
        self.then, self.turn = EVERY, 0

    @property
    def removes(self) -> bool:
        """Whether there are more weights than are to be left."""
        return self.first > self.count

    @torch.no_grad()
    def __call__(self, done: float) -> None:
        for w, square in zip(self.weights, self.squares, strict=True):
            if w.grad is not None:
                square.mul_(MEMORY).addcmul_(w.grad, w.grad, value=1 - MEMORY)
        if done >= self.then and self.removes:
            self.then = done + EVERY
            self._remove(round(self.first * (self.count / self.first) ** min(1.0, done / self.until)))
        for w, mask in zip(self.weights, self.left, strict=True):
            w.mul_(mask)

    def _remove(self, count: int) -> None:
        if self.turn % AGAIN == 0:
            self.costs = [self._places(mask != 0, near) for mask, near in zip(self.left, self.near, strict=True)]
        self.turn += 1
        parts = zip(self.weights, self.squares, self.left, self.costs, strict=True)
        worth = [w.square() * square * mask / cost for w, square, mask, cost in parts]
        together = torch.cat([value.reshape(-1) for value in worth])
        least = together.kthvalue(max(1, together.numel() - count)).values
        for mask, value in zip(self.left, worth, strict=True):
            left = value > torch.minimum(least, value.max() * 0.999)
            if bool(left.any()):  # a layer that the loss says nothing of yet
                mask.copy_(left)

    def _places(self, left: Tensor, near: tuple[int, ...]) -> Tensor:
        """The bits that each weight takes more than a zero in its place."""
        if not near or not bool(left.any()):
            return torch.full_like(left, BITS_OF_BIAS, dtype=torch.float32)
        return (self.bits - log_odds(left, near)[0]).clamp(min=1.0)


def attempt(setup: Setup, how: Gradual, dense: nn.Module, target: float, step: int, price: float = 0.0) -> tuple[Trial, float]:
    """One training from ``dense`` to about as many weights as a file of ``target`` bytes has; and the bytes a weight took.

    ``price`` is what a weight took in the file before, 0 if there was none.
    """
    assert setup.recovery is not None
    model = _begin(dense, how)
    names = own_layers(model)
    layers = {name: layer for name, layer in find_layers(model).items() if name in names}
    weights = _removable(layers)
    count = round(target / (price or BYTES_PER_WEIGHT))
    remover = Remover(weights, count, how.until, BITS_OF_VALUE)
    seed, recovery = round_seed(setup, step, 0), setup.recovery
    if remover.removes:
        recovery = replace(recovery, hold=how.until)
    else:  # a size that is trained on
        recovery = replace(recovery, epochs=max(1, recovery.epochs // 4), lr=recovery.lr / 4)
    train_round(setup, model, recovery, seed, project=remover)
    model = narrower(model, inputs_of(next(iter(setup.val))))
    weights = _removable({name: layer for name, layer in find_layers(model).items() if name in names})
    trial = fewer_values(setup, model, target, seed)
    return trial, usual_cost(trial) / max(1, sum(int((w != 0).sum()) for w in weights))


def _begin(dense: nn.Module, how: Gradual) -> nn.Module:
    """A copy with the layers of ``how.within`` in their sets, where they are not yet."""
    if not how.within or any(isinstance(module, Factored) for module in dense.modules()):
        return copy.deepcopy(dense)
    return apply(dense, how.within)


def narrower(model: nn.Module, example: Any) -> nn.Module:
    """Without the neurons and filters that removal has left idle: the same outputs from a faster network, in this training's end,
    in those that go on from it, and as it ships. Where a network cannot be followed it stays as it is.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> _ = net[2].weight.data[:, 5:].zero_()
        >>> narrower(net, torch.randn(2, 4))[0]
        Linear(in_features=4, out_features=8, bias=True)
    """
    try:
        return remove_zeros(model, example, round_to=WIDTHS)
    except TautError as why:
        log.info("idle units stay in their places: %s", why)
        return model


def _removable(layers: dict[str, Layer]) -> list[nn.Parameter]:
    """The weights of the layers, and their biases."""
    found = [getattr(layer.module, layer.parameter) for layer in layers.values()]
    found += [bias for layer in layers.values() if (bias := getattr(layer.module, "bias", None)) is not None]
    return [w for w in found if w.requires_grad]
