"""Safetensors files read and written one tensor at a time: the library needs all tensors at once to write, and maps to read.

The layout: the header's length (8 bytes, little-endian), a JSON header ``{name: {dtype, shape, data_offsets}}``, the numbers.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from taut.errors import TautError

MAX_HEADER = 100_000_000  # the library's own bound
DTYPES = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64, "BOOL": torch.bool,
    "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64, "U16": torch.uint16,
    "U32": torch.uint32, "U64": torch.uint64, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Source:
    """One tensor of a safetensors file, not read yet."""

    name: str
    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """The tensor, in memory of its own."""
        buffer = bytearray(self.bytes)
        with open(self.path, "rb") as file:
            file.seek(self.start)
            if file.readinto(buffer) != self.bytes:
                raise TautError(f"{self.path}: tensor {self.name!r}: the file is cut short")
        flat = torch.frombuffer(buffer, dtype=self.dtype) if buffer else torch.empty(0, dtype=self.dtype)
        return flat.reshape(self.shape)


def sources(path: str | os.PathLike[str]) -> list[Source]:
    """All tensors of a safetensors file, or of a sharded one given by its ``*.index.json``.

    Raises:
        TautError: the file is missing, cut or not safetensors, or the index names files elsewhere.
    """
    path = Path(path)
    if path.suffix != ".json":
        return _header(path)
    shards = _shards(path)
    found = {source.name: source for shard in dict.fromkeys(shards.values()) for source in _header(path.parent / shard)}
    missing = [name for name in shards if name not in found]
    if missing:
        raise TautError(f"{path}: {len(missing)} tensors of the index are in no shard, {missing[0]!r} first")
    return [found[name] for name in shards]


def _shards(path: Path) -> dict[str, str]:
    try:
        shards = json.loads(path.read_text("utf-8"))["weight_map"]
        names = {str(k): str(v) for k, v in shards.items()}
    except OSError as error:
        raise TautError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise TautError(f"{path}: not an index of a sharded safetensors file: it has no weight_map") from None
    for shard in names.values():
        if Path(shard).name != shard or shard in ("", ".", ".."):
            raise TautError(f"{path}: the index names the file {shard!r}; shards must lie beside the index")
    return names


def _header(path: Path) -> list[Source]:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 10 or not 2 <= length <= min(MAX_HEADER, size - 8):
                raise TautError(f"{path}: not a safetensors file, or cut short")
            raw = file.read(length)
    except OSError as error:
        raise TautError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        entries = json.loads(raw)
        entries.pop("__metadata__", None)
        found = [_source(path, name, entry, 8 + length, size) for name, entry in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise TautError(f"{path}: not a safetensors file: its header cannot be read") from None
    return sorted(found, key=lambda source: source.start)


def _source(path: Path, name: str, entry: dict[str, Any], base: int, size: int) -> Source:
    if entry["dtype"] not in DTYPES:
        raise TautError(f"{path}: tensor {name!r}: dtype {entry['dtype']} cannot be stored; convert it to a real type")
    shape, (start, end) = tuple(int(n) for n in entry["shape"]), entry["data_offsets"]
    source = Source(name, path, DTYPES[entry["dtype"]], shape, base + int(start))
    if min((*shape, start), default=0) < 0 or end - start != source.bytes or base + end > size:
        raise TautError(f"{path}: tensor {name!r}: shape {shape} does not fit the bytes {start} to {end}; the file is damaged")
    return source


def write_header(file: IO[bytes], tensors: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
    """The header of a safetensors file whose tensors will follow in this order, without gaps."""
    header: dict[str, Any] = {}
    at = 0
    for name, (shape, dtype) in tensors.items():
        end = at + prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    file.write(len(raw).to_bytes(8, "little") + raw)


def write_tensor(file: IO[bytes], tensor: Tensor) -> None:
    """The numbers of one tensor."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.numel():
        file.write(memoryview(flat.view(torch.uint8).numpy()))
