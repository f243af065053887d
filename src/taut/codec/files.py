"""Saving, loading, checking and looking into ``.taut`` files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import BytesIO
from typing import IO, Any

import torch
from torch import Tensor, nn

from taut.codec.bounded import Bounded
from taut.codec.inspection import FileInfo, TensorInfo, chain_text, inspect
from taut.codec.reader import TautFile
from taut.codec.records import encode
from taut.codec.tree import FREE_ELEMENTS
from taut.codec.writer import Writer, atomic
from taut.compressors.base import Code
from taut.errors import FormatError, TautError
from taut.layers import Alias, codes
from taut.restore import restore

State = Mapping[str, "Code | Tensor | Alias"]
PER_ELEMENT = 8  # elements that a file may declare for each of the model it is loaded into


def save(model: nn.Module | State, path: str | os.PathLike[str], meta: dict[str, Any] | None = None, graph: bytes = b"") -> int:
    """Write a model (or a state, ``{name: code, tensor or alias}``) to ``path``; returns the bytes written.

    The file is written beside the target and takes its place when it is complete: a full disk or Ctrl-C leaves the old file as
    it was. ``meta`` is a small dictionary of plain JSON. ``graph``: an ONNX graph without its weights, which
    :func:`taut.export.carried.draw` makes, so that the file can be exported where the network's code is not.

    Errors:
        TautError: a tensor cannot be stored, ``meta`` is not JSON, or the disk refuses.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "m.taut")
        >>> save(nn.Linear(8, 4), path) == os.path.getsize(path)
        True
    """
    with atomic(path) as file:
        return _write(file, model, meta, graph)


def _write(file: IO[bytes], model: nn.Module | State, meta: dict[str, Any] | None, graph: bytes = b"") -> int:
    state, dense_shapes = state_of(model)
    writer = Writer(file)
    writer.index.meta = dict(meta or {})
    writer.index.dense_shapes, writer.index.graph = dense_shapes, graph
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


def sizes(model: nn.Module | State) -> tuple[dict[str, int], int]:
    """(:func:`record_sizes`, :func:`file_size`) at once."""
    return record_sizes(model), file_size(model)


def record_sizes(model: nn.Module | State) -> dict[str, int]:
    """The bytes of each tensor's record; 0 for one that is tied to another."""
    state, _ = state_of(model)
    return {name: 0 if isinstance(value, Alias) else len(_encode_named(name, value)) for name, value in state.items()}


def load(path: str | os.PathLike[str], into: nn.Module) -> nn.Module:
    """Put a saved network into a freshly built one, and return it.

    The outputs are those of the saved model, bit for bit, on the same machine, threads and memory format. What the file may
    expand to is bounded by the model's own size.

    Errors:
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

    ``max_elements`` bounds what the whole file may expand to (by default 2**22 elements and 1024 for every byte).

    Errors:
        FormatError: the file is cut, damaged, hostile or from a newer version.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "m.taut")
        >>> _ = save({"w": torch.ones(2)}, path)
        >>> load_state_dict(path)
        {'w': tensor([1., 1.])}
    """
    with TautFile(path, max_elements) as file:
        state, dense, room = file.state(), {}, file.total_limit
        for name, value in state.items():
            if not isinstance(value, Alias):
                dense[name] = file.densify(name, value, room)
                room -= dense[name].numel()
    return {name: dense[value.of if isinstance(value, Alias) else name] for name, value in state.items()}


def verify(path: str | os.PathLike[str]) -> None:
    """Check a file from end to end: checksums, structure, and that every tensor decodes.

    Errors:
        FormatError: with the file, the tensor and what is wrong.
    """
    with TautFile(path) as file:
        file.verify()
        for name in file.names():
            if file.alias(name) is None:
                file.tensor(name)


__all__ = [
    "FileInfo", "TensorInfo", "chain_text", "file_size", "inspect", "load", "load_state_dict", "record_sizes", "save",
    "sizes", "verify",
]
