"""Choosing settings by validation data."""

import pytest
from laws import selection_laws as laws

from taut.errors import TautError
from taut.selection import choose, matching


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("law", [laws.check_best, laws.check_blind, laws.check_shared, laws.check_apart])
def test_laws(law, seed):
    law(choose, seed)


def test_of_a_metric_that_is_better_when_smaller_the_smallest_mean_is_kept():
    runs = [{"setting": {"k": k}, "metric_val": k / 10} for k in (3, 2, 4)]
    assert [r["metric_val"] for r in choose(runs, ["k"], maximize=False)] == [0.2]


def test_records_without_the_knob_stay():
    plain = {"training": "plain", "setting": {"level": 2}, "metric_val": 0.5}
    assert plain in choose([plain, *laws.table(0)], ["strength"])


def test_an_unknown_knob_says_which_there_are():
    with pytest.raises(TautError, match="no record has a setting called 'strenght'; they have level, strength"):
        choose(laws.table(0), ["strenght"])


def test_matching_looks_at_records_and_settings():
    records = laws.table(0)
    found = matching(records, {"method": ["prune"], "level": ["10"], "training": ["l1 0.1", "l1 0.3"]})
    assert len(found) == 6
    assert all(r["setting"]["level"] == 10 for r in found)
    assert matching(records, {"method": ["share"]}) == []
