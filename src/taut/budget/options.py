"""The settings a layer can move to, what each costs and loses, and which to take within a radius."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from taut.budget.loss_model import LossModel
from taut.compressors.base import Code, Compressor, Stats
from taut.errors import LayerError
from taut.layers import Layer

Price = Callable[[Code, Layer], float]


@dataclass(frozen=True)
class Option:
    """One layer at one setting (``None``: left dense): what it costs in the unit minimised, and the predicted change of loss.

    ``modular``: whether its code may put another module in the layer's place.
    """

    method: Compressor | None
    cost: float
    predicted: float
    modular: bool = False


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


def convex_front(found: Iterable[Option]) -> list[Option]:
    """The options on the lower convex hull of (cost, predicted), from the present cost downwards; the first is the present one.

    Example:
        >>> [o.cost for o in convex_front([Option(None, 4.0, 0.0), Option(None, 3.0, 9.0), Option(None, 2.0, 1.0)])]
        [4.0, 2.0]
    """
    stay, *rest = found
    hull = [stay]
    for option in sorted(rest, key=lambda o: (-o.cost, o.predicted)):
        if option.cost >= hull[-1].cost and len(hull) > 1 and option.predicted >= hull[-1].predicted:
            continue
        # an option that is cheaper and predicted better than the last makes the last useless
        while len(hull) > 1 and (
            option.predicted <= hull[-1].predicted or _slope(hull[-2], option) <= _slope(hull[-2], hull[-1])
        ):
            hull.pop()
        if option.cost < hull[-1].cost:
            hull.append(option)
    return hull


def _slope(a: Option, b: Option) -> float:
    """Predicted loss paid for each unit of cost saved."""
    saved = a.cost - b.cost
    return (b.predicted - a.predicted) / saved if saved > 0 else float("inf")


def allocate(fronts: dict[str, list[Option]], radius: float, *, floor: float = 0.0) -> dict[str, Option]:
    """The moves to try next: the best exchange of predicted loss for cost, layer by layer, until the radius is used up.

    Greedy on convex fronts, which is the optimum of the Lagrangian (Shoham & Gersho 1988). Stops when the total cost reaches
    ``floor``. When not even the first move fits the radius, that move alone is returned: a prediction never closes the search.
    """
    chosen = dict.fromkeys(fronts, 0)
    total = sum(front[0].cost for front in fronts.values())
    used, moved = 0.0, False
    while total > floor:
        moves = [(_slope(f[chosen[n]], f[chosen[n] + 1]), n) for n, f in fronts.items() if chosen[n] + 1 < len(f)]
        if not moves:
            break
        _, name = min(moves)
        here, there = fronts[name][chosen[name]], fronts[name][chosen[name] + 1]
        used += there.predicted - here.predicted
        if used > radius and moved:
            break
        chosen[name] += 1
        total -= here.cost - there.cost
        if used > radius:
            break
        moved = True
    return {name: fronts[name][i] for name, i in chosen.items() if i}
