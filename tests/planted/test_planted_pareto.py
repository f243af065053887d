"""Fronts that are wrong in the ways a front goes wrong: the law must see each."""

import pytest
from laws.pareto_laws import check_front

from taut.records import number, pareto

POINTS = [
    {"bytes": b, "metric_val": m, "id": i}
    for i, (b, m) in enumerate([(3, 0.9), (2, 0.9), (1, 0.5), (2, 0.9), (5, 0.99), (4, None)])
]


def with_ties(points, x, y):
    """Keeps a dearer point that is only as good."""
    able = [p for p in points if number(p, x) is not None and number(p, y) is not None]
    return sorted((p for p in able if not any(q[x] < p[x] and q[y] > p[y] for q in able)), key=lambda p: p[x])


def best_only(points, x, y):
    return pareto(points, x, y)[-1:]


def unsorted(points, x, y):
    return pareto(points, x, y)[::-1]


def for_a_loss(points, x, y):
    return pareto(points, x, y, maximize=False)


def test_the_law_holds():
    check_front(pareto, POINTS)


@pytest.mark.parametrize("broken", [with_ties, best_only, unsorted, for_a_loss])
def test_the_law_turns_red(broken):
    with pytest.raises(AssertionError):
        check_front(broken, POINTS)
