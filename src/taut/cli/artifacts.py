"""What can be done with a ``.taut`` file: ``inspect``, ``verify`` and ``decode``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from taut.cli.screen import Json, bar, command, emit, table
from taut.codec.decoding import decode_file
from taut.codec.files import FileInfo
from taut.codec.files import inspect as look
from taut.codec.files import verify as check

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
