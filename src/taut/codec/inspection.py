"""Looking into a ``.taut`` file: what each tensor is stored as, and where its bytes go."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from taut.codec.reader import TautFile
from taut.compressors.base import Code


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
        >>> import tempfile, torch
        >>> from taut.codec.files import save
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
    used: dict[str, float] = {}
    record = file.record(name)
    value = file.materialise(name, record, used)
    dense = file.densify(name, value)
    alias, total = file.alias(name), 0 if file.alias(name) else file.entry(name).length
    chain = f"= {alias}" if alias else chain_text(value)
    return TensorInfo(name, chain, tuple(dense.shape), str(dense.dtype).removeprefix("torch."), total, _whole(used, total), alias)


def chain_text(value: Code | Tensor) -> str:
    """The classes of a code from the outside in.

    Example:
        >>> import torch
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
