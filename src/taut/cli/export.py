"""``taut export``: a compressed network as a graph for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from taut.cli.inputs import build_model, user_data, user_function
from taut.cli.screen import Json, command, emit, errors
from taut.codec.files import load
from taut.errors import TautError
from taut.export.carried import export_carried
from taut.export.int8 import Int8Report, export_int8
from taut.export.onnx import export_onnx
from taut.measure import Evaluation
from taut.objective import inputs_of


@command
def export(
    file: Annotated[Path, typer.Argument(help="A .taut file.", show_default=False)],
    onnx: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    model: Annotated[str | None, typer.Option(help="package.module:build, or a network by name; not with a graph in it.")] = None,
    example: Annotated[str | None, typer.Option(help="package.module:example, returning an input batch.")] = None,
    shape: Annotated[str | None, typer.Option(help="Instead: the shape of an input batch, e.g. 1,3,32,32.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit integers, by ONNX Runtime's quantizer; needs --data.")] = False,
    data: Annotated[str | None, typer.Option(help="With --int8: package.module:data, or a set's name.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="The folder of a data set given by name.")] = None,
    as_json: Json = False,
) -> None:
    """Write the compressed network as an ONNX graph, checked against torch before the file appears.

    Without --model: from the graph that travels in a file of ``taut compress --graph``; the network's code is not needed.
    With --int8 the graph computes with 8-bit integers; what that does to the metric and to the time is measured and told.
    """
    if int8 != (data is not None) or (int8 and model is None):
        raise typer.BadParameter("--int8 goes with --model and --data: ranges are seen, and the graph is scored, on data")
    if model is None:
        if example is not None or shape is not None:
            raise typer.BadParameter("--example and --shape are inputs for --model; leave them out, or name the network")
        carried = export_carried(file, onnx)
        told = f"{onnx}: {carried.bytes:,} bytes, from the graph in {file}; its weights are those that were saved"
        emit(vars(carried), as_json, told)
        return
    if int8:
        if example is not None or shape is not None:
            raise typer.BadParameter("--int8 takes its inputs from --data; leave out --example and --shape")
        _int8(load(file, into=build_model(model)).eval(), onnx, user_data(str(data), data_dir), as_json)
        return
    if (example is None) == (shape is None):
        raise typer.BadParameter("give either --example or --shape")
    inputs = user_function("--example", example)() if example else _random(str(shape))
    errors().print("exporting and checking the graph", markup=False)
    report = export_onnx(load(file, into=build_model(model)).eval(), onnx, inputs)
    told = f"{onnx}: {report.bytes:,} bytes; outputs differ from torch's by at most {report.max_difference:.2g}"
    emit(vars(report), as_json, told)


def _int8(model: nn.Module, onnx: Path, data: dict[str, Any], as_json: bool) -> None:
    errors().print("quantizing, scoring and timing the graph", markup=False)
    first = next(iter(data["val"]), None)
    if first is None:
        raise TautError("--data: the validation part is empty; give at least one batch")
    example = {k: v for k, v in first.items() if k != "labels"} if isinstance(first, dict) else inputs_of(first)
    report = export_int8(model, onnx, example, data["val"], calibration=data["train"])
    scores = {state: {"loss": e.loss, "metric": e.metric, "count": e.count} for state, e in _states(report).items()}
    told = f"{onnx}: {report.bytes:,} bytes, {report.float_bytes:,} in floating point; {report.weights} weights in 8-bit integers"
    spread = f"{report.latency_low:.2f} to {report.latency_high:.2f}"
    changed = (
        f"metric {report.before.metric:.4f} → {report.after.metric:.4f} on validation data; "
        f"it takes {report.latency:.2f} times as long ({spread}) at batch {report.batch}"
    )
    emit(vars(report) | scores, as_json, told, changed)


def _states(report: Int8Report) -> dict[str, Evaluation]:
    return {"before": report.before, "after": report.after}


def _random(shape: str) -> torch.Tensor:
    try:
        sizes = [int(part) for part in shape.split(",")]
        if not sizes or min(sizes) < 1:
            raise ValueError("sizes are positive")
    except ValueError as error:
        raise TautError(f"--shape {shape!r}: {error}; write it as 1,3,32,32") from error
    return torch.randn(sizes, generator=torch.Generator().manual_seed(0))
