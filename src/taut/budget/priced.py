"""A network as it was trained, with fewer values: on grids, at the highest price of a bit that its budget allows, or shared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from taut.budget.grids import setting
from taut.budget.looks import Looks
from taut.budget.loss_model import LossModel, fit
from taut.budget.trial import Plan, Setup, Trial, measured, nearly, own_layers, put_all, rank, train_round
from taut.compressors import RateQuantize
from taut.layers import find_layers

FIRST, FIRST_BY_MAGNITUDE = 2.0**-11, 0.05
"""The first price of a bit: by loss as a part of the mean over weights of ``h w^2 / 2``, what one weight is worth."""
COARSE, CANDIDATES = 6, 14
"""Steps to the price at most, and prices that are measured at most, in all."""
WIDE, FINE = 2.0, 1.2
"""The factor between two prices on the way there, and from there on."""
VALUES = (16, 12, 8)
"""How many values the weights of a layer share, where that is tried; the first are trained too."""
SHARING = 20
"""The most epochs in which they are: there are few of them, and they begin close to their best."""
ABOVE = 1.1
"""A file may be larger than the size aimed at by this factor."""
COARSEST = 0.8
"""A file below this part of the usual one's size says little of how many weights a smaller one is to have: a loose budget holds
coarse values of many weights, but at the same size fewer weights of finer values lose less (trials on LeNet-300-100)."""


def fewer_values(setup: Setup, model: nn.Module, target: float, seed: int) -> Trial:
    """The best of some networks that are this one with fewer values: the smallest in budget, else the nearest to it; of those of
    about ``target`` bytes or less, where there are any. The rest are beside it, as its ``others``.

    By :class:`~taut.compressors.RateQuantize` at several prices of a bit, and by Fisher-weighted k-means, as the values are and
    trained. The first is smaller where inputs go together, as the pixels of an image do: the weights that are left make up for
    the error of those before. The second where few weights are left, each of which matters (rough trials on both LeNets).
    """
    how = RateQuantize(by="loss")
    known = what_is_known(setup, how, model)

    def tried(plan: Plan) -> Trial:
        return measured(setup, model, put_all(model, plan, known), plan)

    found = [tried(shared(model, values)) for values in VALUES]
    plan = shared(model, VALUES[0])
    found.append(_trained(setup, model, put_all(model, plan, known), plan, seed))
    found += _by_price(setup, lambda price: tried(at_price(how, model, price)), first_price(how, model, known), ABOVE * target)
    small = [trial for trial in found if trial.cost <= ABOVE * target] or [min(found, key=lambda trial: trial.cost)]
    best = max(small, key=lambda trial: rank(setup, trial))
    return replace(best, others=tuple(trial for trial in found if trial is not best))


def usual_cost(trial: Trial) -> float:
    """What the weights of a network of :func:`fewer_values` take, by which the number of those of a smaller one is reckoned."""
    usual = max((other.cost for other in trial.others if not _rated(other)), default=0.0)
    return max(trial.cost, COARSEST * usual)


def _rated(trial: Trial) -> bool:
    return any(isinstance(method, RateQuantize) for method in trial.plan.values())


def _trained(setup: Setup, model: nn.Module, coded: nn.Module, plan: Plan, seed: int) -> Trial:
    """The network with its shared values trained for a fourth of a round: the best of its last epochs."""
    assert setup.recovery is not None
    epochs = min(SHARING, max(1, setup.recovery.epochs // 4))
    looks = Looks(setup, lambda: measured(setup, model, coded, plan), epochs)
    train_round(setup, coded, replace(setup.recovery, epochs=epochs, lr=setup.recovery.lr / 3), seed, watch=looks)
    return looks.best()


def _by_price(setup: Setup, tried: Callable[[float], Trial], price: float, most: float) -> list[Trial]:
    """Networks at prices around the highest that is low enough: in budget, or else for a file that is still larger than ``most``.

    From there on up to a price that has clearly lost too much: a metric goes up and down by a few samples.
    """
    found = {price: tried(price)}

    def low_enough(price: float) -> bool:
        return found[price].cost > most or setup.budget.holds(setup.baseline, found[price].evaluation)

    for _ in range(COARSE):
        other = price * WIDE if low_enough(price) else price / WIDE
        if other in found:
            break
        price = other
        found[price] = tried(price)
    price = max(filter(low_enough, found), default=price)
    while len(found) < CANDIDATES and (low_enough(price) or nearly(setup, found[price])):
        price *= FINE
        found[price] = tried(price)
    return list(found.values())


def shared(model: nn.Module, values: int) -> Plan:
    """What stores the nonzero weights of each layer on so many values."""
    layers = find_layers(model)
    return {name: setting(layers[name].weight.detach(), values, by="fisher") for name in own_layers(model)}


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
