"""What every timing of candidates must do, as plain functions of the timer, on a clock that only moves when a runner works."""

import time

import pytest

from taut.latency import Timing, ratio


class Clock:
    """A clock that moves only when a runner works; ``stolen`` is the time that other programs had."""

    def __init__(self):
        self.now = self.stolen = 0.0
        self.calls = []

    def perf_counter(self):
        return self.now

    def thread_time(self):
        return self.now - self.stolen

    def runner(self, name, seconds):
        times = iter(seconds) if isinstance(seconds, list) else None

        def run():
            self.calls.append(name)
            self.now += next(times) if times else seconds

        return run

    def replace_time(self, monkeypatch):
        monkeypatch.setattr(time, "perf_counter", self.perf_counter)
        monkeypatch.setattr(time, "thread_time", self.thread_time)
        return self


def disturbed(clock, seconds, every):
    """A runner whose every n-th call another program interrupts for far longer than it takes."""
    count = iter(range(1, 10**6))

    def run():
        other = 50 * seconds if next(count) % every == 0 else 0.0
        clock.now += seconds + other
        clock.stolen += other

    return run


def check_undisturbed(timer, clock) -> None:
    """Calls that another program interrupts do not make a candidate slow."""
    for every in (2, 3, 5):
        runners = {"a": disturbed(clock, 0.01, every), "b": disturbed(clock, 0.01, 10**5)}
        found = timer(runners, Timing(repeats=12, warmup=0))
        assert (found["a"].median_ms, found["a"].high_ms) == pytest.approx((10, 10))
        assert (found["a"].disturbed > 0, found["b"].disturbed) == (True, 0)
        assert ratio(found, "a", "b") == pytest.approx(1)


def check_drift_hits_all_alike(timer, clock) -> None:
    """The machine slows down all the while; the same work still comes out the same."""

    def work():
        clock.now += 1e-3 * (1 + clock.now)

    found = timer({"a": work, "b": work}, Timing(repeats=40, warmup=0, min_seconds=1e-3))
    assert ratio(found, "a", "b") == pytest.approx(1, abs=0.01)
