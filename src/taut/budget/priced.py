"""A network as it was trained, on grids at the highest price of a bit that its budget allows."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from taut.budget.loss_model import LossModel, fit
from taut.budget.trial import Plan, Setup, Trial, measured, put_all, rank
from taut.compressors import RateQuantize
from taut.layers import find_layers

FIRST, FIRST_BY_MAGNITUDE = 2.0**-11, 0.05
"""The first price of a bit: by loss as a part of the mean over weights of ``h w^2 / 2``, what one weight is worth."""
CANDIDATES = 8
"""Prices that are measured at most."""
WIDE, CLOSE = 2.0, 1.1
"""Prices go up or down by this factor until one is kept and one fails; then by halves of their ratio, down to this one."""
ABOVE = 1.1
"""A file may be larger than the size aimed at by this factor."""


def priced(setup: Setup, model: nn.Module, target: float) -> Trial:
    """The best of some networks that :class:`~taut.compressors.RateQuantize` makes of this one: the smallest in budget, else the
    nearest to it; of those of about ``target`` bytes or less, where there are any.

    What the network lost on its way is not lost again: weights are rounded one after the other, and those that are left make up
    for the error of those before, on the inputs that they see.
    """
    how, low, high = RateQuantize(by="loss"), 0.0, 0.0
    known, found = what_is_known(setup, how, model), list[Trial]()
    first = first_price(how, model, known)
    while len(found) < CANDIDATES and not (low and high and high <= CLOSE * low):
        price = following(low, high, first, WIDE)
        plan = at_price(how, model, price)
        found.append(measured(setup, model, put_all(model, plan, known), plan))
        if found[-1].cost > ABOVE * target or setup.budget.holds(setup.baseline, found[-1].evaluation):
            low = price
        else:
            high = price
    small = [trial for trial in found if trial.cost <= ABOVE * target] or [min(found, key=lambda trial: trial.cost)]
    return max(small, key=lambda trial: rank(setup, trial))


def following(low: float, high: float, first: float, wide: float) -> float:
    """The price to measure next, between the highest one that is low enough and the lowest one that is not; 0: none yet.

    Example:
        >>> following(0, 0, 1.0, 2), following(1.0, 0, 1.0, 2), following(0, 1.0, 1.0, 2), following(1.0, 4.0, 1.0, 2)
        (1.0, 2.0, 0.5, 2.0)
    """
    return (low * high) ** 0.5 if low and high else low * wide or high / wide or first


def at_price(how: RateQuantize, model: nn.Module, price: float) -> Plan:
    """Every layer that can be on a grid, at one price."""
    method = replace(how, price=price)
    return {name: method for name, layer in find_layers(model).items() if method.refuses(layer) is None}


def what_is_known(setup: Setup, how: RateQuantize, model: nn.Module) -> LossModel:
    """The curvature of the loss and the moments of every layer's inputs, of the training data if there is any."""
    if not how.needs_stats():
        return LossModel({})
    data = setup.train if setup.train is not None else setup.val
    return fit(model, data, setup.objective, seed=setup.seed, inputs=True)


def first_price(how: RateQuantize, model: nn.Module, known: LossModel) -> float:
    """A price that is likely to be near the right one."""
    if not known.curvature:
        return FIRST_BY_MAGNITUDE
    weights = {name: layer.weight.detach().double() for name, layer in find_layers(model).items()}
    worth = sum(float((known.curvature[n].double() * w.square()).sum()) / 2 for n, w in weights.items() if n in known.curvature)
    return FIRST * worth / sum(w.numel() for w in weights.values()) or FIRST
