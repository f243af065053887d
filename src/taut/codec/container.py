"""The file around the records: magic, version, records, index, length of the index, checksum.

``"TAUT" version | record … record | index | flags | length of the index, last byte first | CRC-32``. The index stands at the end,
so that a file of any size is written in one pass; it holds names, lengths of records, ties, original shapes, notes and a graph.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

from taut.codec.wire import Reader, text, varint
from taut.errors import FormatError, TautError

MAGIC = b"TAUT"
VERSION = 1
HEAD = 5  # magic, version
TAIL = 15  # flags, length of the index, checksum: at most
LARGE = 1 << 20  # records of more bytes than this in all are checked one by one, for lazy reading
WEIGHTS_ONLY, DEFLATED, CHECKED, RESIZED, NOTED, DRAWN = 1, 2, 4, 8, 16, 32
# what names are usually made of, most frequent last: raw deflate refers back to it
WORDS = (
    b"lm_head.model.embed_tokens.wte.wpe.transformer.h.0.attn.c_attn.c_proj.mlp.c_fc.ln_1.ln_2.ln_f.encoder.decoder.layers.0."
    b"self_attn.in_proj_weight\0in_proj_bias\0out_proj.q_proj.k_proj.v_proj.o_proj.gate_proj.up_proj.down_proj.weight\0"
    b"input_layernorm.post_attention_layernorm.norm1.norm2.linear1.linear2.embeddings.position_embeddings.word_embeddings."
    b"weight_ih_l0\0weight_hh_l0\0bias_ih_l0\0bias_hh_l0\0embedding.features.0.classifier.stem.head.block.blocks.downsample.0."
    b"shortcut.layer1.0.layer2.0.layer3.0.layer4.0.conv1.conv2.conv3.bn1.bn2.bn3.fc.fc1.fc2.fc3.0.weight\x000.bias\0"
    b"bn.weight\0bn.bias\0bn.running_mean\0bn.running_var\0bn.num_batches_tracked\0conv.weight\0conv.bias\0fc.weight\0fc.bias\0"
)


@dataclass(frozen=True)
class Entry:
    """One tensor in the index: where its record lies, or what it is tied to (the number of another entry)."""

    name: str
    start: int = 0
    length: int = 0
    alias: int | None = None
    crc: int | None = None


@dataclass
class Index:
    """All that a file says besides its records."""

    entries: list[Entry] = field(default_factory=list)
    weights_only: bool = False
    dense_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    graph: bytes = b""


def write_index(index: Index) -> bytes:
    """Everything between the last record and the checksum."""
    flags = WEIGHTS_ONLY if index.weights_only else 0
    checked = sum(e.length for e in index.entries) > LARGE
    body = varint(len(index.entries)) + b"".join(_name(e.name) + b"\0" for e in index.entries)
    body += b"".join(varint(e.length) if e.alias is None else b"\0" + varint(e.alias) for e in index.entries)
    if checked:
        flags |= CHECKED
        body += b"".join((e.crc or 0).to_bytes(4, "little") for e in index.entries if e.alias is None)
    if index.dense_shapes:
        flags |= RESIZED
        body += _write_shapes(index)
    if index.meta:
        flags |= NOTED
        body += text(_notes(index.meta))
    if index.graph:
        flags |= DRAWN
        body += varint(len(index.graph)) + index.graph
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, WORDS)
    packed = packer.compress(body) + packer.flush()
    if len(packed) < len(body):
        flags, body = flags | DEFLATED, packed
    if checked:
        body += zlib.crc32(body).to_bytes(4, "little")
    return body + bytes([flags]) + varint(len(body))[::-1]


def _name(name: str) -> bytes:
    if "\0" in name:
        raise TautError(f"the name {name!r} holds a zero character, which a file cannot hold")
    return name.encode("utf-8")


def _notes(meta: dict[str, Any]) -> str:
    try:
        return json.dumps(meta, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TautError(f"meta must be plain JSON (strings, numbers, lists, dicts): {error}") from None


def _write_shapes(index: Index) -> bytes:
    """The number of an entry plus one (or 0 and a name), rank, sizes."""
    numbers = {e.name: i + 1 for i, e in enumerate(index.entries)}
    out = varint(len(index.dense_shapes))
    for name, shape in index.dense_shapes.items():
        number = numbers.get(name, 0)
        out += varint(number) + (b"" if number else text(name)) + varint(len(shape)) + b"".join(map(varint, shape))
    return out


def check_head(head: bytes) -> None:
    """An error for a file that is not ours, or newer than this code."""
    if len(head) < HEAD or head[:4] != MAGIC:
        raise FormatError("this is not a .taut file")
    if head[4] > VERSION:
        raise FormatError(f"written by a newer taut, format {head[4]}; this one reads up to {VERSION}: pip install -U taut")
    if head[4] == 0:
        raise FormatError("format 0 never was: the file is damaged")


def read_tail(tail: bytes, length: int) -> tuple[int, int, int]:
    """(flags, start of the index, its length) from the last bytes of a file of ``length`` bytes."""
    size = 0
    for position in range(max(0, min(10, len(tail) - 5))):
        byte = tail[-5 - position]
        size |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            flags, start = tail[-6 - position], length - 6 - position - size
            if start < HEAD or flags >= 2 * DRAWN:
                break
            return flags, start, size
    raise FormatError("cut short or damaged: the index does not fit the file")


def read_index(body: bytes, flags: int, records_end: int) -> Index:
    """The index from its bytes; every length is checked against the file before it is used."""
    index = Index(weights_only=bool(flags & WEIGHTS_ONLY))
    reader = Reader(_unpack(body, flags))
    count = reader.varint()
    if count > reader.left:
        raise FormatError(f"{count} tensors are declared in an index of {len(reader.data)} bytes")
    at = HEAD
    for number, name in enumerate(_read_names(reader, count)):
        length = reader.varint()
        alias = None if length else _read_alias(reader, number, count)
        index.entries.append(Entry(name, at, length, alias))
        at += length
    if at != records_end:
        raise FormatError(f"the records end at byte {at}, the index begins at byte {records_end}")
    if flags & CHECKED:
        index.entries = [
            e if e.alias is not None else replace(e, crc=int.from_bytes(reader.take(4), "little")) for e in index.entries
        ]
    for entry in index.entries:
        if entry.alias is not None and index.entries[entry.alias].alias is not None:
            raise FormatError(f"tensor {entry.name!r}: it is tied to a tensor that is tied itself")
    _read_extras(reader, flags, index)
    return index


def _unpack(body: bytes, flags: int) -> bytes:
    """The index checked and inflated; it never unfolds to more than a megabyte and 64 times its length, whatever it claims."""
    if flags & CHECKED:
        if len(body) < 4 or zlib.crc32(body[:-4]) != int.from_bytes(body[-4:], "little"):
            raise FormatError("the index is damaged: its checksum does not match")
        body = body[:-4]
    if not flags & DEFLATED:
        return body
    stream = zlib.decompressobj(-15, zdict=WORDS)
    try:
        plain = stream.decompress(body, (1 << 20) + 64 * len(body))
    except zlib.error:
        raise FormatError("the index is damaged") from None
    if not stream.eof or stream.unused_data:
        raise FormatError("the index is damaged")
    return plain


def _read_names(reader: Reader, count: int) -> list[str]:
    rest = bytes(reader.data[reader.at :])
    parts = rest.split(b"\0", count)
    if len(parts) <= count:
        raise FormatError("the index is damaged: names are missing")
    reader.at += len(rest) - len(parts[-1])
    try:
        names = [part.decode("utf-8") for part in parts[:count]]
    except UnicodeDecodeError:
        raise FormatError("a name is not UTF-8") from None
    if len(set(names)) != count:
        raise FormatError("two tensors have the same name")
    return names


def _read_alias(reader: Reader, number: int, count: int) -> int:
    alias = reader.varint()
    if alias >= count or alias == number:
        raise FormatError(f"a tensor is tied to tensor {alias} of {count}")
    return alias


def _read_extras(reader: Reader, flags: int, index: Index) -> None:
    if flags & RESIZED:
        for _ in range(reader.varint()):
            number = reader.varint()
            if number > len(index.entries):
                raise FormatError("an original shape belongs to no tensor")
            name = index.entries[number - 1].name if number else reader.text()
            index.dense_shapes[name] = tuple(reader.varint() for _ in range(min(reader.varint(), reader.left)))
    if flags & NOTED:
        try:
            index.meta = json.loads(reader.text())
        except (ValueError, RecursionError):
            raise FormatError("the notes are not JSON") from None
        if not isinstance(index.meta, dict):
            raise FormatError("the notes are not a JSON object")
    if flags & DRAWN:
        index.graph = bytes(reader.take(reader.varint()))
    if reader.left:
        raise FormatError(f"{reader.left} bytes follow the index")
