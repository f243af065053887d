"""Functions called in several processes, or on the machines of a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from taut.errors import ExtraError, TautError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2
"""Calls under way, or done and not yet taken, for each worker: results wait in memory."""


def ordered(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 1, ray: bool = False
) -> Iterator[Result]:  # fmt: skip
    """``function`` of each of ``items``, in their order, a few ahead of what is taken.

    ``workers`` processes, each with its share of the cores as threads; one: here. ``ray=True``: tasks of a Ray cluster (extra
    ``ray``). ``function`` is one of a module's, and it, its arguments and its results are pickled. What it raises is raised here.

    Example:
        >>> list(ordered(abs, [-1, 2, -3]))
        [1, 2, 3]
    """
    if workers < 1:
        raise TautError(f"workers must be at least 1, found {workers}")
    if ray:
        yield from _over_ray(function, items)
    elif workers == 1:
        yield from map(function, items)
    else:
        with process_pool(workers) as pool:
            yield from _in_order(items, lambda item: pool.submit(function, item), Future.result, AHEAD * workers)


def _over_ray(function: Callable, items: Iterable) -> Iterator:
    cluster = ray_cluster()
    task = cluster.remote(_call)
    ahead = AHEAD * max(1, int(cluster.cluster_resources().get("CPU", 1)))
    yield from _in_order(items, lambda item: task.remote(function, item), cluster.get, ahead)


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    """Ray takes functions of a module alone, no partial ones."""
    return function(item)


def _in_order(items: Iterable, start: Callable, take: Callable, ahead: int) -> Iterator:
    waiting: deque = deque()
    for item in items:
        waiting.append(start(item))
        if len(waiting) >= ahead:
            yield take(waiting.popleft())
    while waiting:
        yield take(waiting.popleft())


@contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes, each with its share of the cores; on an error what has not begun is cancelled."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")  # a fork of a process that has used threads may hang
    with ProcessPoolExecutor(workers, context, initializer=_pin, initargs=(threads, list(sys.path))) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _pin(threads: int, path: list[str]) -> None:
    """In a fresh worker: its share of the cores, and the parent's import path; it ends when its parent does."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    sys.path[:] = path
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:  # it read the environment when it was imported
        sys.modules["torch"].set_num_threads(threads)


def _end_with(parent: int) -> None:
    """A parent that is killed cannot tell its workers, which would go on with what nobody takes."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def ray_cluster() -> Any:
    """The package ``ray``, connected to its cluster, or to one made on this machine."""
    try:
        import ray
    except ImportError as error:
        raise ExtraError("ray", "ray") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    return ray
