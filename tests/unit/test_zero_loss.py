"""Study ``zero-loss``: a record holds the one point that was chosen on validation data, with its certificate."""

import sys
from pathlib import Path

from taut.bench.data import load
from taut.bench.networks import build
from taut.bench.recipes import train
from taut.budget import Recovery
from taut.records import read_records


def test_one_record_a_drop_and_none_twice(scripts, monkeypatch, tmp_path):
    import zero_loss

    recipe = {"batch_size": 64, "augment": "shift1", "epochs": 6, "lr": 6e-3, "schedule": "onecycle"}
    digits = train(build("digits-cnn"), load("digits"), seed=0, threads=1, **recipe)
    monkeypatch.setattr(zero_loss, "trained", lambda *_: digits)
    monkeypatch.setitem(zero_loss.RECIPES, ("digits-cnn", "digits"), recipe)
    monkeypatch.setitem(zero_loss.RECOVERY, "digits-cnn", Recovery(epochs=3, first=0.1))
    out, keep = tmp_path / "records.jsonl", tmp_path / "kept"
    monkeypatch.setattr(sys, "argv", ["zero_loss.py", "--data-dir", "/secret"])
    arguments = {
        "network": "digits-cnn", "dataset": "digits", "data_dir": None, "seed": 0, "minutes": 0.05, "threads": 1, "keep": keep,
        "out": out,
    }  # fmt: skip
    for drops in ([5.0], [5.0, 20.0]):
        monkeypatch.setattr(zero_loss, "arguments", lambda drops=drops: type("Args", (), arguments | {"drops": drops}))
        zero_loss.main()
    found = read_records(out)
    assert [record["setting"]["max_drop"] for record in found] == [5.0, 20.0]
    for record in found:
        drop = record["setting"]["max_drop"]
        assert record["baseline"]["metric_val"] - record["metric_val"] <= drop / 100
        assert record["bytes"] == (Path(keep) / f"digits-cnn-s0-{drop:g}" / "model.taut").stat().st_size
        low, high = record["test"]["difference_interval"]
        assert low <= record["test"]["difference"] <= high
        assert record["ratio"]["bytes"] > 1 and record["setting"]["reference"] in ("as trained", "trained on")
        assert "/secret" not in record["command"]
