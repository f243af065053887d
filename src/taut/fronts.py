"""Sharing a loss out over layers: each layer's options on their convex front, and the best exchange of loss for cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from taut.compressors.base import Compressor


@dataclass(frozen=True)
class Option:
    """One layer at one setting (``None``: left dense): what it costs in the unit minimised, and the predicted change of loss.

    ``modular``: whether its code may put another module in the layer's place.
    """

    method: Compressor | None
    cost: float
    predicted: float
    modular: bool = False


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
