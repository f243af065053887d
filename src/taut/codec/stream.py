"""A checkpoint made smaller without model or data: every weight on a uniform grid, its relative error bounded, one at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor

from taut.codec.records import encode
from taut.codec.tensorfile import Source, sources
from taut.codec.writer import Writer, atomic
from taut.compressors.quantize import QuantizeCode
from taut.errors import TautError
from taut.workers import ordered

Progress = Callable[[int, int, str], None]
TINY = 256  # elements; smaller tensors are kept as they are
SLACK = 1e-3  # the error reached is at least this close to the bound, where the step allows it
AIM = 1 - SLACK / 2  # of the bound, so that a guess is seldom beyond it
TRIES = 24
CHUNK = 1 << 18
SIZES = (torch.int8, torch.int16, torch.int32)


@dataclass(frozen=True)
class Summary:
    """What :func:`compress_file` did: bytes of all tensors before, of the file after, the largest relative error."""

    tensors: int
    quantized: int
    parameters: int
    bytes_before: int
    bytes_after: int
    max_error: float

    @property
    def ratio(self) -> float:
        """4 · parameters ÷ bytes of the file, however wide the checkpoint's numbers were."""
        return 4 * self.parameters / max(1, self.bytes_after)


def compress_file(
    src: str | os.PathLike[str], dst: str | os.PathLike[str], max_error: float, progress: Progress | None = None, *,
    workers: int = 1, ray: bool = False,
) -> Summary:  # fmt: skip
    """Compress a safetensors file (or a sharded one's ``*.index.json``) with a bound on each tensor's relative error,

        ||w - w'||_F <= max_error * ||w||_F,    checked on the tensor as it will be decoded.

    A weight of two or more dimensions goes onto a uniform grid with the largest step that keeps the bound, and is entropy-coded;
    vectors, tensors below 256 elements and whole numbers are kept bit for bit, as is a weight for which the grid does not pay.
    One tensor at a time: the memory is a small multiple of the largest. ``workers`` processes take a tensor each, and each as
    much memory; ``ray=True`` spreads them over a Ray cluster whose machines all see ``src``. The file is the same, byte for
    byte. ``progress(done_bytes, all_bytes, name)`` is called after each tensor.

    Raises:
        TautError: the source cannot be read, a weight is NaN or infinite (the message names it), or ``max_error`` is not
            between 0 and 1.
    """
    if not 0 < max_error < 1:
        raise TautError(f"max_error must lie between 0 and 1, a relative error for each tensor; got {max_error}")
    tensors = sources(src)
    total, done, quantized, worst = sum(t.bytes for t in tensors), 0, 0, 0.0
    with atomic(dst) as file:
        writer = Writer(file, weights_only=True)
        records = ordered(partial(_record, max_error=max_error), tensors, workers, ray)
        for source, (record, error) in zip(tensors, records, strict=True):
            writer.add(source.name, record)
            quantized, worst, done = quantized + (error is not None), max(worst, error or 0.0), done + source.bytes
            if progress is not None:
                progress(done, total, source.name)
        written = writer.finish()
    return Summary(len(tensors), quantized, sum(prod(t.shape) for t in tensors), total, written, worst)


def _record(source: Source, max_error: float) -> tuple[bytes, float | None]:
    """The record of one tensor and its relative error (``None``: it is exact)."""
    w = source.read()
    if w.is_floating_point():
        _check_finite(source, w)
        if w.dim() > 1 and w.numel() >= TINY and w.dtype.itemsize > 1:
            grid = _grid(w, max_error)
            if grid is not None:
                record = encode(grid[0])
                if len(record) < source.bytes:
                    return record, grid[1]
    return encode(w), None


def _check_finite(source: Source, w: Tensor) -> None:
    flat = w.reshape(-1)
    # float8 has no isfinite of its own
    bad = sum(int((~torch.isfinite(part.float() if part.itemsize == 1 else part)).sum()) for part in flat.split(CHUNK))
    if bad:
        raise TautError(
            f"{source.path}: tensor {source.name!r}: {bad} of {flat.numel()} values are NaN or infinite; check the checkpoint"
        )


def _grid(w: Tensor, max_error: float) -> tuple[QuantizeCode, float] | None:
    """The code on the coarsest grid within the bound, and its error; ``None`` where no grid of 32-bit levels keeps it.

    The error grows with the step, nearly in proportion (``step / sqrt(12)`` for fine grids), so the crossing is looked for by
    proportion, and by bisection where that leads nowhere; a step is only ever accepted by the error measured on it.
    """
    norm = math.sqrt(sum(float(part.double().square().sum()) for part in w.reshape(-1).split(CHUNK)))
    if norm == 0.0:
        return None
    step = max_error * norm * math.sqrt(12 / w.numel()) * AIM
    good: tuple[float, float] | None = None
    bad = math.inf
    for _ in range(TRIES):
        stored = float(_stored(step, w.dtype))
        error = _error(w, stored) / norm if stored > 0 else math.inf
        if error <= max_error:
            good = (stored, error) if good is None or stored > good[0] else good
        else:
            bad = min(bad, step)
        if good is not None and (good[1] >= max_error * (1 - SLACK) or bad <= good[0] * (1 + SLACK)):
            break
        step = _next(good[0] if good else 0.0, bad, step * max_error / max(error, 1e-300) * AIM)
    return None if good is None else _code(w, good)


def _next(good: float, bad: float, guess: float) -> float:
    """The guess, if it lies between what is good and what is not, and at most twice what is good; else their middle."""
    most = min(bad, 2 * good) if good else bad
    if good * (1 + SLACK / 8) < guess < most:
        return guess
    return (good + bad) / 2 if bad < math.inf else most


def _stored(step: float, dtype: torch.dtype) -> Tensor:
    """The step in the weight's own type, as it is in the file."""
    return torch.tensor(step, dtype=torch.float64).to(dtype)


def _levels(part: Tensor, step: float) -> Tensor:
    return (part.double() / step).round_()


def _error(w: Tensor, step: float) -> float:
    """``||w - w'||_F`` for the tensor as it will be decoded, in pieces; infinite where a level does not fit 32 bits."""
    total, stored = 0.0, torch.tensor(step, dtype=torch.float64).to(w.dtype)
    for part in w.reshape(-1).split(CHUNK):
        levels = _levels(part, step)
        if float(levels.abs().max()) > torch.iinfo(torch.int32).max:
            return math.inf
        decoded = QuantizeCode(stored, levels.to(torch.int32)).decompress()
        total += float((part.double() - decoded.double()).square().sum())
    return math.sqrt(total) if math.isfinite(total) else math.inf


def _code(w: Tensor, good: tuple[float, float]) -> tuple[QuantizeCode, float]:
    step, error = good
    parts = w.reshape(-1).split(CHUNK)
    most = max(float(_levels(part, step).abs().max()) for part in parts)
    kind = next(k for k in SIZES if most <= torch.iinfo(k).max)
    levels = torch.empty(w.numel(), dtype=kind)
    for out, part in zip(levels.split(CHUNK), parts, strict=True):
        out.copy_(_levels(part, step))
    return QuantizeCode(_stored(step, w.dtype), levels.reshape(w.shape)), error
