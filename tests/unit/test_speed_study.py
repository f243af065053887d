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
