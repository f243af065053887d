"""What a search found, as tables: before and after, layer by layer, and on test data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from taut.cli.screen import size, table
from taut.cost import Row


def before_after(summary: Mapping[str, Any]) -> Table:
    """The network before and after, with the ratios."""
    before, after, ratio = summary["baseline"], summary["compressed"], summary["ratio"]
    dense = 4 * before["params"]
    rows = [
        ["metric (validation)", f"{before['metric']:.4f}", f"{after['metric']:.4f}", ""],
        ["loss (validation)", f"{before['loss']:.4f}", f"{after['loss']:.4f}", ""],
        ["file", f"{size(dense)} dense", size(after["bytes"]), f"{ratio['bytes']:.1f} times smaller"],
        ["parameters", f"{before['params']:,}", f"{after['params']:,}", f"{ratio['params']:.2f} times fewer"],
        ["MACs", f"{before['macs']:,.0f}", f"{after['macs']:,.0f}", f"{ratio['macs']:.2f} times fewer"],
    ]
    if after.get("latency_ms"):
        batch = f"latency (batch {summary.get('latency_batch', 1)})"
        rows.append([batch, _time(before), _time(after), f"{ratio['latency']:.2f} times faster"])
    return table("<", "before >", "after >", "<", rows=rows)


def _time(numbers: Mapping[str, Any]) -> str:
    return f"{numbers['latency_ms']:.3f} ms"


def layers(rows: Iterable[Row]) -> Table:
    """What was done to each tensor, and why where nothing was."""
    shown = [[row.name, f"{row.parameters:,}", f"{row.nonzeros:,}", size(row.bytes), row.what, row.why] for row in rows]
    return table("tensor <", "parameters >", "nonzero >", "file >", "what <", "why not <", rows=shown)


def verdict(summary: Mapping[str, Any]) -> str:
    """One line: whether the budget held, and what test data say."""
    budget, test = summary["budget"], summary.get("test")
    held = "kept" if budget["kept"] else "NOT KEPT"
    told = f"budget ({budget['kind'].replace('_', ' ')} {budget['value']:g}): {held} on validation data"
    if not test:
        return told
    told += f"; on {test['samples']:,} test samples the metric went from {test['before']:.4f} to {test['after']:.4f}"
    if "difference_interval" in test:
        low, high = test["difference_interval"]
        told += f" (difference {test['difference']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f})"
    return told
