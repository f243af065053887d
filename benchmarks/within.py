"""What validation data chooses of the points of a curve: the smallest file within a drop, of each seed."""

from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]


def smallest(found: Iterable[Record], drop: float) -> list[Record]:
    """The smallest file of each seed that loses no more than ``drop`` points of validation accuracy; records without a file are
    left out.

    Example:
        >>> runs = [(0, 90, 0.97), (0, 50, 0.95), (1, 70, 0.98)]
        >>> records = [{"seed": s, "bytes": b, "metric_val": m, "baseline": {"metric_val": 0.98}} for s, b, m in runs]
        >>> [r["bytes"] for r in smallest(records, 1.0)], [r["bytes"] for r in smallest(records, 0.5)]
        ([90, 70], [70])
    """
    best: dict[int, Record] = {}
    for r in found:
        held = "bytes" in r and r["metric_val"] >= r["baseline"]["metric_val"] - drop / 100 - 1e-9
        if held and (r["seed"] not in best or r["bytes"] < best[r["seed"]]["bytes"]):
            best[r["seed"]] = r
    return list(best.values())
