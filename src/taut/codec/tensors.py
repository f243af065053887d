"""One tensor: type and shape in the head, then the shortest mode of its kind of number."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from taut.codec import masks
from taut.codec.coder import Decoder, Encoder
from taut.codec.contexts import Within
from taut.codec.floats import plan_floats, read_floats
from taut.codec.ints import Plan, plan_ints, read_ints
from taut.codec.wire import Reader, varint
from taut.errors import FormatError, TautError

# the position is the number in the file: append only
DTYPES = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.bool, torch.uint8, torch.int8, torch.int16,
    torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2,
)
_FLOATS = {torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2}
_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
TENSOR = 0x80  # the bit of a tag that says: a tensor
LONG_RANK = 7  # this rank in the tag means: the rank follows
MAX_RANK = 64
MAX_ELEMENTS = 1 << 32  # of one tensor


@dataclass(frozen=True)
class Declared:
    """What a record's head says of a tensor, before anything is allocated."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def memory(self) -> int:
        """Bytes it will take."""
        return self.elements * self.dtype.itemsize


def declare(tensor: Tensor) -> bytes:
    """Type and shape as a record's structure holds them."""
    if tensor.dtype not in DTYPES or tensor.layout != torch.strided or tensor.is_quantized:
        raise TautError(
            f"a tensor of dtype {tensor.dtype} and layout {tensor.layout} cannot be stored; convert it to a dense real type"
        )
    shape = tuple(tensor.shape)
    if len(shape) > MAX_RANK or prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
        raise TautError(f"a tensor of shape {shape} is too large to be stored: at most {MAX_RANK} dimensions and 2**32 elements")
    rank = min(len(shape), LONG_RANK)
    tag = TENSOR | DTYPES.index(tensor.dtype) << 3 | rank
    return bytes([tag]) + (varint(len(shape)) if rank == LONG_RANK else b"") + b"".join(map(varint, shape))


def plan_tensor(tensor: Tensor, mask: Tensor | None = None) -> Plan:
    """(head, coded part) of a contiguous tensor; ``mask``: at whose places its elements lie, if it has as many."""
    shape, flat = tuple(tensor.shape), tensor.reshape(-1)
    if not flat.numel():
        return b"", Encoder()
    if tensor.dtype == torch.bool:
        return masks.plan_mask(flat.numpy(), shape)
    if tensor.dtype in _FLOATS:
        bits = flat.view(_SIGNED[flat.itemsize]).numpy().view(_UNSIGNED[flat.itemsize])
        return plan_floats(bits, shape, tensor.dtype == torch.float32)
    numbers = flat.view(torch.int64) if tensor.dtype == torch.uint64 else flat
    return plan_ints(numbers.numpy(), shape, _within(shape, mask))


def _within(shape: tuple[int, ...], mask: Tensor | None) -> Within | None:
    if mask is None or mask.dtype != torch.bool or len(shape) != 1 or int(mask.sum()) != shape[0]:
        return None
    return Within(mask.numpy())


def read_declared(tag: int, head: Reader) -> Declared:
    """Type and shape; absurd ones are an error here, before any memory is taken."""
    number, rank = (tag & ~TENSOR) >> 3, tag & 7
    if number >= len(DTYPES):
        raise FormatError(f"unknown tensor type {number}")
    rank = head.varint() if rank == LONG_RANK else rank
    if rank > MAX_RANK:
        raise FormatError(f"a tensor of {rank} dimensions is declared; at most {MAX_RANK} are allowed")
    shape = tuple(head.varint() for _ in range(rank))
    # an empty tensor may not hide absurd sizes either: strides would overflow
    if prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
        raise FormatError(f"a tensor of shape {shape} is declared; at most 2**32 elements are allowed")
    return Declared(DTYPES[number], shape)


def read_tensor(declared: Declared, head: Reader, dec: Decoder, mask: Tensor | None = None) -> Tensor:
    """The tensor itself; ``mask`` as for :func:`plan_tensor`."""
    dtype, shape, count = declared.dtype, declared.shape, declared.elements
    if dtype == torch.bool:
        return torch.from_numpy(masks.read_mask(head, dec, count, shape)).reshape(shape)
    size = dtype.itemsize
    if dtype in _FLOATS:
        bits = read_floats(head, dec, count, shape, np.dtype(_UNSIGNED[size]))
        signed = bits.view(np.dtype(_UNSIGNED[size]).str.replace("u", "i"))
        return torch.from_numpy(signed).view(dtype).reshape(shape)
    kind = np.dtype(np.int64) if dtype == torch.uint64 else np.dtype(str(dtype).removeprefix("torch."))
    return torch.from_numpy(read_ints(head, dec, count, shape, kind, _within(shape, mask))).view(dtype).reshape(shape)
