"""Functions in several processes: the order of results, errors, and how far ahead is gone."""

import importlib.util
import os
import time
from functools import partial
from pathlib import Path

import pytest

from taut.errors import ExtraError, TautError
from taut.workers import AHEAD, ordered


def first_last(folder: Path, item: int) -> tuple[int, int]:
    """The item and the process that has it; the first item waits until another process had one, however late that starts."""
    (folder / str(os.getpid())).touch()
    patience = time.monotonic() + 60
    while item == 0 and len(list(folder.iterdir())) < 2 and time.monotonic() < patience:
        time.sleep(0.01)
    return item, os.getpid()


def refuse(item: int) -> int:
    if item == 2:
        raise ValueError("two is wrong")
    return item


def test_results_come_in_the_order_of_the_items_from_other_processes(tmp_path):
    found = list(ordered(partial(first_last, tmp_path), range(7), workers=2))
    assert [item for item, _ in found] == list(range(7))
    assert len({pid for _, pid in found}) == 2 and os.getpid() not in {pid for _, pid in found}


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_is_begun_than_is_taken_and_a_few_ahead(workers):
    begun = []

    def items():
        for item in range(20):
            begun.append(item)
            yield item

    results = ordered(abs, items(), workers)
    assert begun == []
    assert next(results) == 0 and len(begun) <= AHEAD * workers
    assert next(results) == 1 and len(begun) <= AHEAD * workers + 1
    results.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_raised_in_its_place(workers):
    results = ordered(refuse, range(5), workers)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two is wrong"):
        next(results)


def test_workers_must_be_some():
    with pytest.raises(TautError, match="at least 1, found 0"):
        next(ordered(abs, [1], 0))


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ExtraError, match=r"taut\[ray\]"):
        next(ordered(abs, [1], ray=True))


def test_over_ray():
    if importlib.util.find_spec("ray") is None:
        pytest.skip("the extra ray is not installed")
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        assert list(ordered(abs, [-1, 2, -3], ray=True)) == [1, 2, 3]
    finally:
        ray.shutdown()
