"""Timers with a planted fault: one after the other instead of in turn; interrupted timings counted."""

import pytest
from laws.latency_laws import Clock, check_drift_hits_all_alike, check_undisturbed

from taut import latency
from taut.latency import time_in_turn


@pytest.fixture
def clock(monkeypatch):
    return Clock().replace_time(monkeypatch)


def one_after_the_other(runners, timing):
    return {name: time_in_turn({name: run}, timing)[name] for name, run in runners.items()}


def test_the_law_of_drift_can_fail(clock):
    with pytest.raises(AssertionError):
        check_drift_hits_all_alike(one_after_the_other, clock)


def test_the_law_of_interruptions_can_fail(clock, monkeypatch):
    monkeypatch.setattr(latency, "DISTURBED", float("inf"))
    with pytest.raises(AssertionError):
        check_undisturbed(time_in_turn, clock)
