"""The settings a layer can move to, what each costs and loses, and which to take within a radius."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from taut.budget.loss_model import LossModel
from taut.compressors.base import Code, Compressor, Stats
from taut.errors import LayerError
from taut.fronts import Option, allocate, convex_front
from taut.layers import Layer

Price = Callable[[Code, Layer], float]


@dataclass(frozen=True)
class Site:
    """A layer at the present point of the search: its weight, its present option, and the options evaluated so far."""

    layer: Layer
    weight: Tensor
    stay: Option
    known: dict[str, Option] = field(default_factory=dict)


def evaluate_option(site: Site, method: Compressor, model: LossModel, price: Price) -> Option:
    """What a method would cost and lose at this layer; evaluated once."""
    key = repr(method)  # every digit of the setting
    if key not in site.known:
        name = site.layer.name
        stats: Stats = model.stats(name)
        code = method.compress(site.weight, stats)
        change = model.change(name, site.weight, code.decompress())
        site.known[key] = Option(method, price(code, site.layer), change, type(code).module is not Code.module)
    return site.known[key]


def options(
    site: Site, methods: Sequence[Compressor], model: LossModel, price: Price, *, depth: int = 10, barred: Container[str] = ()
) -> list[Option]:
    """The cheaper settings of a layer: for each method, up to ``depth`` rungs below the present cost; only the convex front.

    Cost falls along a ladder, so the first rung that is cheaper than the present setting is found by bisection. ``barred``: the
    settings (as text) that are out of question.
    """
    found = [site.stay]
    for method in methods:
        free = [rung for rung in rungs(method, site.layer)[0] if str(rung) not in barred]
        start = _first_cheaper(site, free, model, price)
        found += [evaluate_option(site, rung, model, price) for rung in free[start : start + depth]]
    return convex_front(found)


def rungs(method: Compressor, layer: Layer) -> tuple[list[Compressor], str]:
    """The settings on a method's ladder that the layer can take, from dense to cheapest; if there are none, why.

    A method stands for its whole ladder: that the setting it was given with does not suit the layer says nothing of the others.
    """
    try:
        ladder = method.ladder(layer.weight.shape)
    except LayerError as error:
        return [], method.refuses(layer) or str(error)
    free = [rung for rung in reversed(ladder) if rung.refuses(layer) is None]
    return free, "" if free else (ladder[0] if ladder else method).refuses(layer) or f"{method} has no settings for it"


def _first_cheaper(site: Site, rungs: Sequence[Compressor], model: LossModel, price: Price) -> int:
    low, high = 0, len(rungs)
    while low < high:
        middle = (low + high) // 2
        if evaluate_option(site, rungs[middle], model, price).cost < site.stay.cost:
            high = middle
        else:
            low = middle + 1
    return low


__all__ = ["Option", "Price", "Site", "allocate", "convex_front", "evaluate_option", "options", "rungs"]
