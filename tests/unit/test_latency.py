"""Timing in turn: order, medians, spread, loops; ONNX and torch runners."""

import gc

import pytest
import torch
from laws.export_laws import case
from laws.latency_laws import Clock, check_drift_hits_all_alike, check_undisturbed, disturbed
from torch import nn

from taut.errors import TautError
from taut.export.onnx import export_onnx
from taut.latency import Latency, Timing, ratio, time_in_turn, time_models_onnx, time_onnx, time_torch
from taut.runtime import feed, session

FAST = Timing(repeats=6, warmup=1, min_seconds=2e-4)


@pytest.fixture
def clock(monkeypatch):
    return Clock().replace_time(monkeypatch)


def test_candidates_are_timed_in_turn_and_the_order_flips(clock):
    runners = {name: clock.runner(name, 1.0) for name in "abc"}
    time_in_turn(runners, Timing(repeats=4, warmup=0))
    assert "".join(clock.calls) == "abc" + "abc" + "cba" + "abc" + "cba"


def test_median_and_quartiles_are_per_call(clock):
    # one timing to size the loop, then five
    found = time_in_turn({"a": clock.runner("a", [9.0, 5.0, 1.0, 4.0, 2.0, 3.0])}, Timing(repeats=5, warmup=0))["a"]
    assert (found.median_ms, found.low_ms, found.high_ms, found.runs) == pytest.approx((3000, 2000, 4000, 5))


@pytest.mark.parametrize("seconds", [1e-7, 3e-5, 1.9e-3, 0.5])
def test_a_short_call_is_repeated_until_the_clock_can_tell(clock, seconds):
    found = time_in_turn({"a": clock.runner("a", seconds)}, Timing(repeats=3, warmup=2, min_seconds=2e-3))["a"]
    assert found.median_ms == pytest.approx(1e3 * seconds)
    assert clock.now >= 3 * 2e-3


def test_timings_that_another_program_interrupted_are_repeated(clock):
    check_undisturbed(time_in_turn, clock)


def test_where_all_are_interrupted_the_fastest_quarter_counts(clock):
    found = time_in_turn({"a": disturbed(clock, 0.01, 1)}, Timing(repeats=8, warmup=0))["a"]
    assert (found.runs, found.disturbed) == (6, 18)
    assert found.median_ms == pytest.approx(510)


def test_a_slow_drift_hits_all_alike(clock):
    check_drift_hits_all_alike(time_in_turn, clock)


def test_the_limit_stops_after_five_timings(clock):
    assert time_in_turn({"a": clock.runner("a", 10.0)}, Timing(repeats=50, limit=20))["a"].runs == 5


def test_a_slower_candidate_is_slower():
    x = torch.randn(64, 64)
    table = time_in_turn({"one": lambda: x @ x, "eight": lambda: [x @ x for _ in range(8)]}, Timing(repeats=9))
    assert ratio(table, "eight", "one") > 1.5
    assert table["one"].low_ms <= table["one"].median_ms <= table["one"].high_ms


def test_garbage_collection_comes_back():
    def fails():
        raise RuntimeError("planted")

    assert gc.isenabled()
    with pytest.raises(RuntimeError):
        time_in_turn({"a": fails}, FAST)
    assert gc.isenabled()


@pytest.mark.parametrize("bad", [{"repeats": 1}, {"min_seconds": 0.0}, {"limit": -1.0}, {"warmup": -1}])
def test_impossible_timings_are_refused(bad):
    with pytest.raises(TautError, match="at least 2 repeats"):
        Timing(**bad)


def test_errors_name_what_there_is():
    with pytest.raises(TautError, match="nothing to time"):
        time_in_turn({})
    with pytest.raises(TautError, match="'c' was not timed; there are: a"):
        ratio({"a": Latency(1, 1, 1, 3)}, "a", "c")


def test_files_are_timed_at_the_batch_asked_for(tmp_path):
    wide, narrow = nn.Sequential(nn.Linear(256, 2048), nn.ReLU(), nn.Linear(2048, 8)), nn.Sequential(nn.Linear(256, 8))
    example = torch.randn(1, 256)
    paths = {name: tmp_path / f"{name}.onnx" for name in ("wide", "narrow")}
    for path, model in zip(paths.values(), (wide, narrow), strict=True):
        export_onnx(model, path, example, way="trace")
    table = time_onnx(paths, example, batch=16, timing=FAST)
    assert ratio(table, "wide", "narrow") > 1.5
    assert {(t.batch, t.threads) for t in table.values()} == {(16, 1)}
    assert all(t.device and t.as_dict()["median_ms"] > 0 for t in table.values())


@pytest.mark.parametrize("name", ["residual", "recurrent", "keywords"])
def test_models_are_timed_through_graphs_thrown_away(name):
    model, example = case(name)
    table = time_models_onnx({"a": model, "b": model}, example, batch=3, timing=FAST)
    assert set(table) == {"a", "b"}
    assert table["a"].batch == 3


def test_torch_models_keep_their_modes_and_threads():
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).train()
    threads = torch.get_num_threads()
    table = time_torch({"a": model, "b": model}, torch.randn(4, 8), batch=2, threads=1, timing=FAST)
    assert all(m.training for m in model.modules())
    assert torch.get_num_threads() == threads
    assert table["a"].batch == 2


def test_a_session_has_the_threads_asked_for_and_says_what_it_cannot_load(tmp_path):
    path = export_onnx(nn.Sequential(nn.Linear(4, 2)), tmp_path / "m.onnx", torch.randn(2, 4), way="trace").path
    running = session(path, threads=2)
    assert running.get_session_options().intra_op_num_threads == 2
    with pytest.raises(TautError, match="the example input has 0 tensors"):
        feed(running, ())
    (tmp_path / "bad.onnx").write_bytes(path.read_bytes()[:40])
    with pytest.raises(TautError, match="bad.onnx: ONNX Runtime cannot load"):
        session(tmp_path / "bad.onnx")
