"""Sweeps: each point once, whatever happens on the way."""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from taut.errors import ExtraError, TautError
from taut.grid import Spec
from taut.records import append_record, read_records
from taut.sweep import sweep

RUN = """
import os, time, pathlib
calls = pathlib.Path(__file__).parent / "calls"
calls.mkdir(exist_ok=True)

def mark(**point):
    with open(calls / ("_".join(f"{k}{v}" for k, v in sorted(point.items()))), "a") as file:
        file.write("x")

def one(rank, seed, scale=1):
    mark(rank=rank, seed=seed)
    return {"bytes": rank * scale, "metric_val": seed / 10, "pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")}

def many(rank, seed):
    mark(rank=rank, seed=seed)
    return [{"bytes": rank, "rung": rung} for rung in range(3)]

def slow(rank, seed):
    time.sleep(0.2)
    return one(rank, seed)

def waits(rank, seed):
    (calls / f"pid{os.getpid()}").write_text("")
    time.sleep(120)

def fails(rank, seed):
    if rank == 2:
        raise ValueError(f"rank {rank} is too much")
    return one(rank, seed)

def dies(rank, seed):
    if rank == 2:
        os._exit(3)
    return one(rank, seed)

def returns_nothing(rank, seed):
    return None

def returns_objects(rank, seed):
    return {"what": object()}

not_callable = 3
"""
GRID = {"rank": [1, 2], "seed": [0, 1, 2]}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the module ``grid_points`` on the path, gone again afterwards."""
    (tmp_path / "grid_points.py").write_text(RUN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "grid_points", raising=False)
    yield tmp_path
    sys.modules.pop("grid_points", None)


def spec(function, **more):
    return {"study": "s", "run": f"grid_points:{function}", "grid": GRID, **more}


def calls(place):
    return {path.name: len(path.read_text()) for path in (place / "calls").iterdir()}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_point_once_and_records_in_grid_order(place, workers):
    out, seen = place / "out.jsonl", []
    records = sweep(
        spec("one", fixed={"scale": 5}), out, workers=workers, progress=lambda done, total: seen.append((done, total))
    )
    assert [(r["setting"], r["bytes"]) for r in records] == [({"rank": a, "seed": b}, 5 * a) for a in (1, 2) for b in (0, 1, 2)]
    assert all(r["study"] == "s" and r["seed"] == r["setting"]["seed"] for r in records)
    assert seen == [(i, 6) for i in range(1, 7)]
    assert sorted(read_records(out), key=str) == sorted(records, key=str)
    assert sweep(spec("one", fixed={"scale": 5}), out, workers=workers) == records
    assert set(calls(place).values()) == {1}
    if workers == 2:
        assert os.getpid() not in {r["pid"] for r in records}
        assert {r["threads"] for r in records} == {str(max(1, (os.cpu_count() or 1) // 2))}


def test_a_larger_grid_runs_only_what_is_new(place):
    out = place / "out.jsonl"
    sweep(spec("one"), out)
    records = sweep({**spec("one"), "grid": {"rank": [3, 1], "seed": [0, 1, 2]}}, out)
    assert [r["bytes"] for r in records] == [3, 3, 3, 1, 1, 1]
    assert set(calls(place).values()) == {1} and len(calls(place)) == 9


@pytest.mark.parametrize("workers", [1, 2])
def test_several_grids_are_one_sweep_and_what_they_share_is_run_once(place, workers):
    out, grids = place / "out.jsonl", [{"rank": [1, 2], "seed": [0]}, {"rank": [2], "seed": [0, 1], "scale": [1, 3]}]
    records = sweep({**spec("one"), "grid": grids}, out, workers=workers)
    assert [(r["setting"], r["bytes"]) for r in records] == [
        ({"rank": a, "seed": 0}, a) for a in (1, 2)
    ] + [({"rank": 2, "seed": b, "scale": c}, 2 * c) for b in (0, 1) for c in (1, 3)]  # fmt: skip
    assert sweep({**spec("one"), "grid": grids}, out, workers=workers) == records
    sweep({**spec("one"), "grid": grids[0]}, out)
    assert len(read_records(out)) == len(records)


@pytest.mark.parametrize("change", [{"study": "t"}, {"run": "grid_points:many"}, {"fixed": {"scale": 2}}])
def test_another_study_function_or_fixed_argument_is_another_point(place, change):
    plan, other = Spec.read(spec("one")), Spec.read({**spec("one"), **change})
    keys = [{s.key(point) for point in s.points()} for s in (plan, other)]
    assert len(keys[0]) == len(keys[1]) == 6 and not keys[0] & keys[1]


def test_the_key_does_not_depend_on_the_order_of_arguments():
    plan = Spec("s", "m:f", {})
    assert plan.key({"a": 1, "b": 2}) == plan.key({"b": 2, "a": 1}) == "d982a284a35a80cb"


def test_a_point_cut_amid_its_records_is_completed_without_doubles(place):
    out = place / "out.jsonl"
    records = sweep(spec("many"), out)
    assert len(records) == 18
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:16]) + lines[16][:9])
    assert sweep(spec("many"), out) == records == read_records(out)
    assert sorted(calls(place).values()) == [1, 1, 1, 1, 1, 2]


def test_resume_after_kill(place):
    out = place / "out.jsonl"
    code = f"from taut.sweep import sweep; sweep({spec('slow')!r}, {str(out)!r})"
    run = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join([str(place), *sys.path])}
    )
    deadline = time.monotonic() + 60
    while not (out.exists() and out.read_bytes().count(b"\n") >= 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = read_records(out)
    assert 2 <= len(before) < 6
    with open(out, "ab") as file:  # what a kill amid a write leaves
        file.write(b'{"study": "s", "byt')
    records = sweep(spec("one"), place / "other.jsonl") and sweep(spec("slow"), out)
    assert len(records) == 6 and records[: len(before)] == before == read_records(out)[: len(before)]


def test_workers_end_with_a_sweep_that_is_killed(place):
    call = f"sweep({spec('waits')!r}, {str(place / 'out.jsonl')!r}, workers=2)"
    (place / "run.py").write_text(f"if __name__ == '__main__':\n    from taut.sweep import sweep; {call}")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(place), *sys.path])}
    run = subprocess.Popen([sys.executable, str(place / "run.py")], env=environment)
    deadline = time.monotonic() + 60
    while len(found := list((place / "calls").glob("pid*")) if (place / "calls").exists() else []) < 2:
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    workers = [int(path.name.removeprefix("pid")) for path in found]
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers go on"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process still runs (one that ended and waits to be collected does not)."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failing_point_is_told_at_the_end_and_the_others_finish(place, workers, caplog):
    out = place / "out.jsonl"
    with pytest.raises(TautError, match=r"3 of 6 points.*\n.*\"rank\": 2.*ValueError: rank 2 is too much"):
        sweep(spec("fails"), out, workers=workers)
    assert [r["setting"]["rank"] for r in read_records(out)] == [1, 1, 1]
    assert "rank 2 is too much" in caplog.text
    (place / "grid_points.py").write_text(RUN.replace("if rank == 2", "if rank == 20"))
    importlib.invalidate_caches()
    sys.modules.pop("grid_points")
    assert len(sweep(spec("fails"), out)) == 6
    assert set(calls(place).values()) == {1}


def test_a_worker_that_dies_is_a_failed_point(place):
    with pytest.raises(TautError, match="BrokenProcessPool"):
        sweep(spec("dies"), place / "out.jsonl", workers=2)


@pytest.mark.parametrize(
    ("function", "message"), [("returns_nothing", "must return a record"), ("returns_objects", "no JSON form|cannot hold")]
)
def test_what_a_point_returns_is_checked(place, function, message):
    with pytest.raises(TautError, match=message):
        sweep(spec(function), place / "out.jsonl")
    assert not (place / "out.jsonl").exists()


@pytest.mark.parametrize("suffix", [".json", ".toml"])
def test_a_spec_in_a_file(place, suffix):
    path = place / f"spec{suffix}"
    toml = 'study = "s"\nrun = "grid_points:one"\n[grid]\nrank = [1, 2]\nseed = [0, 1, 2]\n'
    path.write_text(json.dumps(spec("one")) if suffix == ".json" else toml)
    assert len(sweep(path, place / "out.jsonl")) == 6
    assert Spec.read(path) == Spec.read(spec("one"))
    path.write_text(path.read_text().replace("[grid]", "[[grid]]"))
    assert Spec.read(path) == Spec.read(spec("one"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": "nowhere_at_all:f"}, "PYTHONPATH"),
        ({"run": "grid_points:absent"}, "absent"),
        ({"run": "grid_points"}, "package.module:function"),
        ({"run": "grid_points:not_callable"}, "not a function"),
        ({"run": 3}, "needs 'run'"),
        ({"grid": [1]}, "needs 'grid'"),
        ({"grid": []}, "needs 'grid'"),
        ({"grid": None}, "needs 'grid'"),
        ({"grid": [{"rank": [1]}, {"rank": 3}]}, "must be a list"),
        ({"grid": [{"seed": [1]}, {"rank": [1]}], "fixed": {"rank": 1}}, "both grid and fixed"),
        ({"grid": {"rank": []}}, "at least one value"),
        ({"grid": {"rank": 3}}, "must be a list"),
        ({"grid": {"rank": [object()]}}, "no JSON form"),
        ({"fixed": 3}, "'fixed' must be"),
        ({"fixed": {"rank": 1}}, "both grid and fixed"),
        ({"grids": {}}, "unknown keys"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(place, change, message):
    with pytest.raises(TautError, match=message):
        sweep({**spec("one"), **change}, place / "out.jsonl")


@pytest.mark.parametrize(("name", "text"), [("a.json", "{"), ("a.toml", "x ="), ("a.json", "[1]"), ("absent.json", None)])
def test_a_spec_file_that_cannot_be_read(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(TautError, match=name):
        sweep(tmp_path / name, tmp_path / "out.jsonl")


def test_workers_below_one(place):
    with pytest.raises(TautError, match="workers"):
        sweep(spec("one"), place / "out.jsonl", workers=0)


def test_records_of_other_writers_are_left_alone(place):
    out = place / "out.jsonl"
    append_record(out, {"study": "other", "bytes": 1})
    append_record(out, {"study": "other", "point": 3})
    assert len(sweep(spec("one"), out)) == 6
    assert len(read_records(out)) == 8


def test_without_ray_the_extra_is_named(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExtraError, match=r"taut\[ray\]"):
        sweep(spec("one"), place / "out.jsonl", ray=True)


@pytest.mark.slow
def test_over_ray(place, monkeypatch):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("the extra ray is not installed")
    import ray

    paths = os.pathsep.join([str(place), *sys.path])
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    try:
        records = sweep(spec("one"), place / "out.jsonl", ray=True)
        assert [r["bytes"] for r in records] == [1, 1, 1, 2, 2, 2]
        with pytest.raises(TautError, match="3 of 6 points"):
            sweep(spec("fails"), place / "failed.jsonl", ray=True)
    finally:
        ray.shutdown()
