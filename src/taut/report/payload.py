"""What the page's script draws from, as plain data."""

from __future__ import annotations

from typing import Any

from taut.records import number
from taut.report import svg, text, verdict
from taut.report.model import COSTS, SCORES, Dot, Group

MOVES = 1500
"""Trials drawn in the plot of predicted against measured change."""


def moves(group: Group) -> list[list[Any]]:
    """Predicted and measured change of the loss for each trial, whether it was kept, and its step."""
    found = [
        [p, m, record.get("kept") is not False, int(number(record, "step") or 0)]
        for record in group.records
        if record.get("best") is not True and (p := number(record, "predicted")) is not None
        and (m := number(record, "measured")) is not None and (p or m)
    ]  # fmt: skip
    return found[:: -(-len(found) // MOVES)] if found else []


def rank_correlation(a: list[float], b: list[float]) -> float | None:
    """Spearman's: the correlation of the ranks, ties sharing their mean rank; ``None`` where one side is constant.

    Example:
        >>> rank_correlation([1, 2, 3], [10, 40, 90])
        1.0
    """
    x, y = _ranks(a), _ranks(b)
    middle = (len(a) - 1) / 2
    top = sum((i - middle) * (j - middle) for i, j in zip(x, y, strict=True))
    bottom = sum((i - middle) ** 2 for i in x) * sum((j - middle) ** 2 for j in y)
    return top / bottom**0.5 if bottom else None


def _ranks(values: list[float]) -> list[float]:
    places: dict[float, list[int]] = {}
    for place, value in enumerate(sorted(values)):
        places.setdefault(value, []).append(place)
    return [sum(places[v]) / len(places[v]) for v in values]


def payload(group: Group) -> dict[str, Any]:
    """What the script draws from: the dots with their spread, the baseline and the budget's lines."""
    keys = {"bytes_ratio": svg.x_title("bytes_ratio"), **{f"{c}_ratio": svg.x_title(f"{c}_ratio") for c in COSTS}}
    titles = {**{c: svg.x_title(c) for c in COSTS}, **keys, **SCORES}
    return {
        "percent": group.percent,
        "maximize": group.maximize,
        "names": group.names,
        "symbols": svg.NAMES,
        "titles": {key: title for key, title in titles.items() if group.has(key)},
        "dots": [_dot(dot, group) for dot in group.dots],
        "baseline": {key: value for key in (*COSTS, *SCORES) if (value := number(group.baseline, key)) is not None},
        "limits": {key: value for key in SCORES if (value := verdict.limit(group, key)) is not None},
        "moves": moves(group),
    }


def _dot(dot: Dot, group: Group) -> dict[str, Any]:
    values = {key: list(v) if v[1] < v[2] else v[0] for key, v in dot.values.items()}
    told: dict[str, Any] = {"s": dot.series, "v": values, "t": text.setting(dot.record.get("setting"), 300)}
    if dot.runs > 1:
        told["n"] = dot.runs
    elif dot.record.get("seed") is not None:
        told["seed"] = text.setting(dot.record["seed"])
    if not dot.kept:
        told["x"] = 1
    if dot.record is group.chosen:
        told["best"] = 1
    if isinstance(dot.record.get("step"), int):
        told["step"], told["m"] = dot.record["step"], str(dot.record.get("method") or "")
    return told
