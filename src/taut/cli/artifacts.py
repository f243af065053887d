"""What can be done with a ``.taut`` file: ``inspect``, ``verify``, ``decode`` and ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from taut.cli.inputs import build_model, user_function
from taut.cli.screen import Json, bar, command, emit, errors, table
from taut.codec.decoding import decode_file
from taut.codec.files import FileInfo, load
from taut.codec.files import inspect as look
from taut.codec.files import verify as check
from taut.errors import TautError
from taut.export.carried import export_carried
from taut.export.onnx import export_onnx

File = Annotated[Path, typer.Argument(help="A .taut file.", show_default=False)]


@command
def inspect(file: File, as_json: Json = False) -> None:
    """Show what a file holds and where its bytes go."""
    info = look(file)
    tensors = [{**vars(t), "bits_per_weight": t.bits_per_weight} for t in info.tensors]
    result = {**vars(info), "ratio": info.ratio, "tensors": tensors}
    told = f"{file}: {info.bytes:,} bytes, {info.ratio:.1f} times smaller than 32-bit weights ({info.overhead} not in tensors)"
    emit(result, as_json, _tensors(info), told)


def _tensors(info: FileInfo) -> Any:
    rows = []
    for t in info.tensors:
        shape = " × ".join(str(n) for n in info.dense_shapes.get(t.name, t.shape))
        rate = "" if t.alias else f"{t.bits_per_weight:.2f}"
        parts = ", ".join(f"{name} {count:,}" for name, count in t.parts.items())
        rows.append([t.name, shape, t.chain, f"{t.bytes:,}", rate, parts])
    return table("tensor <", "shape <", "stored as <", "bytes >", "bits/weight >", "where they go <", rows=rows)


@command
def verify(file: File, as_json: Json = False) -> None:
    """Check every checksum and decode every tensor; exit code 1 if anything is wrong."""
    check(file)
    count = file.stat().st_size
    emit({"file": file, "bytes": count, "whole": True}, as_json, f"{file}: whole ({count:,} bytes)")


@command
def decode(
    file: File,
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes that decode a tensor each.")] = 1,
    as_json: Json = False,
) -> None:
    """Write the dense weights as safetensors, one tensor at a time."""
    with bar("decoding", in_bytes=True) as step:
        written = decode_file(file, out, progress=step, workers=workers)
    emit({"file": file, "out": out, "bytes": written}, as_json, f"{file} → {out}: {written:,} bytes")


@command
def export(
    file: File,
    onnx: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    model: Annotated[str | None, typer.Option(help="package.module:build, or a network by name; not with a graph in it.")] = None,
    example: Annotated[str | None, typer.Option(help="package.module:example, returning an input batch.")] = None,
    shape: Annotated[str | None, typer.Option(help="Instead: the shape of an input batch, e.g. 1,3,32,32.")] = None,
    as_json: Json = False,
) -> None:
    """Write the compressed network as an ONNX graph, checked against torch before the file appears.

    Without --model: from the graph that travels in a file of ``taut compress --graph``; the network's code is not needed.
    """
    if model is None:
        if example is not None or shape is not None:
            raise typer.BadParameter("--example and --shape are inputs for --model; leave them out, or name the network")
        carried = export_carried(file, onnx)
        told = f"{onnx}: {carried.bytes:,} bytes, from the graph in {file}; its weights are those that were saved"
        emit(vars(carried), as_json, told)
        return
    if (example is None) == (shape is None):
        raise typer.BadParameter("give either --example or --shape")
    inputs = user_function("--example", example)() if example else _random(str(shape))
    errors().print("exporting and checking the graph", markup=False)
    report = export_onnx(load(file, into=build_model(model)).eval(), onnx, inputs)
    told = f"{onnx}: {report.bytes:,} bytes; outputs differ from torch's by at most {report.max_difference:.2g}"
    emit(vars(report), as_json, told)


def _random(shape: str) -> torch.Tensor:
    try:
        sizes = [int(part) for part in shape.split(",")]
        if not sizes or min(sizes) < 1:
            raise ValueError("sizes are positive")
    except ValueError as error:
        raise TautError(f"--shape {shape!r}: {error}; write it as 1,3,32,32") from error
    return torch.randn(sizes, generator=torch.Generator().manual_seed(0))
