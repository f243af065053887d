"""What the page shows, computed from records: groups of comparable points, their curves, the baseline and the chosen point."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from taut.errors import TautError
from taut.records import number, pareto, read_records
from taut.report.text import setting
from taut.selection import choose, matching

Record = dict[str, Any]
Spread = tuple[float, float, float]

COSTS = {"bytes": "Bytes of the file", "params": "Parameters", "macs": "MACs for one input", "latency_ms": "Latency"}
SCORES = {"metric_val": "Metric on validation data", "loss_val": "Loss on validation data", "metric_test": "Metric on test data"}
LIMIT = 3000
"""Points drawn on one page; beyond it a browser becomes slow."""


@dataclass
class Dot:
    """One point of a curve: a record, or the median over the seeds of equal settings.

    ``values``: ``{key: (median, least, most)}`` for the costs, their ratios (``bytes_ratio`` …) and the scores.
    """

    record: Record
    values: dict[str, Spread]
    series: int
    runs: int = 1
    kept: bool = True

    def mid(self, key: str) -> float | None:
        return self.values[key][0] if key in self.values else None


@dataclass
class Group:
    """The records of one study, network and data set: what can be compared with each other."""

    study: str
    network: str
    dataset: str
    records: list[Record] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    baseline: Record = field(default_factory=dict)
    chosen: Record | None = None
    summary: Record = field(default_factory=dict)
    total: int = 0

    @property
    def label(self) -> str:
        return " · ".join(part for part in (self.study, self.network, self.dataset) if part) or "all records"

    @property
    def percent(self) -> bool:
        """Whether the metric is a fraction, to be shown as a percentage."""
        values = [number(r, k) for r in (*self.records, self.baseline) for k in ("metric_val", "metric_test")]
        return all(value is None or 0 <= value <= 1 for value in values)

    @property
    def budget(self) -> Record:
        """What may be lost: ``kind``, ``value`` and, where the metric is better when smaller, ``maximize: false``."""
        found = self.summary.get("budget") or (self.chosen or {}).get("budget")
        found = found or next((r["budget"] for r in self.records if isinstance(r.get("budget"), dict)), {})
        return found if isinstance(found, dict) else {}

    @property
    def maximize(self) -> bool:
        return self.budget.get("maximize", True) is not False

    @property
    def test(self) -> Record:
        found = self.summary.get("test") or (self.chosen or {}).get("test") or {}
        return found if isinstance(found, dict) else {}

    def has(self, key: str) -> bool:
        return any(key in dot.values for dot in self.dots)


def read_groups(
    curve: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    knobs: Sequence[str] = (),
    only: Mapping[str, Sequence[str]] | None = None,
) -> list[Group]:
    """Read one or several files of records and group them; a ``summary.json`` beside a file is read with it.

    ``knobs``, ``only``: of settings that differ in these knobs alone the best on validation data, and which records
    (:func:`taut.selection.choose`, :func:`taut.selection.matching`).
    """
    paths = [Path(curve)] if isinstance(curve, (str, os.PathLike)) else [Path(path) for path in curve]
    if not paths:
        raise TautError("no file of records was given")
    groups: dict[tuple[str, str, str], Group] = {}
    for path in paths:
        summary = _summary(path.parent / "summary.json")
        records = matching(read_records(path), only or {})
        if knobs and records:
            records = choose(records, knobs, maximize=all(_budget(r).get("maximize") is not False for r in records))
        for run, record in _runs(records):
            key = (_word(record.get("study")), _word(record.get("network")), _word(record.get("dataset")))
            group = groups.setdefault(key, Group(*key))
            group.records.append({**record, "_run": f"{path}#{run}"})
            if "step" in record:
                group.summary = summary
    if not groups:
        which = "" if not only else " with " + ", ".join(f"{key}={'|'.join(values)}" for key, values in only.items())
        raise TautError(f"no records{which} in {', '.join(map(str, paths))}; a curve has one JSON object a line")
    share = max(LIMIT // len(groups), 100)
    return [_complete(group, share) for group in groups.values()]


def _budget(record: Record) -> Record:
    found = record.get("budget")
    return found if isinstance(found, dict) else {}


def _word(value: Any) -> str:
    return value if isinstance(value, str) else setting(value)


def _summary(path: Path) -> Record:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TautError(f"{path} cannot be read as JSON ({error}); mend or remove it") from error
    return data if isinstance(data, dict) else {}


def _runs(records: list[Record]) -> Iterable[tuple[int, Record]]:
    """Each record with the number of the search it belongs to: a search starts where ``step`` does not grow."""
    run, last = 0, -1.0
    for record in records:
        step = number(record, "step")
        if step is not None:
            if step < last and not record.get("best"):
                run += 1
            last = step
        yield run, record


def _complete(group: Group, share: int) -> Group:
    group.total = len(group.records)
    finals = [record for record in group.records if record.get("best") is True]
    group.chosen = finals[-1] if finals else None
    group.baseline = _baseline(group)
    group.dots, group.names = _dots(group)
    group.chosen = group.chosen or _choose(group)
    group.dots = _thin(group, share)
    return group


def _baseline(group: Group) -> Record:
    """The network before: what the chosen record says of it, filled up from the others and from the summary."""
    merged: Record = {}
    compared = group.summary.get("baseline")
    named = {"metric": "metric_val", "loss": "loss_val"}
    sources = [group.chosen or {}, *group.records[:1000]]
    for source in [*(s.get("baseline") for s in sources), compared]:
        for key, value in source.items() if isinstance(source, dict) else ():
            name = named.get(str(key), str(key))
            if value is not None and merged.get(name) is None:
                merged[name] = value
    return merged


def _choose(group: Group) -> Record | None:
    """Without a chosen record: the smallest file with no drop on validation data (never by test data)."""
    floor = number(group.baseline, "metric_val")
    able = [d for d in group.dots if d.kept and d.mid("bytes") is not None and d.mid("metric_val") is not None]
    sign = 1 if group.maximize else -1
    held = [d for d in able if floor is not None and sign * d.values["metric_val"][0] >= sign * floor]
    best = min(held, key=lambda d: d.values["bytes"][0], default=None)
    if best is None:
        return None
    best.record = {**best.record, **{key: best.values[key][0] for key in (*COSTS, *SCORES) if key in best.values}}
    return best.record


def _dots(group: Group) -> tuple[list[Dot], list[str]]:
    """Records of equal settings become one dot with its spread over seeds; the steps of a search stay apart."""
    names: dict[tuple[str, str], int] = {}
    buckets: dict[tuple[Any, ...], list[Record]] = {}
    titles = _titles(group.records)
    for index, record in enumerate(group.records):
        key = titles[record["_run"]] if "step" in record else (_word(record.get("training")), _word(record.get("method")))
        series = names.setdefault(key, len(names))
        apart = index if "step" in record else json.dumps(record.get("setting"), sort_keys=True)
        buckets.setdefault((series, apart, record.get("kept") is False), []).append(record)
    trainings = {training for training, _ in names}
    labels = [" · ".join(p for p in (m, t if len(trainings) > 1 or not m else "") if p) or "points" for t, m in names]
    return [_dot(records, key[0], group) for key, records in buckets.items()], labels


def _titles(records: list[Record]) -> dict[str, tuple[str, str]]:
    """The curve of each search: its training and the method it ended with."""
    ends = {record["_run"]: record for record in records if "step" in record and record.get("kept") is not False}
    several = {(_word(r.get("training")), _word(r.get("method"))) for r in ends.values()}
    titles = {}
    for number_, record in enumerate((r for r in records if "step" in r), start=1):
        end = ends.get(record["_run"], record)
        name = f"search: {_word(end.get('method'))}"
        if len(several) < len(ends):
            name += f" (seed {end.get('seed', number_)})"
        titles[record["_run"]] = (_word(end.get("training")), name)
    return titles


def _dot(records: list[Record], series: int, group: Group) -> Dot:
    gathered: dict[str, list[tuple[float, float, float]]] = {}
    for record in records:
        own = record.get("baseline")
        before = {**group.baseline, **({k: v for k, v in own.items() if v is not None} if isinstance(own, dict) else {})}
        for key in (*COSTS, *SCORES):
            value = number(record, key)
            if value is None:
                continue
            gathered.setdefault(key, []).append((value, *(_latency_spread(record) or (value, value)))
                                                if key == "latency_ms" else (value, value, value))  # fmt: skip
            reference = dense_bytes(before) if key == "bytes" else number(before, key)
            if key in COSTS and reference and value > 0:
                gathered.setdefault(f"{key}_ratio", []).append((reference / value,) * 3)
    values = {
        key: (median(v for v, _, _ in spread), min(low for _, low, _ in spread), max(high for _, _, high in spread))
        for key, spread in gathered.items()
    }
    return Dot(records[len(records) // 2], values, series, len(records), records[0].get("kept") is not False)


def _latency_spread(record: Mapping[str, Any]) -> tuple[float, float] | None:
    spread = record.get("latency_spread")
    if not isinstance(spread, list) or len(spread) != 2:
        return None
    low, high = (number({"v": value}, "v") for value in spread)
    return None if low is None or high is None else (low, high)


def dense_bytes(baseline: Mapping[str, Any]) -> float | None:
    """The numerator of the compression ratio: 4 bytes for every parameter of the dense network."""
    parameters = number(baseline, "params")
    return 4 * parameters if parameters else number(baseline, "bytes")


def front(dots: list[Dot], x: str, y: str, maximize: bool = True) -> list[Dot]:
    """The kept dots that no other kept one beats, cheapest first; ``x`` a cost, ``y`` a score."""
    points = [
        {"x": dot.mid(x), "y": dot.mid(y), "dot": dot}
        for dot in dots
        if dot.kept and dot.mid(x) is not None and dot.mid(y) is not None
    ]
    return [point["dot"] for point in pareto(points, "x", "y", maximize=maximize and y != "loss_val")]


def _thin(group: Group, share: int) -> list[Dot]:
    """At most about ``share`` dots: all fronts and the chosen one, and every n-th of the rest along each curve."""
    if len(group.dots) <= share:
        return group.dots
    needed = {id(dot) for x in COSTS for y in SCORES for dot in front(group.dots, x, y, group.maximize)}
    needed |= {id(dot) for dot in group.dots if dot.record is group.chosen}
    rest = [dot for dot in group.dots if id(dot) not in needed]
    rest.sort(key=lambda dot: (not dot.kept, dot.series, dot.mid("bytes") or 0))
    room = max(share - len(needed), 1)
    stride = len(rest) / room
    drawn = needed | {id(rest[int(i * stride)]) for i in range(min(room, len(rest)))}
    return [dot for dot in group.dots if id(dot) in drawn]
