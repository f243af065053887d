"""Sweeps: every combination of a grid, run once, on one machine or on many, into a file of records.

A sweep may be killed at any time and started again: points whose records are in the file are not run again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from taut.errors import TautError
from taut.grid import Point, Spec, resolve
from taut.records import append_records, plain, read_records
from taut.workers import process_pool, ray_cluster

log = logging.getLogger(__name__)

Outcome = tuple[Point, list[dict[str, Any]] | BaseException]


def sweep(
    spec: Mapping[str, Any] | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    workers: int = 1,
    ray: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Run every point of a grid that is not yet in ``out``; append its records; return all records of the grid, in its order.

    ``spec`` (a mapping, or a JSON or TOML file) declares ``study``, ``run`` (``"package.module:function"``, called with one
    point's keyword arguments; it returns one record or a list of them), ``grid`` (``{name: [values]}``, or a list of such
    grids, for all of their points) and, optionally, ``fixed`` arguments. Each record gets ``study``, ``setting`` and ``seed``
    where the function left them out, and ``point``: the hash of the arguments by which a later run knows that it is done.

    ``workers`` processes run side by side, each with its share of the cores as threads; ``ray=True`` runs the points as tasks of
    a Ray cluster instead (extra ``ray``). ``progress(done, total)`` is called after every point. As with every use of processes,
    a script that asks for workers does so under ``if __name__ == "__main__":``.

    Raises:
        TautError: a wrong spec, or, after all other points have finished, the points that failed, with their settings.

    Example:
        >>> import tempfile, pathlib
        >>> out = pathlib.Path(tempfile.mkdtemp()) / "sweep.jsonl"
        >>> spec = {"study": "sums", "run": "builtins:dict", "grid": {"seed": [0, 1], "bytes": [10, 20]}}
        >>> [(record["seed"], record["bytes"]) for record in sweep(spec, out)]
        [(0, 10), (0, 20), (1, 10), (1, 20)]
    """
    plan, out = Spec.read(spec), Path(out)
    if workers < 1:
        raise TautError(f"workers must be at least 1, found {workers}")
    resolve(plan.run)  # a wrong name fails here, before any process starts
    points = {plan.key(point): point for point in plan.points()}
    stored = _stored(out)
    open_points = [point for key, point in points.items() if not _complete(stored.get(key))]
    done = len(points) - len(open_points)
    failures = []
    for point, outcome in _outcomes(plan.run, open_points, workers, ray):
        done += 1
        if isinstance(outcome, BaseException):
            log.error("sweep %s: %s failed: %s", plan.study, point, outcome, exc_info=outcome)
            failures.append((point, outcome))
        else:
            _store(plan, point, outcome, out, stored)
        if progress:
            progress(done, len(points))
    if failures:
        raise TautError(_describe(plan, failures, len(points))) from failures[0][1]
    return [record for key in points for _, record in sorted(stored[key].items())]


def _stored(out: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """``{point hash: {index: record}}`` of what is in the file."""
    stored: dict[str, dict[int, dict[str, Any]]] = {}
    for record in read_records(out) if out.exists() else []:
        point = record.get("point")
        if isinstance(point, dict) and "hash" in point and "index" in point:
            stored.setdefault(point["hash"], {})[point["index"]] = record
    return stored


def _complete(records: dict[int, dict[str, Any]] | None) -> bool:
    """A kill may leave the first records of a point that returns several."""
    if not records:
        return False
    count = next(iter(records.values()))["point"]["count"]
    return all(index in records for index in range(count))


def _store(
    plan: Spec, point: Point, records: list[dict[str, Any]], out: Path, stored: dict[str, dict[int, dict[str, Any]]]
) -> None:
    key = plan.key(point)
    known = stored.setdefault(key, {})
    new = []
    for index, record in enumerate(records):
        if index in known:
            continue
        record = {"study": plan.study, "setting": plan.setting(point), **record}
        if "seed" in point:
            record.setdefault("seed", point["seed"])
        new.append(plain({**record, "point": {"hash": key, "index": index, "count": len(records)}}))
        known[index] = new[-1]
    append_records(out, new)


def _describe(plan: Spec, failures: list[tuple[Point, BaseException]], total: int) -> str:
    shown = [f"  {json.dumps(plan.setting(point))}: {type(e).__name__}: {e}" for point, e in failures[:10]]
    rest = [f"  and {len(failures) - 10} more (see the log)"] if len(failures) > 10 else []
    head = f"{len(failures)} of {total} points of sweep {plan.study!r} failed; the others are stored; run it again for these:"
    return "\n".join([head, *shown, *rest])


def _outcomes(run: str, points: list[Point], workers: int, ray: bool) -> Iterator[Outcome]:
    """Each point with its records or the error it raised, in order of completion."""
    if ray:
        return _over_ray(run, points)
    if workers == 1 or len(points) < 2:
        return ((point, _attempt(run, point)) for point in points)
    return _over_processes(run, points, workers)


def _attempt(run: str, point: Point) -> list[dict[str, Any]] | Exception:
    try:
        return _work(run, point)
    except Exception as error:
        return error


def _work(run: str, point: Point) -> list[dict[str, Any]]:
    """Run one point, here or in a worker, and check what it returned."""
    result = resolve(run)(**point)
    records = [result] if isinstance(result, Mapping) else result
    if not isinstance(records, list) or not records or not all(isinstance(record, Mapping) for record in records):
        raise TautError(f"{run} must return a record (a mapping) or a list of them, found {result!r:.80}")
    try:
        return [plain(record) for record in records]
    except TypeError as error:
        raise TautError(f"{run} returned a record that JSON cannot hold: {error}") from error


def _over_processes(run: str, points: list[Point], workers: int) -> Iterator[Outcome]:
    with process_pool(min(workers, len(points))) as pool:
        futures = {pool.submit(_work, run, point): point for point in points}
        for future in as_completed(futures):
            error = future.exception()
            yield futures[future], future.result() if error is None else error


def _over_ray(run: str, points: list[Point]) -> Iterator[Outcome]:
    ray = ray_cluster()
    task = ray.remote(_attempt)
    waiting = {task.remote(run, point): point for point in points}
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1)
        point = waiting.pop(ready[0])
        try:
            yield point, ray.get(ready[0])
        except ray.exceptions.RayError as error:  # the worker itself died
            yield point, error
