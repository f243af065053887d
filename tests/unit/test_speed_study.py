"""Study ``speed``: what its records say of what was timed."""

import sys

import pytest

from taut.errors import BudgetError
from taut.latency import Timing
from taut.records import read_records


@pytest.fixture
def speed(scripts, monkeypatch):
    import speed

    monkeypatch.setattr(speed, "TIMING", Timing(repeats=5, warmup=1, min_seconds=2e-4, limit=2.0))
    monkeypatch.setattr(speed, "ROUNDS", 3)
    monkeypatch.setattr(speed, "BATCHES", (1,))
    return speed


def run(speed, monkeypatch, out, *more):
    monkeypatch.setattr(sys, "argv", ["speed.py", "fashion-cnn", "--levels", "4", "--out", str(out), *more])
    speed.main()
    return read_records(out) if out.exists() else []


def test_a_record_holds_what_was_removed_and_what_it_brought(speed, monkeypatch, tmp_path):
    ways = ["--ways", "narrowed", "low rank for MACs"]
    records = run(speed, monkeypatch, tmp_path / "speed.jsonl", *ways)
    assert [r["method"] for r in records] == ["narrowed", "low rank for MACs"]
    for r in records:
        setting = r["setting"]
        assert setting["mac_ratio"] == pytest.approx(r["baseline"]["macs"] / r["macs"]) and setting["mac_ratio"] > 2.5
        assert setting["share"] == pytest.approx(setting["speedup"] / setting["mac_ratio"])
        assert setting["speedup_low"] <= setting["speedup"] <= setting["speedup_high"]
        assert r["bytes"] < r["baseline"]["bytes"] and r["latency_ms"] > 0
    assert run(speed, monkeypatch, tmp_path / "speed.jsonl", *ways) == records, "a point that is there is not measured again"


def test_a_level_that_no_rank_reaches_has_no_record(speed, monkeypatch, tmp_path, capsys):
    def refuses(*_):
        raise BudgetError("cannot be met")

    monkeypatch.setitem(speed.WAYS, "low rank for time", refuses)
    assert run(speed, monkeypatch, tmp_path / "speed.jsonl", "--ways", "low rank for time") == []
    assert "cannot be met" in capsys.readouterr().out


def test_the_table_has_a_row_a_way_and_level_and_tells_what_is_missing(scripts):
    import speed_tables

    def record(way, level, batch, speedup):
        setting = {"level": level, "batch": batch, "mac_ratio": 2 * speedup, "speedup": speedup, "share": 0.5}
        more = {"speedup_low": speedup - 1, "speedup_high": speedup + 1, "speedup_torch": 1.25}
        return {"method": way, "setting": setting | more}

    records = [record("a", 4.0, 1, 3.0), record("a", 2.0, 1, 1.5), record("a", 2.0, 32, 1.75)]
    assert speed_tables.table(records).splitlines()[2:] == [
        "| a | 2× | 1.50× <small>0.50–2.50</small> for 3.00× (0.50) | 1.25× "
        "| 1.75× <small>0.75–2.75</small> for 3.50× (0.50) | 1.25× |",
        "| a | 4× | 3.00× <small>2.00–4.00</small> for 6.00× (0.50) | 1.25× | — | — |",
    ]
