"""One record: a tensor or a code tree as bytes, and back, bit for bit.

``record = length of the stream, structure, heads, stream``. The *structure* says classes, fields, types and shapes, so sizes are
known (and refused) before anything is allocated; the *heads* say how each tensor is stored; the *stream* is the entropy-coded
rest of all tensors of the record, one after the other.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

import taut.compressors  # noqa: F401 - registers the codes
from taut.codec.coder import Decoder, Encoder
from taut.codec.tensors import TENSOR, Declared, plan_tensor, read_declared, read_tensor
from taut.codec.wire import Reader, text, varint, zigzag
from taut.compressors.base import Code
from taut.errors import FormatError, TautError

NONE, FALSE, TRUE, INT, FLOAT, STRING, TUPLE, NAMED = range(8)
KNOWN = 0x10  # tags from here to SMALL: a class of CLASSES
SMALL = 0x40  # tags from here to TENSOR: the whole numbers 0 … 63
# the position is the number in the file: append only. Other classes are stored by name
CLASSES = ("DenseCode", "TransposedCode", "LowRankCode", "PruneCode", "CodebookCode", "QuantizeCode")
MAX_DEPTH = 32
# what a record may expand to unless the caller says more
FREE_ELEMENTS, ELEMENTS_PER_BYTE = 1 << 24, 1 << 10


def default_limit(length: int) -> int:
    """Elements that ``length`` bytes may declare: 2**24, and 1024 for every byte (4096 times as small as 32-bit floats)."""
    return FREE_ELEMENTS + ELEMENTS_PER_BYTE * length


@dataclass
class _Writer:
    structure: bytearray = field(default_factory=bytearray)
    heads: bytearray = field(default_factory=bytearray)
    stream: Encoder = field(default_factory=Encoder)

    def add(self, value: Any, depth: int = 0) -> None:
        if depth > MAX_DEPTH:
            raise TautError(f"a code nests deeper than {MAX_DEPTH} levels")
        if isinstance(value, Tensor):
            declared, head, enc = plan_tensor(value)
            self.structure += declared
            self.heads += head
            self.stream.extend(enc)
        elif isinstance(value, Code):
            self.structure += _class_tag(value)
            for part in value.fields().values():
                self.add(part, depth + 1)
        elif isinstance(value, tuple):
            self.structure += bytes([TUPLE]) + varint(len(value))
            for part in value:
                self.add(part, depth + 1)
        else:
            self.structure += _scalar(value)


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

    Raises:
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
    stream = writer.stream.finish()
    return varint(len(stream)) + bytes(writer.structure) + bytes(writer.heads) + stream


def size(code: Code | Tensor) -> int:
    """The length of the record in bytes, exactly.

    Example:
        >>> import torch
        >>> size(torch.ones(8)) == len(encode(torch.ones(8)))
        True
    """
    return len(encode(code))


@dataclass
class Record:
    """A record whose structure was read, and nothing of its tensors: ``tree`` holds :class:`Declared` in their places."""

    tree: Any
    heads: Reader
    stream: memoryview

    @property
    def elements(self) -> int:
        """Elements of all tensors together."""
        return sum(leaf.elements for _, leaf in leaves(self.tree))


@dataclass
class Node:
    """A code whose tensors are not decoded yet."""

    cls: type[Code]
    fields: dict[str, Any]


def parse(data: bytes | memoryview) -> Record:
    """Read a record's structure; allocates nothing that the structure declares."""
    head = Reader(data)
    length = head.varint()
    if length > head.left:
        raise FormatError(f"cut short: a stream of {length} bytes is announced, {head.left} are left")
    whole, split = head.data, len(head.data) - length
    head.data = whole[:split]
    return Record(_read_value(head, 0), head, whole[split:])


def _read_value(head: Reader, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise FormatError(f"a code nests deeper than {MAX_DEPTH} levels")
    tag = head.byte()
    if tag & TENSOR:
        return read_declared(tag, head)
    if tag >= SMALL:
        return tag - SMALL
    if tag >= KNOWN or tag == NAMED:
        return _read_node(tag, head, depth)
    if tag == TUPLE:
        count = head.varint()
        if count > head.left:
            raise FormatError(f"a tuple of {count} values is declared, {head.left} bytes are left")
        return tuple(_read_value(head, depth + 1) for _ in range(count))
    if tag == INT:
        return head.signed()
    if tag == FLOAT:
        return struct.unpack("<d", head.take(8))[0]
    if tag == STRING:
        return head.text()
    return {NONE: None, FALSE: False, TRUE: True}[tag] if tag in (NONE, FALSE, TRUE) else _unknown(tag)


def _unknown(tag: int) -> Any:
    raise FormatError(f"unknown tag {tag}")


def _read_node(tag: int, head: Reader, depth: int) -> Node:
    if tag == NAMED:
        name = head.text()
    elif tag - KNOWN < len(CLASSES):
        name = CLASSES[tag - KNOWN]
    else:
        raise FormatError(f"unknown class number {tag - KNOWN}")
    cls = Code.registry.get(name)
    if cls is None or not dataclasses.is_dataclass(cls):
        raise FormatError(f"the class {name} is not known here; import the module that defines it, then load again")
    names = [f.name for f in dataclasses.fields(cls)]
    if tag == NAMED and (count := head.varint()) != len(names):
        raise FormatError(f"{name} was stored with {count} fields and has {len(names)} here: {', '.join(names)}")
    return Node(cls, {n: _read_value(head, depth + 1) for n in names})


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Declared]]:
    """The tensors of a tree in the order of the file, each with its dotted field name."""
    if isinstance(tree, Declared):
        yield path, tree
    parts = tree.fields.items() if isinstance(tree, Node) else enumerate(tree) if isinstance(tree, tuple) else ()
    for name, part in parts:
        yield from leaves(part, f"{path}.{name}".lstrip("."))


def materialise(record: Record, limit: int, used: dict[str, float] | None = None) -> Code | Tensor:
    """Decode the tensors of a parsed record; ``used`` receives the bytes that each took (heads and share of the stream)."""
    if record.elements > limit:
        raise FormatError(
            f"{record.elements:,} elements are declared in {len(record.heads.data) + len(record.stream):,} bytes, more than the "
            f"limit of {limit:,}; if the file is trusted, pass max_elements={record.elements}"
        )
    try:
        stream = Decoder(record.stream)
        value = _fill(record.tree, record.heads, stream, used, "")
        stream.close()
    except FormatError:
        raise
    except MemoryError:
        raise FormatError("the declared tensors do not fit the memory of this machine") from None
    except (ValueError, TypeError, RuntimeError, IndexError, OverflowError, TautError) as error:
        raise FormatError(f"the record cannot be decoded: {error}") from error
    if record.heads.left:
        raise FormatError(f"{record.heads.left} bytes follow the last tensor")
    return value


def _fill(tree: Any, heads: Reader, stream: Decoder, used: dict[str, float] | None, path: str) -> Any:
    if isinstance(tree, Declared):
        before = 8 * heads.at + 0.0, stream.bits
        tensor = read_tensor(tree, heads, stream)
        if used is not None:
            used[path] = (8 * heads.at - before[0] + before[1] - stream.bits) / 8
        return tensor
    if isinstance(tree, tuple):
        return tuple(_fill(part, heads, stream, used, f"{path}.{i}".lstrip(".")) for i, part in enumerate(tree))
    if isinstance(tree, Node):
        parts = {n: _fill(part, heads, stream, used, f"{path}.{n}".lstrip(".")) for n, part in tree.fields.items()}
        return tree.cls(**parts)
    return tree


def decode(data: bytes, max_elements: int | None = None) -> Code | Tensor:
    """The code or tensor of a record, bit for bit.

    Raises:
        FormatError: the record is damaged, of an unknown class, or declares more elements than ``max_elements``
            (by default 2**24 and 1024 for every byte).
    """
    value = materialise(parse(data), default_limit(len(data)) if max_elements is None else max_elements)
    if not isinstance(value, Code | Tensor):
        raise FormatError(f"the record holds a {type(value).__name__} instead of a code or a tensor")
    return value
