"""Records: one JSON object a line, appended and flushed, never rewritten.

Curves, sweeps and benchmarks all write this form, and the page, the static plots and the next run read it. A run that is
killed leaves at most one cut line at the end of the file; reading ignores it and the next append removes it, so nothing
measured is lost.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from taut.errors import TautError

log = logging.getLogger(__name__)

KEYS = (
    "study",
    "network",
    "dataset",
    "training",
    "method",
    "setting",
    "seed",
    "metric_val",
    "metric_test",
    "loss_val",
    "params",
    "nonzeros",
    "macs",
    "bytes",
    "latency_ms",
    "latency_spread",
    "baseline",
    "train_seconds",
    "compress_seconds",
    "version",
    "machine",
)
"""The keys every record may hold. ``baseline`` holds the same keys for the network that was compressed; others may be added."""


def read_records(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    r"""Read a file of JSON lines, in order.

    Blank lines are skipped. A last line without its line end that is not whole JSON was cut by a kill: it is left out, with a
    warning in the log. Any other line that is not a JSON object raises a :class:`TautError` naming the file and the line.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "curve.jsonl"
        >>> _ = path.write_text('{"bytes": 100, "metric_val": 0.98}\n{"bytes": 5')
        >>> read_records(path)
        [{'bytes': 100, 'metric_val': 0.98}]
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TautError(f"cannot read the records in {path}: {error.strerror or error}") from error
    lines = content.split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(_parse(line))
        except ValueError as error:
            if number == len(lines):  # no line end follows: the write was cut
                log.warning("%s: line %d was cut while it was written; it is left out", path, number)
                break
            raise TautError(
                f"{path}, line {number}: not a JSON object ({error}); mend or remove this line (one record a line)"
            ) from error
    return records


def _parse(line: bytes) -> dict[str, Any]:
    """One record; ``ValueError`` (which covers bad UTF-8 and bad JSON) if the line is not an object."""
    try:
        record = json.loads(line.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError(f"found {type(record).__name__}")
    return record


def append_record(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Add one record to the end of ``path`` and wait until it is on the disk.

    The file and its folder are made if missing. A cut last line (left by a kill) is removed first. Numbers of numpy and torch
    become plain numbers; NaN and infinities, which JSON cannot hold, become ``null``.

    A value that JSON cannot hold, or a disk that cannot take the line, raises a :class:`TautError`; the file then ends as it
    did before.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "curve.jsonl"
        >>> append_record(path, {"bytes": 100, "loss_val": float("nan")})
        >>> read_records(path)
        [{'bytes': 100, 'loss_val': None}]
    """
    append_records(path, [record])


def append_records(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Add several records with one write, as :func:`append_record` adds one."""
    path = Path(path)
    data = b"".join(_line(record, path) for record in records)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0) as file, _locked(file):
            data = _mend_end(file) + data
            end = file.seek(0, os.SEEK_END)
            try:
                _write_all(file, data)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
    except OSError as error:
        raise TautError(f"cannot append to {path}: {error.strerror or error}") from error


def _line(record: Mapping[str, Any], path: Path) -> bytes:
    try:
        return json.dumps(plain(record), ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
    except (TypeError, ValueError) as error:
        raise TautError(
            f"cannot write a record to {path}: {error}; a record holds numbers, strings, lists and objects"
        ) from error


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: plain numbers and containers, string keys, ``None`` for NaN and infinities.

    Example:
        >>> plain({"rank": (1, 2.5, float("inf"))})
        {'rank': [1, 2.5, None]}
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in (sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy and torch: scalars and arrays
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} {value!r} has no JSON form")


def _mend_end(file: BinaryIO) -> bytes:
    """Remove a cut last line; the return value ends a whole line that lacks only its line end."""
    size = file.seek(0, os.SEEK_END)
    tail, start = b"", size
    while start and b"\n" not in tail:
        step = min(start, 1 << 16)
        start = file.seek(start - step)
        tail = file.read(step) + tail
    last = tail[tail.rfind(b"\n") + 1 :]
    if not last:
        return b""
    try:
        _parse(last)
    except ValueError:
        file.truncate(size - len(last))
        return b""
    return b"\n"


def _write_all(file: BinaryIO, data: bytes) -> None:
    """An unbuffered file may take only a part at once."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


@contextlib.contextmanager
def _locked(file: BinaryIO) -> Iterator[None]:
    """Two processes that append to one file must not mend each other's half-written line."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def number(record: Mapping[str, Any], key: str) -> float | None:
    """The finite number at ``key``, or ``None``.

    Example:
        >>> number({"bytes": 7}, "bytes"), number({"bytes": "7"}, "bytes"), number({}, "bytes")
        (7, None, None)
    """
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def pareto(
    records: Iterable[Mapping[str, Any]], x: str = "bytes", y: str = "metric_val", maximize: bool | None = None
) -> list[Mapping[str, Any]]:
    """The records that no other one beats: less ``x`` for at least as good ``y``, cheapest first.

    ``x`` is a cost (less is better). ``y`` is better when larger, unless its name starts with ``loss`` or ``maximize`` says
    otherwise. Records without either number are left out; of equal records the first is kept.

    Example:
        >>> points = [{"bytes": 3, "metric_val": 0.9}, {"bytes": 2, "metric_val": 0.9}, {"bytes": 1, "metric_val": 0.5}]
        >>> [point["bytes"] for point in pareto(points)]
        [1, 2]
    """
    sign = 1.0 if (not y.startswith("loss") if maximize is None else maximize) else -1.0
    points = [(number(record, x), number(record, y), record) for record in records]
    ranked = sorted(
        ((cost, sign * value, record) for cost, value, record in points if cost is not None and value is not None),
        key=lambda point: (point[0], -point[1]),
    )
    front, best = [], -math.inf
    for _, value, record in ranked:
        if value > best:
            front.append(record)
            best = value
    return front
