"""Faults planted in the search, each of which must turn a law red."""

from dataclasses import dataclass, replace

import pytest
from laws.budget_laws import (
    RESUMED,
    check_aim,
    check_allocation,
    check_front,
    check_path,
    check_probes,
    check_region,
    check_resumed,
)

from taut.budget import Budget, compress
from taut.budget.journal import Journal
from taut.budget.options import allocate, convex_front
from taut.budget.rate import RateControl
from taut.budget.search import Search
from taut.budget.trust_region import TrustRegion
from taut.cost import Ledger
from taut.curve import Curve, Point


def test_a_front_that_keeps_only_the_cheapest_is_caught():
    def cheapest(found):
        return [found[0], min(found[1:], key=lambda o: o.cost)]

    with pytest.raises(AssertionError):
        for seed in range(20):
            check_front(cheapest, seed)


def test_a_front_in_the_wrong_order_is_caught():
    with pytest.raises(AssertionError):
        check_front(lambda found: list(reversed(convex_front(found))), 0)


def test_an_allocation_beyond_the_radius_is_caught():
    with pytest.raises(AssertionError):
        for seed in range(20):
            check_allocation(lambda fronts, radius: allocate(fronts, 3 * radius), convex_front, seed)


def test_an_allocation_that_takes_layers_in_turn_is_caught():
    def in_turn(fronts, radius):
        chosen, left = {}, radius
        for name, front in fronts.items():
            best = [o for o in front[1:] if o.predicted <= left][-1:]
            if best:
                chosen[name], left = best[0], left - best[0].predicted
        return chosen or allocate(fronts, radius)

    with pytest.raises(AssertionError):
        for seed in range(20):
            check_allocation(in_turn, convex_front, seed)


def test_predictions_that_close_the_search_are_caught():
    with pytest.raises(AssertionError, match="closes the search"):
        for seed in range(20):
            check_allocation(lambda fronts, radius: allocate(fronts, radius) if radius > 1 else {}, convex_front, seed)


@dataclass(frozen=True)
class Optimist(TrustRegion):
    """Grows whether or not the step was kept."""

    def updated(self, **measured):
        return super().updated(**{**measured, "kept": True})


@dataclass(frozen=True)
class Deaf(TrustRegion):
    """Takes no account of the error of the measurement."""

    def updated(self, **measured):
        return super().updated(**{**measured, "error": 0.0})


@pytest.mark.parametrize("fault", [Optimist, Deaf])
def test_a_wrong_radius_rule_is_caught(fault):
    with pytest.raises(AssertionError):
        check_region(fault)


class _Result:
    def __init__(self, points):
        self.curve = Curve(points)


GOOD = [Point(0, 0.10, 0.90, Ledger(bytes=100)), Point(1, 0.10, 0.90, Ledger(bytes=50)), Point(2, 0.11, 0.89, Ledger(bytes=40))]


def test_the_path_law_accepts_a_path_within_budget():
    check_path(_Result(GOOD), Budget(metric_drop=0.01, loss_increase=0.01))


@pytest.mark.parametrize(
    "fault",
    [replace(GOOD[2], metric=0.88), replace(GOOD[2], loss=0.12), replace(GOOD[2], ledger=Ledger(bytes=50))],
    ids=["metric below the bound", "loss above the bound", "no cheaper"],
)
def test_a_point_that_should_not_be_kept_is_caught(fault):
    with pytest.raises(AssertionError):
        check_path(_Result([*GOOD[:2], fault]), Budget(metric_drop=0.01, loss_increase=0.01))


def test_a_search_that_ends_without_its_last_probes_is_caught(monkeypatch):
    def only_the_allocation(self, progress, fronts, floor):
        moves = allocate(fronts, progress.region.radius, floor=floor)
        return {} if frozenset((n, str(o.method)) for n, o in moves.items()) in progress.rejected else moves

    monkeypatch.setattr(Search, "_next_moves", only_the_allocation)
    with pytest.raises(AssertionError, match="never probed"):
        for seed in range(2):
            check_probes(compress, seed)


@pytest.mark.parametrize(
    ("methods", "forgotten"),
    [
        ("layer by layer", {"region": None, "rejected": set()}),
        ("all at once", {"too_small": 0.0}),
        ("one after the other", {"step": 0}),
    ],
    ids=["what was refused", "the size that failed", "the step"],
)
def test_a_resumed_search_that_forgets_is_caught(monkeypatch, tmp_path, methods, forgotten):
    whole = Journal.progress
    monkeypatch.setattr(Journal, "progress", lambda self, *args: replace(whole(self, *args), **forgotten))
    with pytest.raises(AssertionError):
        check_resumed(compress, tmp_path, RESUMED[methods])


class Blind(RateControl):
    """Pays the same for a bit whatever the size."""

    def __call__(self, done):
        price = self.log_price
        bits = super().__call__(done)
        self.log_price = price
        return bits


class Unweighed(RateControl):
    """Takes the estimate for the size of the file."""

    def __init__(self, training, target, weigh, price):
        super().__init__(training, target, lambda: float(training.penalty().detach()) / 8)


@pytest.mark.parametrize("control", [Blind, Unweighed])
def test_a_size_that_is_missed_is_caught(control):
    with pytest.raises(AssertionError, match="aimed at"):
        for target in (500.0, 700.0):
            check_aim(control, target, 0)
