"""A ``.taut`` file made into safetensors again, one tensor at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import torch

from taut.codec.bounded import shape_of
from taut.codec.reader import TautFile
from taut.codec.tensorfile import NAMES, write_header, write_tensor
from taut.codec.writer import atomic
from taut.errors import FormatError, TautError
from taut.workers import ordered

Progress = Callable[[int, int, str], None]


def decode_file(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    progress: Progress | None = None,
    max_elements: int | None = None,
    *,
    workers: int = 1,
) -> int:
    """Write the dense tensors of a ``.taut`` file as safetensors, one at a time; returns the bytes written.

    Tied tensors are written at each of their names. ``max_elements`` bounds what the file may expand to. ``workers`` processes
    decode a tensor each.

    Raises:
        FormatError: the file is cut, damaged or hostile; what was at ``dst`` stays.
    """
    with TautFile(src, max_elements) as file, atomic(dst) as out:
        file.verify()
        layout = {name: _layout(file, name) for name in file.names()}
        elements = sum(prod(layout[name][0]) for name in file.names() if file.alias(name) is None)
        if elements > file.total_limit:
            raise FormatError(f"{src}: {elements:,} elements are too many for its length; if it is trusted, pass max_elements")
        write_header(out, layout)
        out.flush()
        tasks = _tasks(file, out, layout)
        total, done = sum(task.bytes for task in tasks), 0
        os.truncate(out.name, out.tell() + total)
        for task, _ in zip(tasks, ordered(_decode_into, tasks, workers), strict=True):
            done += task.bytes
            if progress is not None:
                progress(done, total, task.name)
        return out.tell() + total


@dataclass(frozen=True)
class _Task:
    """One tensor to be decoded into its place in a file."""

    file: Path
    max_elements: int | None
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    out: str
    at: int

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def _tasks(file: TautFile, out: IO[bytes], layout: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> list[_Task]:
    tasks, at = [], out.tell()
    for name, (shape, dtype) in layout.items():
        tasks.append(_Task(file.path, file.max_elements, name, shape, dtype, out.name, at))
        at += tasks[-1].bytes
    return tasks


def _decode_into(task: _Task) -> None:
    with TautFile(task.file, task.max_elements) as file:
        tensor = file.tensor(task.name)
    if (tuple(tensor.shape), tensor.dtype) != (task.shape, task.dtype):
        raise FormatError(f"{task.file}: tensor {task.name!r}: decodes to {tuple(tensor.shape)}, declared {task.shape}")
    with open(task.out, "r+b") as out:
        out.seek(task.at)
        write_tensor(out, tensor)


def _layout(file: TautFile, name: str) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and dtype, from declared sizes where they tell, else by decoding."""
    known = shape_of(file.record(name))
    if known is None:
        dense = file.tensor(name)
        known = tuple(dense.shape), dense.dtype
    if known[1] not in NAMES:
        raise TautError(f"{file.path}: tensor {name!r}: safetensors cannot hold {known[1]}")
    return known

