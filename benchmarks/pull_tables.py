"""The tables of study ``pull-taut``: smallest files within a drop, equal codebooks side by side, prediction and truth."""

from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from md_tables import markdown
from sharing import WAYS
from within import smallest

Record = dict[str, Any]
DROPS = (0.0, 0.1, 0.5, 1.0)
SHARED = ("steering", "k-means", "k-means by curvature", "k-means by damped curvature", "learning-compression")
"""The ways whose settings are the number of values of a layer."""


def within(records: list[Record]) -> str:
    """A row a way: its smallest file within drops of validation accuracy (points), and by how much the test error rose."""
    head = ["way", *(f"at most {drop:g} points less" for drop in DROPS)]
    rows = [[way, *(_smallest(found, drop) for drop in DROPS)] for way, found in _by_way(records).items()]
    return markdown(head, rows)


def codebooks(records: list[Record]) -> str:
    """A row a number of values: validation loss and test error of the ways that share them, the lowest loss in bold."""
    ways = {way: found for way, found in _by_way(records).items() if way in SHARED}
    rows = []
    for k in sorted({r["setting"]["value"] for found in ways.values() for r in found}, reverse=True):
        these = [[r for r in found if r["setting"]["value"] == k and "bytes" in r] for found in ways.values()]
        losses = [median(r["loss_val"] for r in found) if found else None for found in these]
        least = min((loss for loss in losses if loss is not None), default=None)
        rows.append([f"{k:g}", *(_codebook(found, loss, least) for found, loss in zip(these, losses, strict=True))])
    return markdown(["values", *ways], rows)


def predicted(records: list[Record]) -> str:
    """A row a steering: how far the predicted change of the loss was from the measured one, over all of its measured steps."""
    rows = []
    for way, found in _by_way(records).items():
        steps = [step for r in found for step in r.get("steps", [])]
        if steps:
            far = [abs(s["measured"] - s["predicted"]) for s in steps]
            close = sum(gap <= 2 * s["error"] for gap, s in zip(far, steps, strict=True))
            kept, arrived = sum(s["kept"] for s in steps), sum(r["setting"]["arrived"] for r in found)
            noise = median(s["error"] for s in steps)
            cells = [f"{arrived} of {len(found)}", _drops(found), f"{kept} of {len(steps)}"]
            rows.append([way, *cells, f"{median(far):.4f}", f"{noise:.4f}", f"{close} of {len(steps)}"])
    return markdown(
        ["way", "arrived", "drop that was needed, points", "steps kept", "distance of prediction and measurement, median",
         "standard error, median", "within two of them"], rows,
    )  # fmt: skip


TABLES: dict[str, Callable[[list[Record]], str]] = {"within": within, "codebooks": codebooks, "predicted": predicted}


def _by_way(records: Iterable[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {way: [] for way in WAYS}
    for record in records:
        found[record["method"]].append(record)
    return {way: these for way, these in found.items() if these}


def _smallest(found: list[Record], drop: float) -> str:
    """The median over the seeds of what validation data chooses; a dash where a seed has nothing."""
    best = smallest(found, drop)
    if len(best) < len({r["seed"] for r in found}):
        return "—"
    size = median(r["bytes"] for r in best)
    ratio = median(4 * r["baseline"]["params"] / r["bytes"] for r in best)
    rise = median(100 * (r["baseline"]["metric_test"] - r["metric_test"]) for r in best)
    return f"{size:,.0f} ({ratio:.1f}×), test {rise:+.2f}"


def _codebook(found: list[Record], loss: float | None, least: float | None) -> str:
    if loss is None:
        return "—"
    error, size = median(100 * (1 - r["metric_test"]) for r in found), median(r["bytes"] for r in found)
    told = f"**{loss:.4f}**" if loss == least else f"{loss:.4f}"
    return f"{told}, {error:.2f} %, {size:,.0f} bytes"


def _drops(found: list[Record]) -> str:
    """How many arrived at each drop that was allowed."""
    drops = [100 * r["setting"]["max_drop"] for r in found if r["setting"]["arrived"]]
    return ", ".join(f"{drop:g} ({drops.count(drop)}×)" for drop in sorted(set(drops))) or "—"
