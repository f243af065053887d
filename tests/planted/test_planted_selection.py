"""Planted faults of choosing settings: each turns its law red."""

from statistics import fmean

import pytest
from laws import selection_laws as laws

from taut.selection import choose


def by_test(records, knobs):
    swapped = [{**r, "metric_val": r["metric_test"], "was": r["metric_val"]} for r in records]
    return [{**r, "metric_val": r["was"]} for r in choose(swapped, knobs)]


def by_the_best_run(records, knobs):
    """The luckiest seed decides."""
    best = {}
    for r in records:
        key = (r["training"].split()[0], r["setting"]["level"])
        best[key] = max(best.get(key, r), r, key=lambda x: x["metric_val"])
    lucky = {key: r["setting"]["strength"] for key, r in best.items()}
    kept = [r for r in records if lucky[r["training"].split()[0], r["setting"]["level"]] == r["setting"]["strength"]]
    return choose(kept, knobs)


def by_all_runs(records, knobs):
    """Each strength's own mean, whatever seeds it has."""
    tried = {}
    for r in records:
        runs = tried.setdefault((r["training"].split()[0], r["setting"]["level"]), {})
        runs.setdefault(r["setting"]["strength"], []).append(r)
    best = [max(runs.values(), key=lambda found: fmean(r["metric_val"] for r in found)) for runs in tried.values()]
    return choose([r for found in best for r in found], knobs)


@pytest.mark.parametrize(
    ("law", "fault"),
    [
        (laws.check_best, by_test),
        (laws.check_best, by_the_best_run),
        (laws.check_blind, by_test),
        (laws.check_apart, by_the_best_run),
        (laws.check_shared, by_the_best_run),
        (laws.check_shared, by_all_runs),
    ],
)
def test_planted(law, fault):
    with pytest.raises(AssertionError):
        for seed in range(20):
            law(fault, seed)
