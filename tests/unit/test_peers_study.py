"""Study ``peers``: every way ends in a file of which all that is told is measured."""

import sys

import pytest

from taut.bench.data import load
from taut.bench.networks import build
from taut.bench.recipes import evaluate, train
from taut.codec.files import load as read
from taut.records import read_records

RECIPE = {"batch_size": 64, "augment": "shift1", "epochs": 4, "lr": 6e-3, "schedule": "onecycle"}
WAYS = ("safetensors", "ONNX Runtime int8", "taut, not trained", "taut, narrowed + entropy")


@pytest.fixture
def study(scripts, monkeypatch, tmp_path):
    import peers

    monkeypatch.setitem(peers.NETWORKS, "digits", "digits-cnn")
    monkeypatch.setitem(peers.RECIPES, ("digits-cnn", "digits"), RECIPE)
    for way, settings in (("taut, not trained", (2.0,)), ("taut, narrowed + entropy", (0.05,))):
        monkeypatch.setitem(peers.WAYS, way, peers.WAYS[way].__class__(settings, peers.WAYS[way].make, "taut"))
    told = ["peers.py", "digits", "--seeds", "0", "--epochs", "4", "--keep", str(tmp_path / "kept")]
    monkeypatch.setattr(sys, "argv", [*told, "--out", str(tmp_path / "peers.jsonl"), "--ways", *WAYS])
    return peers


def test_a_record_tells_of_the_file_that_is_kept(study, tmp_path):
    study.main()
    study.main()  # nothing is run twice
    records, splits = read_records(tmp_path / "peers.jsonl"), load("digits")
    assert [r["method"] for r in records] == [*WAYS, WAYS[-1]]
    start = train(build("digits-cnn"), splits, seed=0, threads=1, **RECIPE)
    for r in records:
        value, how = r["setting"]["value"], {k: r["setting"][k] for k in ("max_drop", "width") if k in r["setting"]}
        file = tmp_path / "kept" / f"s0-{sys.modules['chains'].named(r['method'], value, how)}"
        assert file.stat().st_size == r["bytes"] and r["baseline"]["bytes"] == 4 * r["baseline"]["params"]
        assert r["latency_ms"] > 0 < r["baseline"]["latency_ms"]
        if file.suffix == ".taut":
            assert evaluate(read(file, into=build("digits-cnn")), splits.val)[1] == r["metric_val"]
            assert r["bytes"] < r["baseline"]["bytes"] / 4
    assert records[0]["metric_val"] == evaluate(start, splits.val)[1] == records[0]["baseline"]["metric_val"]
    integers = records[1]
    assert integers["baseline"]["bytes"] / 4 < integers["bytes"] < integers["baseline"]["bytes"] / 2.5
    assert integers["macs"] == records[0]["macs"] and integers["metric_val"] > records[0]["metric_val"] - 0.05
    wide, narrow = records[-2:]
    assert narrow["macs"] < wide["macs"] < records[0]["macs"] / 4


def test_the_table_wants_every_seed_within_the_drop(study):
    def record(seed, size, accuracy):
        told = {"network": "n", "method": "nncodec", "seed": seed, "bytes": size, "metric_val": accuracy, "metric_test": 0.97}
        return told | {"latency_ms": 1.0, "baseline": {"metric_val": 0.98, "metric_test": 0.98, "bytes": 1000, "latency_ms": 3.0}}

    records = [record(0, 100, 0.98), record(0, 50, 0.975), record(1, 200, 0.976), record(1, 10, 0.9)]
    assert study.table(records).splitlines()[-1] == (
        "| n | nncodec | — | **125** (12×), test -1.00, 3.0× as fast | **125** (12×), test -1.00, 3.0× as fast |"
    )
    records += [other | {"method": "zstd", "bytes": 2 * other["bytes"], "metric_val": 0.98} for other in records[::2]]
    *_, codec, general = study.table(records).splitlines()
    assert codec.startswith("| n | nncodec | — | **125** (12×)")
    told = "(4×), test -1.00, 3.0× as fast"
    assert general == f"| n | zstd | **300** {told} | 300 {told} | 300 {told} |"  # the least where the codec has none
