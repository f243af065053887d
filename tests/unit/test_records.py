"""Records: what is written is what is read, kills and bad lines included; the Pareto front against brute force."""

import json
import logging
import math
import multiprocessing
import resource
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws.pareto_laws import check_front

from taut.errors import TautError
from taut.records import KEYS, append_record, append_records, number, pareto, plain, read_records

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=40)
@given(records=st.lists(st.dictionaries(st.text(max_size=10), json_values, max_size=4), max_size=4))
def test_what_is_written_is_read(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("records") / "deep" / "curve.jsonl"
    append_records(path, [])
    for record in records:
        append_record(path, record)
    assert read_records(path) == records


def test_contract_keys():
    assert len(KEYS) == len(set(KEYS)) == 21
    assert {"study", "metric_val", "bytes", "baseline", "machine"} <= set(KEYS)


WHOLE = b'{"bytes": 10, "what": "\xc3\xa9"}\n'


@pytest.mark.parametrize("cut", range(1, len(WHOLE)))
def test_a_line_cut_anywhere_is_ignored_and_then_replaced(tmp_path, cut, caplog):
    path = tmp_path / "curve.jsonl"
    path.write_bytes(b'{"bytes": 1}\n' + WHOLE[:cut])
    kept = [{"bytes": 1}] + ([json.loads(WHOLE)] if cut == len(WHOLE) - 1 else [])  # only the line end is missing: it is whole
    with caplog.at_level(logging.WARNING):
        assert read_records(path) == kept
    assert ("line 2" in caplog.text) == (cut < len(WHOLE) - 1)
    append_record(path, {"bytes": 3})
    assert read_records(path) == [*kept, {"bytes": 3}]
    assert path.read_bytes().endswith(b"\n")


def test_a_long_cut_line_is_removed_whole(tmp_path):
    path = tmp_path / "curve.jsonl"
    path.write_bytes(b'{"bytes": 1}\n{"what": "' + b"x" * 200_000)
    append_record(path, {"bytes": 2})
    assert path.read_bytes() == b'{"bytes": 1}\n{"bytes": 2}\n'


@pytest.mark.parametrize("line", [b"{", b"[1]", b"3", b'{"a": 1} {"b": 2}', b"\xff\xfe", b"nul", b"\x00\x00", b"[" * 5000])
def test_a_broken_line_in_the_middle_names_file_and_line(tmp_path, line):
    path = tmp_path / "broken.jsonl"
    path.write_bytes(b'{"bytes": 1}\n\n' + line + b'\n{"bytes": 2}\n')
    with pytest.raises(TautError, match=r"broken\.jsonl, line 3"):
        read_records(path)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_file_that_cannot_be_read(tmp_path, make):
    make(tmp_path / "absent.jsonl")
    with pytest.raises(TautError, match="absent"):
        read_records(tmp_path / "absent.jsonl")


def test_windows_line_ends_and_blank_lines(tmp_path):
    path = tmp_path / "curve.jsonl"
    path.write_bytes(b'{"a": 1}\r\n\r\n   \n{"a": 2}\r\n')
    assert read_records(path) == [{"a": 1}, {"a": 2}]


def test_numbers_of_numpy_and_torch_become_plain(tmp_path):
    path = tmp_path / "curve.jsonl"
    append_record(
        path,
        {"a": np.float32(0.5), "b": torch.tensor(2), "c": np.arange(2), "d": (1, {3}), "e": [math.nan, -math.inf], 5: tmp_path},
    )
    assert read_records(path) == [{"a": 0.5, "b": 2, "c": [0, 1], "d": [1, [3]], "e": [None, None], "5": str(tmp_path)}]


def test_a_value_without_json_form_writes_nothing(tmp_path):
    path = tmp_path / "curve.jsonl"
    append_record(path, {"a": 1})
    with pytest.raises(TautError, match="object"):
        append_record(path, {"a": object()})
    assert read_records(path) == [{"a": 1}]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "curve.jsonl"
    append_record(path, {"a": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(TautError, match="cannot append"):
            append_record(path, {"a": "x" * 1000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b'{"a": 1}\n'


def test_two_processes_append_to_one_file(tmp_path):
    path = tmp_path / "curve.jsonl"
    context = multiprocessing.get_context("fork")  # nothing is imported again
    runs = [context.Process(target=_append_fifty, args=(path,)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0]
    assert sorted(record["i"] for record in read_records(path)) == sorted(2 * list(range(50)))


def _append_fifty(path):
    for i in range(50):
        append_record(path, {"i": i, "pad": "x" * 999})


@pytest.mark.parametrize("value", [True, None, "3", math.nan, math.inf, [1]])
def test_number_takes_finite_numbers_only(value):
    assert number({"a": value}, "a") is None


def test_plain_refuses_what_json_cannot_hold():
    with pytest.raises(TypeError, match="object"):
        plain({"a": [object()]})


small = st.none() | st.integers(0, 5)


@settings(deadline=None)
@given(points=st.lists(st.fixed_dictionaries({"bytes": small, "metric_val": small, "loss_val": small}), max_size=12))
@pytest.mark.parametrize(("y", "maximize", "sign"), [("metric_val", None, 1), ("loss_val", None, -1), ("metric_val", False, -1)])
def test_pareto_is_the_brute_force_front(points, y, maximize, sign):
    points = [{**point, "id": i} for i, point in enumerate(points)]
    check_front(lambda p, a, b: pareto(p, a, b, maximize), points, y=y, sign=sign)
