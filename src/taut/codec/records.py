"""One record: a tensor or a code tree as bytes, and back, bit for bit.

``record = length of the stream, structure, heads, stream``. The *structure* says classes, fields, types and shapes, so sizes are
known (and refused) before anything is allocated; the *heads* say how each tensor is stored; the *stream* is the entropy-coded
rest of all tensors of the record, one after the other.
"""

from __future__ import annotations

import dataclasses
import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from taut.codec.coder import Encoder
from taut.codec.tensors import TENSOR, declare, plan_tensor
from taut.codec.tree import (
    CLASSES,
    FALSE,
    FLOAT,
    INT,
    KNOWN,
    MASK_FIRST,
    MAX_DEPTH,
    NAMED,
    NONE,
    SMALL,
    STRING,
    TRUE,
    TUPLE,
    default_limit,
    materialise,
    parse,
)
from taut.codec.wire import text, varint, zigzag
from taut.compressors.base import Code
from taut.compressors.prune import PruneCode
from taut.errors import FormatError, TautError


@dataclass
class _Writer:
    """The structure of a value, and its tensors in order."""

    structure: bytearray = field(default_factory=bytearray)
    tensors: list[Tensor] = field(default_factory=list)
    masks: list[Tensor | None] = field(default_factory=list)

    def add(self, value: Any, depth: int = 0, mask: Tensor | None = None) -> None:
        """``mask``: at whose places the elements of the tensors lie that have as many."""
        if depth > MAX_DEPTH:
            raise TautError(f"a code nests deeper than {MAX_DEPTH} levels")
        if isinstance(value, Tensor):
            self.structure += declare(value)
            self.tensors.append(value.detach().cpu().contiguous())
            self.masks.append(mask)
        elif type(value) is PruneCode:
            self.structure.append(KNOWN + MASK_FIRST)
            self.add(value.mask, depth + 1)
            self.add(value.values, depth + 1, self.tensors[-1])
        elif isinstance(value, Code):
            self.structure += _class_tag(value)
            for part in value.fields().values():
                self.add(part, depth + 1, mask)
        elif isinstance(value, tuple):
            self.structure += bytes([TUPLE]) + varint(len(value))
            for part in value:
                self.add(part, depth + 1, mask)
        else:
            self.structure += _scalar(value)

    def record(self) -> bytes:
        heads, stream = bytearray(), Encoder()
        for tensor, mask in zip(self.tensors, self.masks, strict=True):
            head, enc = plan_tensor(tensor, mask)
            heads += head
            stream.extend(enc)
        coded = stream.finish()
        return b"".join((varint(len(coded)), self.structure, heads, coded))


class _Recent:
    """Records made lately, by their contents: a search asks for the same tensors' sizes again and again."""

    def __init__(self, most: int = 512, longest: int = 1 << 16, widest: int = 1 << 24) -> None:
        self.most, self.longest, self.widest = most, longest, widest
        self._records: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = Lock()

    def record(self, writer: _Writer) -> bytes:
        if sum(t.numel() * t.itemsize for t in writer.tensors) > self.widest:
            return writer.record()
        digest = blake2b(writer.structure)
        for tensor in writer.tensors:
            if tensor.numel():
                digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
        key = digest.digest()
        with self._lock:
            if key in self._records:
                self._records.move_to_end(key)
                return self._records[key]
        record = writer.record()
        if len(record) <= self.longest:
            with self._lock:
                self._records[key] = record
                while len(self._records) > self.most:
                    self._records.popitem(last=False)
        return record


_recent = _Recent()


def _class_tag(code: Code) -> bytes:
    name = type(code).__name__
    if not dataclasses.is_dataclass(code) or Code.registry.get(name) is not type(code):
        raise TautError(f"{name} cannot be stored: a Code must be a frozen dataclass, and its class registered under its name")
    if name in CLASSES:
        return bytes([KNOWN + CLASSES.index(name)])
    return bytes([NAMED]) + text(name) + varint(len(dataclasses.fields(code)))


def _scalar(value: Any) -> bytes:
    if value is None:
        return bytes([NONE])
    if isinstance(value, bool):
        return bytes([TRUE if value else FALSE])
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise TautError(f"the number {value} in a code does not fit 64 bits")
        return bytes([SMALL + value]) if 0 <= value < TENSOR - SMALL else bytes([INT]) + varint(zigzag(value))
    if isinstance(value, float):
        return bytes([FLOAT]) + struct.pack("<d", value)
    if isinstance(value, str):
        return bytes([STRING]) + text(value)
    raise TautError(f"a code holds a {type(value).__name__}; a file can hold tensors, codes, numbers, strings, tuples and None")


def encode(code: Code | Tensor) -> bytes:
    """The record of a code (or of a plain tensor): exactly the bytes that a file holds for it.

    Errors:
        TautError: a field is of a kind that a file cannot hold (complex tensors, lists, other objects).

    Example:
        >>> import torch
        >>> decode(encode(torch.tensor([1.0, float("nan"), -0.0])))
        tensor([1., nan, -0.])
        >>> len(encode(torch.zeros(1000, 1000)))  # six bytes of type and shape, one of each stream length and mode
        7
    """
    writer = _Writer()
    writer.add(code)
    return _recent.record(writer)


def size(code: Code | Tensor) -> int:
    """The length of the record in bytes, exactly.

    Example:
        >>> import torch
        >>> size(torch.ones(8)) == len(encode(torch.ones(8)))
        True
    """
    return len(encode(code))


def decode(data: bytes, max_elements: int | None = None) -> Code | Tensor:
    """The code or tensor of a record, bit for bit.

    Errors:
        FormatError: the record is damaged, of an unknown class, or declares more elements than ``max_elements``
            (by default 2**22 and 1024 for every byte).
    """
    value = materialise(parse(data), default_limit(len(data)) if max_elements is None else max_elements)
    if not isinstance(value, Code | Tensor):
        raise FormatError(f"the record holds a {type(value).__name__} instead of a code or a tensor")
    return value
