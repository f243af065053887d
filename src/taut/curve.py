"""Measured points and the path they make, stored as JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taut.cost import Ledger, Row
from taut.records import append_record


@dataclass(frozen=True)
class Point:
    """A network as it was measured.

    ``loss`` and ``metric`` on validation data; ``ledger``: what it costs as it ships; ``predicted``, ``measured``: the change of
    loss against the point before it; ``kept``: within budget and cheaper; ``plan``: what was done to each layer.
    """

    step: int
    loss: float
    metric: float
    ledger: Ledger
    kept: bool = True
    plan: dict[str, str] = field(default_factory=dict)
    predicted: float = 0.0
    measured: float = 0.0
    radius: float = 0.0
    seconds: float = 0.0

    @property
    def bytes(self) -> int:
        return self.ledger.bytes

    def record(self) -> dict[str, Any]:
        """The measured keys of a record (see the design's *Records*)."""
        return {"metric_val": self.metric, "loss_val": self.loss, **self.ledger.totals()}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Point:
        """The point that a record of :meth:`Curve.record` was made from."""
        rows = tuple(
            Row(r["name"], r["params"], r["nonzeros"], r["macs"], r["bytes"], r["what"], r["why"]) for r in record["layers"]
        )
        return cls(
            record["step"], record["loss_val"], record["metric_val"], Ledger(rows, record["bytes"]), record["kept"],
            record["setting"], record["predicted"], record["measured"], record["radius"], record["compress_seconds"],
        )  # fmt: skip


@dataclass
class Curve:
    """The points of one search in the order they were measured; the first is the network it started from.

    With a ``path`` each point is appended to that JSON lines file at once. ``labels`` are the keys every record shares: study,
    network, dataset, training, seed, version, machine.

    Example:
        >>> curve = Curve([Point(0, 0.1, 0.9, Ledger(bytes=100)), Point(1, 0.1, 0.9, Ledger(bytes=10))])
        >>> curve.best.bytes
        10
    """

    points: list[Point] = field(default_factory=list)
    path: Path | None = None
    labels: dict[str, Any] = field(default_factory=dict)

    def append(self, point: Point, *, known: bool = False) -> None:
        """Add a point; written to the file unless it is ``known`` to be there (a resumed run replays it)."""
        self.points.append(point)
        if self.path is not None and not known:
            append_record(self.path, self.record(point))

    @property
    def kept(self) -> list[Point]:
        return [p for p in self.points if p.kept]

    @property
    def best(self) -> Point:
        """The last kept point: every kept point is cheaper than the one before it."""
        return self.kept[-1]

    def record(self, point: Point) -> dict[str, Any]:
        """The JSON lines record of a point."""
        first = self.points[0] if self.points else point
        before = {row.name: row for row in first.ledger.rows}
        return {
            "study": "compress", "network": "", "dataset": "", "training": "plain", "metric_test": None, "latency_ms": None,
            "train_seconds": None, **self.labels, "method": _method(point), "setting": point.plan, **point.record(),
            "baseline": first.record(), "compress_seconds": point.seconds, "step": point.step, "kept": point.kept,
            "predicted": point.predicted, "measured": point.measured, "radius": point.radius,
            "layers": [_layer(row, before.get(row.name)) for row in point.ledger.rows],
        }  # fmt: skip

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)


def _method(point: Point) -> str:
    names = {p.split("(", 1)[0] if not p.startswith("Chain") else _chain(p) for p in point.plan.values()}
    return " + ".join(sorted(names)) or "dense"


def _chain(text: str) -> str:
    """``Chain(first=Prune(…), second=Codebook(…))`` as ``Prune → Codebook``."""
    words = [part.rsplit("=", 1)[-1].rsplit(" ", 1)[-1] for part in text.split("(")[:-1]]
    return " → ".join(word for word in words if word != "Chain")


def _layer(row: Any, before: Any) -> dict[str, Any]:
    before = before or row
    return {
        "name": row.name, "what": row.what, "why": row.why, "params_before": before.parameters, "params": row.parameters,
        "nonzeros": row.nonzeros, "bytes_before": 4 * before.parameters, "bytes": row.bytes, "macs_before": before.macs,
        "macs": row.macs,
    }  # fmt: skip
