"""Reading a record: its structure first, which allocates nothing, then its tensors."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import taut.compressors  # noqa: F401 - registers the codes
from taut.codec.coder import Decoder
from taut.codec.tensors import TENSOR, Declared, read_declared, read_tensor
from taut.codec.wire import Reader
from taut.compressors.base import Code
from taut.errors import FormatError, TautError

NONE, FALSE, TRUE, INT, FLOAT, STRING, TUPLE, NAMED = range(8)
KNOWN = 0x10  # tags from here to SMALL: a class of CLASSES
SMALL = 0x40  # tags from here to TENSOR: the whole numbers 0 … 63
# the position is the number in the file: append only. Other classes are stored by name
CLASSES = ("DenseCode", "TransposedCode", "LowRankCode", "PruneCode", "CodebookCode", "QuantizeCode", "PruneCode")
MASK_FIRST = 6
"""The number under which pruned weights are written: the mask first, and numbers at its places may be told from neighbours."""
MAX_DEPTH = 32
# what a record may expand to unless the caller says more
FREE_ELEMENTS, ELEMENTS_PER_BYTE = 1 << 22, 1 << 10


def default_limit(length: int) -> int:
    """Elements that ``length`` bytes may declare: 2**22, and 1024 for every byte (a ratio of 4096)."""
    return FREE_ELEMENTS + ELEMENTS_PER_BYTE * length


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
    mask_first: bool = False


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
    mask_first = tag == KNOWN + MASK_FIRST
    return Node(cls, {n: _read_value(head, depth + 1) for n in (reversed(names) if mask_first else names)}, mask_first)


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


def _fill(
    tree: Any, heads: Reader, stream: Decoder, used: dict[str, float] | None, path: str, mask: Tensor | None = None
) -> Any:  # fmt: skip
    if isinstance(tree, Declared):
        before = 8 * heads.at + 0.0, stream.bits
        tensor = read_tensor(tree, heads, stream, mask)
        if used is not None:
            used[path] = (8 * heads.at - before[0] + before[1] - stream.bits) / 8
        return tensor
    if isinstance(tree, tuple):
        return tuple(_fill(part, heads, stream, used, f"{path}.{i}".lstrip("."), mask) for i, part in enumerate(tree))
    if isinstance(tree, Node):
        parts: dict[str, Any] = {}
        for name, part in tree.fields.items():
            parts[name] = _fill(part, heads, stream, used, f"{path}.{name}".lstrip("."), mask)
            if tree.mask_first and isinstance(parts[name], Tensor) and name == "mask":
                mask = parts[name]
        return tree.cls(**parts)
    return tree
