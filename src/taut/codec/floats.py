"""Floating-point numbers, bit for bit: a constant, raw, a shorter type, bytes coded plane by plane, a palette, or zeros apart.

Everything works on the bit patterns as unsigned integers, so NaN payloads, -0.0 and subnormals stay as they are.
"""

from __future__ import annotations

import numpy as np
import torch

from taut.codec import masks
from taut.codec.coder import CHUNK, Decoder, Encoder
from taut.codec.ints import RAW, Plan, cost, plan_ints, read_ints
from taut.codec.wire import Reader, varint
from taut.errors import FormatError

ALL_ZERO, CONSTANT, PLAIN, HALF, BRAIN, PLANES, SPARSE, PALETTE = range(8)
PALETTE_SIZE = 256
SAMPLE = 1 << 14
Bits = np.ndarray  # unsigned, as wide as the float


def plan_floats(bits: Bits, shape: tuple[int, ...] = (), single: bool = True) -> Plan:
    """The shortest head and coded part for bit patterns; ``single``: they are 32-bit floats, which may fit 16 bits."""
    first = bits[0]
    if bool((bits == first).all()):
        constant = bytes([CONSTANT]) + _raw(bits[:1]) if first else bytes([ALL_ZERO])
        shorter = _shorter(bits) if single and len(bits) == 1 and bits.dtype == np.uint32 else []
        return min([(constant, Encoder()), *shorter], key=cost)
    plans: list[Plan] = []
    if single and bits.dtype == np.uint32:
        plans += _shorter(bits)
    if len(bits) > 8:
        plans += _palette(bits, shape)
        plans.append(_planes(bits))
    zeros = int((bits == 0).sum())
    if 4 * zeros > len(bits):
        plans.append(_sparse(bits, shape))
    best = min(plans, key=cost, default=None)
    return best if best and cost(best) < 8 * (1 + bits.nbytes) else (bytes([PLAIN]) + _raw(bits), Encoder())


def read_floats(head: Reader, dec: Decoder, count: int, shape: tuple[int, ...], dtype: np.dtype) -> Bits:
    """The bit patterns that :func:`plan_floats` planned; ``dtype`` is unsigned."""
    if count == 0:
        return np.zeros(0, dtype=dtype)
    mode = head.byte()
    if mode == ALL_ZERO:
        return np.zeros(count, dtype=dtype)
    if mode == CONSTANT:
        return np.full(count, _read_raw(head, 1, dtype)[0], dtype=dtype)
    if mode == PLAIN:
        return _read_raw(head, count, dtype)
    if mode in (HALF, BRAIN) and dtype == np.uint32:
        short = _read_raw(head, count, np.dtype(np.uint16))
        return _widen(short) if mode == HALF else short.astype(np.uint32) << np.uint32(16)
    if mode == PLANES:
        return _read_planes(head, dec, count, dtype)
    if mode == SPARSE:
        there = masks.read_mask(head, dec, count, shape)
        if head.left and head.data[head.at] == SPARSE:
            raise FormatError("zeros are set apart twice")
        out = np.zeros(count, dtype=dtype)
        out[there] = read_floats(head, dec, int(there.sum()), (), dtype)
        return out
    if mode == PALETTE:
        size = head.varint()
        if size > PALETTE_SIZE:
            raise FormatError(f"a palette of {size} values is declared; at most {PALETTE_SIZE} are allowed")
        palette = _read_raw(head, size, dtype)
        index = read_ints(head, dec, count, shape, np.dtype(np.uint8))
        if int(index.max()) >= size:
            raise FormatError("an index is beyond its palette")
        return palette[index]
    raise FormatError(f"unknown floating-point mode {mode}")


def _raw(bits: Bits) -> bytes:
    return bits.astype(bits.dtype.newbyteorder("<"), copy=False).tobytes()


def _read_raw(head: Reader, count: int, dtype: np.dtype) -> Bits:
    return np.frombuffer(head.take(count * dtype.itemsize), dtype=dtype.newbyteorder("<")).astype(dtype)


def _widen(short: Bits) -> Bits:
    """16-bit floats as 32-bit ones."""
    half = torch.from_numpy(short.view(np.int16)).view(torch.float16)
    return half.float().view(torch.int32).numpy().view(np.uint32)


def _shorter(bits: Bits) -> list[Plan]:
    """As 16-bit floats, where every single bit comes back."""
    plans: list[Plan] = []
    if not bool((bits & np.uint32(0xFFFF)).any()):
        plans.append((bytes([BRAIN]) + _raw((bits >> np.uint32(16)).astype(np.uint16)), Encoder()))
    low = bits[:SAMPLE] & np.uint32(0x1FFF)
    # 13 lost bits are zero for normal halves; the few subnormal ones are left to the full check
    if (low != 0).mean() < 0.5:
        half = torch.from_numpy(bits.view(np.int32)).view(torch.float32).half().view(torch.int16).numpy().view(np.uint16)
        if np.array_equal(_widen(half), bits):
            plans.append((bytes([HALF]) + _raw(half), Encoder()))
    return plans


def _palette(bits: Bits, shape: tuple[int, ...]) -> list[Plan]:
    """Few distinct values: a table of them, and indices."""
    if len(np.unique(bits[:SAMPLE])) > PALETTE_SIZE:
        return []
    palette, index = np.unique(bits, return_inverse=True)
    if len(palette) > min(PALETTE_SIZE, len(bits) // 2):
        return []
    # in the order of the numbers, not of their bit patterns, so that a law over the indices is smooth
    top = np.iinfo(bits.dtype).max
    order = np.argsort(np.where(palette >> (8 * bits.itemsize - 1) & 1, top - palette, palette | ~(top >> 1) & top))
    rank = np.empty(len(order), dtype=np.uint8)
    rank[order] = np.arange(len(order))
    head, enc = plan_ints(rank[index.reshape(-1)], shape)
    return [(bytes([PALETTE]) + varint(len(palette)) + _raw(palette[order]) + head, enc)]


def _planes(bits: Bits) -> Plan:
    """Rotated left by one, so that the exponent fills the top byte; then every byte position on its own."""
    head, enc = bytes([PLANES]), Encoder()
    rotated = _rotate(bits, 1)
    for plane in rotated.astype(rotated.dtype.newbyteorder("<"), copy=False).view(np.uint8).reshape(len(bits), -1).T:
        plane_head, plane_enc = _plan_plane(plane)
        head += plane_head
        enc.extend(plane_enc)
    return head, enc


def _plan_plane(plane: np.ndarray) -> Plan:
    """A plane of noise, which a sample tells, is not worth a model (about two bits for each value that occurs)."""
    plane = np.ascontiguousarray(plane)
    counts = np.bincount(plane[:SAMPLE], minlength=256)
    counts = counts[counts > 0]
    bits = -(counts * np.log2(counts / counts.sum())).sum() / counts.sum() + 2 * len(counts) / len(plane)
    return (bytes([RAW]) + plane.tobytes(), Encoder()) if bits > 7.9 else plan_ints(plane)


def _read_planes(head: Reader, dec: Decoder, count: int, dtype: np.dtype) -> Bits:
    out = np.zeros((count, dtype.itemsize), dtype=np.uint8)
    for position in range(dtype.itemsize):
        out[:, position] = read_ints(head, dec, count, (), np.dtype(np.uint8))
    return _rotate(out.reshape(-1).view(dtype.newbyteorder("<")).astype(dtype, copy=False), -1)


def _rotate(bits: Bits, by: int) -> Bits:
    width = 8 * bits.itemsize
    left, right = (1, width - 1) if by > 0 else (width - 1, 1)
    out = np.empty_like(bits)
    kind = bits.dtype.type
    for start in range(0, len(bits), CHUNK):
        part = bits[start : start + CHUNK]
        out[start : start + CHUNK] = part << kind(left) | part >> kind(right)
    return out


def _sparse(bits: Bits, shape: tuple[int, ...]) -> Plan:
    there = bits != 0
    head, enc = masks.plan_mask(there, shape)
    rest_head, rest = plan_floats(bits[there])  # without rows and columns, and without a zero
    both = Encoder()
    both.extend(enc)
    both.extend(rest)
    return bytes([SPARSE]) + head + rest_head, both

