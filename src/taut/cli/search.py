"""A search as it goes on, a line for each measured point, and what it found: before and after, layer by layer, on test data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from taut.budget import Result
from taut.cli.screen import emit, errors, narrated, size, table
from taut.cost import Row
from taut.curve import Point
from taut.deliver import Delivery


class Watch:
    """What happens, told on stderr: a bar while a network trains, then a line for each measured point."""

    def __init__(self, progress: Progress, going: Callable[[], object]) -> None:
        self._progress, self._going, self._start = progress, going, time.monotonic()
        self._task = progress.add_task("measuring the network as it is", total=None)

    def epoch(self, done: int, epochs: int, loss: float) -> None:
        """Called after each epoch of training."""
        self._progress.update(self._task, description=f"training, loss {loss:.4f}", completed=done, total=epochs)
        if done == epochs:
            self._progress.console.print(f"{self._now()}  trained for {epochs} epochs, loss {loss:.4f}")
            self._progress.update(self._task, description="measuring the network as it is", total=None)

    def point(self, point: Point) -> None:
        """Called with each measured point."""
        mark = "[green]kept[/]" if point.kept else "[dim]not kept[/]"
        numbers = f"metric {point.metric:.4f}, loss {point.loss:.4f}, file {size(point.bytes)}"
        self._progress.console.print(f"{self._now()}  step {point.step}: {mark}, {numbers}")
        self._progress.update(self._task, description=f"step {point.step + 1}")
        self._going()

    def _now(self) -> str:
        return f"{time.monotonic() - self._start:6.1f} s"


@contextmanager
def watched(going: Callable[[], object] = lambda: None) -> Iterator[Watch]:
    """A :class:`Watch` while something long goes on, and what the library logs; ``going`` is called after each point."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors(), transient=True) as progress, narrated(progress.console):
        yield Watch(progress, going)


def show(result: Result, delivery: Delivery, as_json: bool, resumes: bool = False) -> None:
    """The end of a command that searched: the summary, or tables and where the files are."""
    names = "model.taut, model.onnx, curve.jsonl, report.html, summary.json"
    stopped = "\nthe search stopped at its limit, before every layer's next move had been tried"
    unfinished = "" if result.complete else stopped + ("; the same command goes on from here" if resumes else "")
    tables = (before_after(delivery.summary), layers(result.ledger.rows))
    emit(delivery.summary, as_json, *tables, verdict(delivery.summary), f"in {delivery.folder}: {names}{unfinished}")


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
