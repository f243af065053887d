"""Whole numbers: the shortest of a constant, raw bytes, a table, a geometric law, an adaptive model, size classes, a split, or
neighbours.

Each mode is one byte in the record's head; what it stores there and what goes through the entropy coder is in docs/format.md.
"""

from __future__ import annotations

import numpy as np

from taut.codec import contexts, masks
from taut.codec.coder import CHUNK, MAX_ALPHABET, Decoder, Encoder, code_bits, histogram
from taut.codec.contexts import Within
from taut.codec.models import (
    decode_adaptive,
    decode_table,
    encode_adaptive,
    encode_table,
    fit_geometric,
    geometric,
)
from taut.codec.wire import Reader, varint, zigzag
from taut.errors import FormatError

CONSTANT, RAW, TABLE, GEOMETRIC, ADAPTIVE, CLASSES, SPLIT, PLACED = range(8)
ADAPTIVE_SYMBOLS, ADAPTIVE_ALPHABET = 1 << 16, 256
LARGE, SAMPLE = 1 << 21, 1 << 17
"""Elements of a tensor whose first rows, of so many elements, tell what is worth trying."""
Plan = tuple[bytes, Encoder]


def cost(plan: Plan) -> float:
    """Bits of a plan: its head and its coded part."""
    return 8 * len(plan[0]) + plan[1].bits


def plan_ints(values: np.ndarray, shape: tuple[int, ...] = (), within: Within | None = None) -> Plan:
    """The shortest head and coded part for 1-D integers.

    ``shape``: the tensor's, where rows and columns may help; ``within``: the mask at whose places the integers lie.
    """
    low, high = int(values.min()), int(values.max())
    if low == high:
        return bytes([CONSTANT]) + varint(zigzag(low)), Encoder()
    size = high - low + 1
    plans: list[Plan] = []
    if size > MAX_ALPHABET:
        plans.append(_classes(values))
    else:
        counts = histogram(values, low, size)
        plans += _histogram_plans(values, counts, low)
        common = int(counts.argmax())
        gathered = len(shape) > 1 and len(values) <= masks.MAX_ELEMENTS and _gathered(counts, common)
        if gathered and _pays(values, shape, low + common):
            plans.append(_split(values, shape, low + common))
        if within is not None and (placed := contexts.plan_values(values, within)) is not None:
            plans.append((bytes([PLACED]) + placed[0], placed[1]))
    best = min(plans, key=cost)
    return best if cost(best) < 8 * (1 + values.nbytes) else _raw(values)


def _gathered(counts: np.ndarray, common: int) -> bool:
    """Whether most numbers are near the common one, and a model of its places may pay."""
    away = np.abs(np.arange(len(counts)) - common)
    return bool(counts[common] > 0.4 * counts.sum() or (counts * away).sum() <= 8 * counts.sum())


def _pays(values: np.ndarray, shape: tuple[int, ...], common: int) -> bool:
    """Whether a split is shorter than one model for all, of the first rows of a large tensor; small ones are tried whole."""
    rows = SAMPLE * shape[0] // len(values)
    if len(values) <= LARGE or rows < 2:
        return True
    some = values[: rows * (len(values) // shape[0])]
    low, high = int(some.min()), int(some.max())
    plans = _histogram_plans(some, histogram(some, low, high - low + 1), low) if low < common < high else []
    return not plans or cost(_split(some, (rows, *shape[1:]), common)) < min(map(cost, plans))


def read_ints(
    head: Reader, dec: Decoder, count: int, shape: tuple[int, ...], dtype: np.dtype, within: Within | None = None
) -> np.ndarray:
    """The integers that :func:`plan_ints` planned."""
    if count == 0:
        return np.zeros(0, dtype=dtype)
    mode, grain = head.byte(), 0
    mode, grain = mode & 15, mode >> 4
    if mode == CONSTANT:
        return np.full(count, _fit(head.signed(), dtype), dtype=dtype)
    if mode == RAW:
        return np.frombuffer(head.take(count * dtype.itemsize), dtype=dtype.newbyteorder("<")).astype(dtype)
    if mode == CLASSES:
        return _read_classes(head, dec, count, dtype)
    if mode == SPLIT:
        return _read_split(head, dec, count, shape, dtype)
    if mode == PLACED:
        wide = contexts.read_values(head, dec, within, count)
        _fit(int(wide.min()), dtype), _fit(int(wide.max()), dtype)
        return wide.astype(dtype)
    low, size = head.signed(), head.varint() + 1
    if not 1 < size <= MAX_ALPHABET:
        raise FormatError(f"an alphabet of {size} symbols is declared; at most {MAX_ALPHABET} are allowed")
    _fit(low, dtype), _fit(low + size - 1, dtype)
    if mode == TABLE:
        return dec.static(count, decode_table(dec, size, grain), low, dtype)
    if mode == GEOMETRIC:
        centre, at_centre, decay = head.varint(), head.byte(), head.byte()
        if centre >= size or not at_centre or decay > 103:
            raise FormatError("a geometric model is out of range")
        return dec.static(count, geometric(size, centre, at_centre, decay), low, dtype)
    if mode == ADAPTIVE:
        if size > ADAPTIVE_ALPHABET or count > ADAPTIVE_SYMBOLS:
            raise FormatError("an adaptive model is declared for too many symbols")
        return (decode_adaptive(dec, count, size).astype(np.int64) + low).astype(dtype)
    raise FormatError(f"unknown integer mode {mode}")


def _fit(value: int, dtype: np.dtype) -> int:
    info = np.iinfo(dtype)
    if not info.min <= value <= info.max:
        raise FormatError(f"the number {value} does not fit {dtype}")
    return value


def _raw(values: np.ndarray) -> Plan:
    return bytes([RAW]) + values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes(), Encoder()


def _histogram_plans(values: np.ndarray, counts: np.ndarray, low: int) -> list[Plan]:
    size = len(counts)
    span = varint(zigzag(low)) + varint(size - 1)
    enc = Encoder()
    grain, freqs = encode_table(enc, counts)
    enc.static(values, freqs, low, counts)
    plans: list[Plan] = [(bytes([TABLE | grain << 4]) + span, enc)]
    fit = fit_geometric(counts)
    freqs = geometric(size, *fit)
    if code_bits(counts, freqs) < plans[0][1].bits:
        enc = Encoder()
        enc.static(values, freqs, low, counts)
        plans.append((bytes([GEOMETRIC]) + span + varint(fit[0]) + bytes(fit[1:]), enc))
    if size <= ADAPTIVE_ALPHABET and len(values) <= ADAPTIVE_SYMBOLS:
        enc = Encoder()
        encode_adaptive(enc, values.astype(np.int64) - low, size)
        plans.append((bytes([ADAPTIVE]) + span, enc))
    return plans


def _split(values: np.ndarray, shape: tuple[int, ...], common: int) -> Plan:
    """Where the most common value is (rows and columns tell), and the others in a row."""
    other = values != common
    head, enc = masks.plan_mask(other, shape)
    rest_head, rest = plan_ints(values[other], within=Within(other.reshape(shape), common))
    both = Encoder()
    both.extend(enc)
    both.extend(rest)
    return bytes([SPLIT]) + varint(zigzag(common)) + head + rest_head, both


def _read_split(head: Reader, dec: Decoder, count: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    common = _fit(head.signed(), dtype)
    other = masks.read_mask(head, dec, count, shape)
    out = np.full(count, common, dtype=dtype)
    chosen = int(other.sum())
    # a split inside a split would recurse without end; a row of values is never split again
    if head.left and chosen and head.data[head.at] & 15 == SPLIT:
        raise FormatError("a split lies inside a split")
    out[other] = read_ints(head, dec, chosen, (), dtype, Within(other.reshape(shape), common))
    return out


def _classes(values: np.ndarray) -> Plan:
    """A signed size class each (three leading bits), then the remaining bits as they are; in pieces, to spare memory."""
    codes, rest = np.empty(len(values), dtype=np.int16), Encoder()
    for start in range(0, len(values), CHUNK):
        wide = values[start : start + CHUNK].astype(np.int64)
        size = np.where(wide < 0, ~wide, wide).astype(np.uint64) + (wide < 0)
        length = _bit_length(size)
        extra = np.maximum(length - 3, 0)
        top = (size >> extra.astype(np.uint64)).astype(np.int64)
        code = np.where(length > 3, 8 + 4 * (length - 4) + (top & 3), top)
        codes[start : start + CHUNK] = np.where(wide < 0, -code, code)
        for width, where in _by_width(extra):
            for shift in range(0, width, 16):
                bits = min(16, width - shift)
                part = size[where] >> np.uint64(shift) & np.uint64((1 << bits) - 1)
                rest.uniform(part.astype(np.uint16), bits)
    head, enc = plan_ints(codes)
    enc.extend(rest)
    return bytes([CLASSES]) + head, enc


def _read_classes(head: Reader, dec: Decoder, count: int, dtype: np.dtype) -> np.ndarray:
    if head.left and head.data[head.at] & 15 in (CLASSES, SPLIT):
        raise FormatError("size classes lie inside size classes")
    codes = read_ints(head, dec, count, (), np.dtype(np.int16))
    out, info = np.empty(count, dtype=dtype), np.iinfo(dtype)
    for start in range(0, count, CHUNK):
        wide = _read_sizes(codes[start : start + CHUNK].astype(np.int64), dec)
        if wide.min() < info.min or wide.max() > info.max:
            raise FormatError(f"a number does not fit {dtype}")
        out[start : start + CHUNK] = wide
    return out


def _read_sizes(signed: np.ndarray, dec: Decoder) -> np.ndarray:
    """Numbers from their signed size classes and the bits that follow in the stream."""
    code = np.abs(signed)
    length = np.where(code < 8, 0, (code - 8) // 4 + 4)
    if int(length.max()) > 64:
        raise FormatError("a size class is beyond 64 bits")
    extra = np.maximum(length - 3, 0)
    size = np.where(code < 8, code, 4 + (code - 8) % 4).astype(np.uint64) << extra.astype(np.uint64)
    for width, where in _by_width(extra):
        for shift in range(0, width, 16):
            bits = dec.uniform(len(where), min(16, width - shift)).astype(np.uint64)
            size[where] |= bits << np.uint64(shift)
    return np.where(signed < 0, (~size + np.uint64(1)).view(np.int64), size.view(np.int64))


def _bit_length(values: np.ndarray) -> np.ndarray:
    """Bits of each number, by whole-number comparison."""
    powers = np.uint64(1) << np.arange(64, dtype=np.uint64)
    return np.searchsorted(powers, values, side="right").astype(np.int64)


def _by_width(extra: np.ndarray) -> list[tuple[int, np.ndarray]]:
    order = np.argsort(extra, kind="stable")
    widths, starts = np.unique(extra[order], return_index=True)
    groups = np.split(order, starts[1:])
    return [(int(w), group) for w, group in zip(widths, groups, strict=True) if w]
