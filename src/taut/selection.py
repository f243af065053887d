"""Which setting of a method stands for it: the best on validation data, never by test data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from taut.errors import TautError
from taut.records import number

Record = dict[str, Any]
Group = tuple[str, ...]


def matching(records: Iterable[Record], only: Mapping[str, Sequence[str]]) -> list[Record]:
    """The records whose value of each key, of their own or of their ``setting``, is one of those listed, as text.

    Example:
        >>> matching([{"method": "prune", "setting": {"level": 2}}, {"method": "share", "setting": {"level": 2}}],
        ...          {"method": ["prune"], "level": ["2", "5"]})
        [{'method': 'prune', 'setting': {'level': 2}}]
    """
    return [r for r in records if all(_text(_value(r, key)) in wanted for key, wanted in only.items())]


def choose(records: Iterable[Record], knobs: Sequence[str], *, maximize: bool = True) -> list[Record]:
    """Of the records that differ in nothing but the seed and the ``knobs`` of their setting, those of the best knobs.

    The best has the highest mean ``metric_val`` (the lowest without ``maximize``; of equal ones the first) over the seeds that
    all of them were run with: a first seed may try all, and only what won goes on. Where they have no seed in common, those with
    most seeds are compared. All runs of the best are kept. The chosen value is taken off the end of ``training``, where it says
    the strength, so that the chosen records of one way of training are one curve. Records without any of the knobs stay as they
    are.

    Raises:
        TautError: there are no records, or none of them has a knob of that name.

    Example:
        >>> runs = [("l1 0.1", 0.1, 0, 0.90), ("l1 0.1", 0.1, 1, 0.94), ("l1 0.3", 0.3, 0, 0.93), ("l1 0.3", 0.3, 1, 0.93)]
        >>> records = [{"training": t, "setting": {"strength": s}, "seed": i, "metric_val": m} for t, s, i, m in runs]
        >>> [(r["training"], r["setting"], r["metric_val"]) for r in choose(records, ["strength"])]
        [('l1', {}, 0.93), ('l1', {}, 0.93)]
    """
    records = list(records)
    if not records:
        raise TautError("there are no records to choose among")
    for knob in knobs:
        if not any(knob in _setting(record) for record in records):
            known = sorted({key for record in records for key in _setting(record)})
            raise TautError(f"no record has a setting called {knob!r}; they have {', '.join(known) or 'no settings'}")
    tried: dict[Group, dict[Group, list[Record]]] = {}
    for record in records:
        at = tuple(_text(_setting(record).get(knob)) for knob in knobs)
        tried.setdefault(_alike(record, knobs), {}).setdefault(at, []).append(record)
    return [_without(record, knobs) for found in tried.values() for record in _best(found, maximize)]


def _best(found: Mapping[Group, list[Record]], maximize: bool) -> list[Record]:
    values = {
        at: {r.get("seed"): value for r in records if (value := number(r, "metric_val")) is not None}
        for at, records in found.items()
    }
    values = {at: runs for at, runs in values.items() if runs}
    if not values:
        return []
    most = max(map(len, values.values()))
    shared = set.intersection(*map(set, values.values()))
    scores = {
        at: fmean(value for seed, value in runs.items() if not shared or seed in shared)
        for at, runs in values.items()
        if shared or len(runs) == most
    }
    return found[max(scores, key=lambda at: scores[at] if maximize else -scores[at])]


def _alike(record: Record, knobs: Sequence[str]) -> Group:
    """What records share that are tried against each other."""
    plain = _without(record, knobs)
    return tuple(_text(plain.get(key)) for key in ("study", "network", "dataset", "training", "method", "setting"))


def _without(record: Record, knobs: Sequence[str]) -> Record:
    setting = _setting(record)
    here = [knob for knob in knobs if knob in setting]
    if not here:
        return record
    training = record.get("training")
    if isinstance(training, str):
        for knob in here:
            training = training.removesuffix(f" {_text(setting[knob])}")
    return {**record, "training": training, "setting": {k: v for k, v in setting.items() if k not in here}}


def _setting(record: Record) -> Mapping[str, Any]:
    setting = record.get("setting")
    return setting if isinstance(setting, dict) else {}


def _value(record: Record, key: str) -> Any:
    return record[key] if key in record else _setting(record).get(key)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}"
    return json.dumps(value, sort_keys=True)
