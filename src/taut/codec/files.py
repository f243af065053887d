"""Saving, loading, checking and looking into ``.taut`` files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from taut.codec.bounded import Bounded, shape_of
from taut.codec.reader import TautFile
from taut.codec.records import FREE_ELEMENTS, encode
from taut.codec.writer import Writer, atomic
from taut.compressors.base import Code
from taut.errors import FormatError, TautError
from taut.layers import Alias, codes
from taut.restore import restore

State = Mapping[str, "Code | Tensor | Alias"]
PER_ELEMENT = 8  # elements that a file may declare for each of the model it is loaded into


def save(model: nn.Module | State, path: str | os.PathLike[str], meta: dict[str, Any] | None = None) -> int:
    """Write a model (or a state, ``{name: code, tensor or alias}``) to ``path``; returns the bytes written.

    The file is written beside the target and takes its place when it is complete: a full disk or Ctrl-C leaves the old file as
    it was. ``meta`` is a small dictionary of plain JSON.

    Raises:
        TautError: a tensor cannot be stored, ``meta`` is not JSON, or the disk refuses.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "m.taut")
        >>> save(nn.Linear(8, 4), path) == os.path.getsize(path)
        True
    """
    with atomic(path) as file:
        return _write(file, model, meta)


def _write(file: IO[bytes], model: nn.Module | State, meta: dict[str, Any] | None) -> int:
    state, dense_shapes = state_of(model)
    writer = Writer(file)
    writer.index.meta = dict(meta or {})
    writer.index.dense_shapes = dense_shapes
    for name, value in state.items():
        if isinstance(value, Alias):
            writer.tie(name, value.of)
        else:
            writer.add(name, _encode_named(name, value))
    return writer.finish()


def _encode_named(name: str, value: Code | Tensor) -> bytes:
    try:
        return encode(value)
    except TautError as error:
        raise TautError(f"{name}: {error}") from error


def state_of(model: nn.Module | State) -> tuple[State, dict[str, tuple[int, ...]]]:
    """The state of a model, and the original shapes of tensors that removed neurons made smaller."""
    if not isinstance(model, nn.Module):
        return model, {}
    shapes = model.__dict__.get("_taut_dense_shapes") or {}
    return codes(model), {name: tuple(shape) for name, shape in shapes.items()}


def file_size(model: nn.Module | State, meta: dict[str, Any] | None = None) -> int:
    """The exact length of the file that :func:`save` would write, in bytes.

    Example:
        >>> file_size(nn.Linear(8, 4)) > 4 * 36
        True
    """
    return _write(BytesIO(), model, meta)


def record_sizes(model: nn.Module | State) -> dict[str, int]:
    """The bytes of each tensor's record; 0 for one that is tied to another."""
    state, _ = state_of(model)
    return {name: 0 if isinstance(value, Alias) else len(_encode_named(name, value)) for name, value in state.items()}


def load(path: str | os.PathLike[str], into: nn.Module) -> nn.Module:
    """Put a saved network into a freshly built one, and return it.

    The outputs are those of the saved model, bit for bit, on the same machine, threads and memory format. What the file may
    expand to is bounded by the model's own size.

    Raises:
        FormatError: the file is cut, damaged, hostile or from a newer version.
        LayerError: the file belongs to another network.
    """
    here = sum(t.numel() for t in into.state_dict().values())
    with TautFile(path, max_elements=PER_ELEMENT * here + (1 << 16)) as file:
        state, dense_shapes = file.state(), file.dense_shapes
        _check_shapes(file, into)
    try:
        with torch.no_grad(), Bounded(max(FREE_ELEMENTS, PER_ELEMENT * here)):
            return restore(into, dict(state), dense_shapes)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise FormatError(f"{path}: its parts do not fit together: {error}") from error


def _check_shapes(file: TautFile, into: nn.Module) -> None:
    """Original shapes are the model's: nothing may be declared that only looks as if neurons had been removed."""
    here = into.state_dict()
    for name, shape in file.dense_shapes.items():
        if name in here and tuple(here[name].shape) != shape:
            raise FormatError(
                f"{file.path}: tensor {name!r}: saved from shape {shape}, the model has {tuple(here[name].shape)}; "
                "build the original network"
            )


def load_state_dict(path: str | os.PathLike[str], max_elements: int | None = None) -> dict[str, Tensor]:
    """All tensors of a file, dense: ``{name: tensor}``; tied ones are the same object.

    ``max_elements`` bounds what the whole file may expand to (by default 2**24 elements and 1024 for every byte).

    Raises:
        FormatError: the file is cut, damaged, hostile or from a newer version.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "m.taut")
        >>> _ = save({"w": torch.ones(2)}, path)
        >>> load_state_dict(path)
        {'w': tensor([1., 1.])}
    """
    with TautFile(path, max_elements) as file:
        state, dense = file.state(), {}
        for name, value in state.items():
            if not isinstance(value, Alias):
                dense[name] = file.densify(name, value)
    return {name: dense[value.of if isinstance(value, Alias) else name] for name, value in state.items()}


def verify(path: str | os.PathLike[str]) -> None:
    """Check a file from end to end: checksums, structure, and that every tensor decodes.

    Raises:
        FormatError: with the file, the tensor and what is wrong.
    """
    with TautFile(path) as file:
        file.verify()
        for name in file.names():
            if file.alias(name) is None:
                file.tensor(name)


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file.

    ``chain``: what it is stored as (``"Prune -> Codebook"``, ``"dense"``, ``"= other"`` if tied); ``bytes``: its record;
    ``parts``: where they go, by field, with ``header`` for types and shapes; ``bits_per_weight``: of the dense tensor.
    """

    name: str
    chain: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    parts: dict[str, int] = field(default_factory=dict)
    alias: str | None = None

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes / max(1, prod(self.shape))


@dataclass(frozen=True)
class FileInfo:
    """What is in a file: ``bytes`` its length, ``overhead`` what is not records, ``tensors`` in the order of the file."""

    path: str
    bytes: int
    overhead: int
    weights_only: bool
    meta: dict[str, Any]
    dense_shapes: dict[str, tuple[int, ...]]
    tensors: tuple[TensorInfo, ...]

    @property
    def ratio(self) -> float:
        """Compression ratio: 4 · dense elements (of the original shapes; ties once) ÷ bytes of the file."""
        shapes = [self.dense_shapes.get(t.name, t.shape) for t in self.tensors if t.alias is None]
        return 4 * sum(prod(shape) for shape in shapes) / self.bytes


def inspect(path: str | os.PathLike[str]) -> FileInfo:
    """What a file holds and where its bytes go, tensor by tensor.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "m.taut")
        >>> _ = save({"w": torch.ones(2, 3)}, path)
        >>> info = inspect(path).tensors[0]
        >>> info.chain, info.shape, info.bytes == sum(info.parts.values())
        ('dense', (2, 3), True)
    """
    with TautFile(path) as file:
        tensors = tuple(_inspect(file, name) for name in file.names())
        overhead = file.length - sum(t.bytes for t in tensors)
        return FileInfo(
            str(Path(path)), file.length, overhead, file.index.weights_only, file.meta, file.dense_shapes, tensors
        )


def _inspect(file: TautFile, name: str) -> TensorInfo:
    record, used = file.record(name), {}
    value = file.materialise(name, record, used)
    known = shape_of(record)
    if known is None:
        dense = file.densify(name, value)
        known = tuple(dense.shape), dense.dtype
    alias, total = file.alias(name), 0 if file.alias(name) else file.entry(name).length
    chain = f"= {alias}" if alias else chain_text(value)
    return TensorInfo(name, chain, known[0], str(known[1]).removeprefix("torch."), total, _whole(used, total), alias)


def chain_text(value: Code | Tensor) -> str:
    """The classes of a code from the outside in.

    Example:
        >>> chain_text(torch.ones(1))
        'dense'
    """
    names: list[str] = []

    def walk(part: Any) -> None:
        if isinstance(part, Code):
            name = type(part).__name__.removesuffix("Code")
            if name not in ("Dense", "Transposed") and name not in names:
                names.append(name)
            for child in part.parts().values():
                walk(child)

    walk(value)
    return " -> ".join(names) or "dense"


def _whole(used: dict[str, float], total: int) -> dict[str, int]:
    """Fractions of bytes rounded down to whole ones; what is left is the header."""
    if not total:
        return {}
    parts = {name or "values": int(share) for name, share in used.items()}
    return {**parts, "header": total - sum(parts.values())}


__all__ = [
    "FileInfo", "TensorInfo", "chain_text", "file_size", "inspect", "load", "load_state_dict", "record_sizes", "save", "verify",
]
