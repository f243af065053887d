"""What a user takes home: the file, the graph, the curve, the page and a summary, each read back before it is claimed."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from taut.budget.run import Result
from taut.codec.files import load, save
from taut.curve import Point
from taut.errors import ParityError
from taut.export.carried import draw
from taut.export.onnx import export_onnx
from taut.latency import Latency, time_onnx
from taut.layers import evaluating
from taut.measure import evaluate
from taut.objective import batches_of, call_batch, inputs_of, logits_of
from taut.records import append_record
from taut.report import report
from taut.statistics import paired_difference, wilson
from taut.version import VERSION


@dataclass(frozen=True)
class Delivery:
    """Where things are and what they measured; ``summary`` is the content of ``summary.json``."""

    folder: Path
    summary: dict[str, Any]


def machine() -> dict[str, Any]:
    """Cores and processor, as records state them."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass  # not Linux: the platform's own word stands
    return {"cores": os.cpu_count(), "processor": name}


def deliver(
    result: Result,
    out: str | Path,
    fresh: nn.Module,
    val: Iterable,
    *,
    test: Iterable | None = None,
    command: str = "",
    labels: dict[str, Any] | None = None,
    batch: int = 1,
    graph: bool = False,
) -> Delivery:
    """Write ``model.taut``, ``model.onnx``, ``curve.jsonl``, ``report.html`` and ``summary.json`` to ``out``.

    ``fresh``: a newly built original network, into which the file is read back: its outputs must equal the compressed model's
    bit for bit, and the graph's within float tolerance; else :class:`~taut.errors.ParityError`. ``test``: data never used in the
    search; it is looked at here, once. ``batch``: the batch size for latency. ``graph``: the ONNX graph travels in
    ``model.taut``, without its weights (:mod:`taut.export.carried`), and counts in the bytes that are reported.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    val = batches_of(val, "validation")
    example = inputs_of(next(iter(val)))
    written = save(result.model, folder / "model.taut", graph=draw(result.model, example) if graph else b"")
    loaded = load(folder / "model.taut", into=fresh).eval()
    _same_outputs(result.model, loaded, next(iter(val)))
    exported = export_onnx(loaded, folder / "model.onnx", example)
    latency, original_bytes = _latencies(result.original, folder / "model.onnx", example, batch)
    summary = {
        "baseline": _numbers(result.baseline, latency["original"], file=original_bytes),
        "compressed": _numbers(result.best, latency["compressed"], file=exported.bytes) | {"bytes": written},
        "ratio": _ratios(result, latency, written),
        "budget": {**result.budget.as_dict(), "kept": result.budget.holds(result.baseline, result.best)},
        "test": _tested(result, loaded, test),
        "latency_batch": batch,
        "complete": result.complete,
        "settings": result.settings,
        "seed": result.settings.get("seed"),
        "command": command,
        "version": VERSION,
        "torch": torch.__version__,
        "machine": machine(),
        **(labels or {}),
    }
    _write_curve(result, folder / "curve.jsonl", summary, labels or {})
    _write_json(folder / "summary.json", summary)
    report(folder / "curve.jsonl", folder / "report.html")
    return Delivery(folder, summary)


def _same_outputs(model: nn.Module, loaded: nn.Module, batch: Any) -> None:
    with evaluating(model), torch.no_grad():
        wanted, found = logits_of(call_batch(model, batch)), logits_of(call_batch(loaded, batch))
    if not torch.equal(wanted, found):
        worst = float((wanted - found).abs().max())
        raise ParityError(f"model.taut does not give the compressed model's outputs: they differ by up to {worst:.3g}")


def _latencies(original: nn.Module, graph: Path, example: Any, batch: int) -> tuple[dict[str, Latency], int]:
    """Both graphs timed in turn, in one run; and the size of the original's graph."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "original.onnx"
        exported = export_onnx(original, path, example)
        return time_onnx({"original": path, "compressed": graph}, example, batch=batch), exported.bytes


def _numbers(point: Point, latency: Latency, file: int) -> dict[str, Any]:
    totals = point.ledger.totals()
    return {
        "metric": point.metric, "loss": point.loss, "bytes": int(totals["bytes"]), "params": int(totals["params"]),
        "nonzeros": int(totals["nonzeros"]), "macs": totals["macs"], "latency_ms": latency.median_ms,
        "latency_spread": [latency.low_ms, latency.high_ms], "onnx_bytes": file,
    }  # fmt: skip


def _ratios(result: Result, latency: dict[str, Latency], written: int) -> dict[str, float]:
    before, after = result.baseline.ledger, result.best.ledger
    return {
        # the definition: 4 bytes for every parameter of the dense network, over the bytes of the file
        "bytes": 4 * before.parameters / written,
        "params": before.parameters / after.parameters if after.parameters else 1.0,
        # a network may have no arithmetic to count, or no parameters
        "macs": before.macs / after.macs if after.macs else 1.0,
        "latency": latency["original"].median_ms / latency["compressed"].median_ms,
    }


def _tested(result: Result, loaded: nn.Module, test: Iterable | None) -> dict[str, Any] | None:
    """The metric on test data before and after, with 95 % intervals; paired where every sample is a hit or a miss."""
    if test is None:
        return None
    test = batches_of(test, "test")
    before, after = evaluate(result.original, test, result.objective), evaluate(loaded, test, result.objective)
    told: dict[str, Any] = {"before": before.metric, "after": after.metric, "samples": after.count}
    if before.hits is not None and after.hits is not None:
        hits_before, hits_after = before.hits.numpy(), after.hits.numpy()
        difference, low, high, p_value = paired_difference(hits_before, hits_after)
        told |= {
            "before_interval": list(wilson(int(hits_before.sum()), len(hits_before))),
            "after_interval": list(wilson(int(hits_after.sum()), len(hits_after))),
            "difference": difference, "difference_interval": [low, high], "p_value": p_value,
        }  # fmt: skip
    return told


def _write_curve(result: Result, path: Path, summary: dict[str, Any], labels: dict[str, Any]) -> None:
    """Every measured point, then the delivered one with its latency and test metric."""
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    shared = {"version": VERSION, "machine": summary["machine"], "command": summary["command"], **labels}
    for point in result.curve:
        append_record(temporary, {**result.curve.record(point), **shared})
    baseline = {k: summary["baseline"][k] for k in ("bytes", "params", "nonzeros", "macs", "latency_ms", "latency_spread")}
    tested = summary["test"] or {}
    final = {
        **result.curve.record(result.best), **shared, "best": True, "bytes": summary["compressed"]["bytes"],
        "latency_ms": summary["compressed"]["latency_ms"], "latency_spread": summary["compressed"]["latency_spread"],
        "metric_test": tested.get("after"), "test": summary["test"],
        "baseline": {
            **baseline, "metric_val": result.baseline.metric, "loss_val": result.baseline.loss,
            "metric_test": tested.get("before"),
        },
    }  # fmt: skip
    append_record(temporary, final)
    os.replace(temporary, path)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(data, indent=2) + "\n")
    os.replace(temporary, path)
