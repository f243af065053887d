"""Masks and whole numbers coded by their neighbours: which neighbours and how fast to learn is tried, and the shortest is kept.

The models are in :mod:`taut.codec.neighbours`; what is stored of them is one byte, and two numbers where a shape does not
tell where the neighbours are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from math import prod

import numpy as np

from taut.codec import neighbours
from taut.codec.coder import PRECISION, TOTAL, Decoder, Encoder
from taut.codec.wire import Reader, varint, zigzag
from taut.errors import FormatError
from taut.numeric.geometry import distances, of_shape

MAX_ELEMENTS = 1 << 21
"""Of larger tensors the frequencies would take too much memory."""
THOROUGH = 1 << 19
"""Above this many elements fewer settings are tried."""
SLOW = 14
"""The fastest learning: steps of 2**-14; three slower ones, each half as fast."""
USUAL = SLOW + 2
NOWHERE, SHAPE, STORED = range(3)
STEPS = 10
"""Decisions for each whole number, in the mean, that are worth coding one by one; a reader takes no more."""
MAX_SPAN = 512

Shape = tuple[int, ...]
Geometry = tuple[int, int]
Coded = tuple[float, np.ndarray, np.ndarray]
"""Bits, the decisions and their frequencies."""


def fits(shape: Shape) -> bool:
    """Whether a tensor has rows with neighbours in them, and not too many."""
    return len(shape) > 1 and prod(shape) <= MAX_ELEMENTS and prod(shape[1:]) > 1


def plan_places(mask: np.ndarray, shape: Shape) -> tuple[bytes, Encoder]:
    """The head, without its mode, and the coded part of where a flat boolean array is true."""
    matrix, ones = _matrix(mask, shape), int(mask.sum())
    coded, geometries = partial(_places, matrix, _density(ones, mask.size)), _geometries(matrix, shape)
    how, best = _best(coded, coded(geometries[0], USUAL), geometries, mask.size)
    return varint(ones) + _head(*how, shape), _encoder(*best[1:])


def read_places(head: Reader, dec: Decoder, count: int, shape: Shape) -> np.ndarray:
    """The flat boolean array that :func:`plan_places` planned."""
    ones = head.varint()
    if not 0 < ones < count:
        raise FormatError(f"a mask of {count} elements declares {ones} ones")
    how, matrix = _read_how(head, shape), np.zeros((shape[0], count // shape[0]), dtype=np.uint8)
    dec.mixed(lambda coder: neighbours.places(matrix, _density(ones, count), how, coder, _NO_FREQS))
    return matrix.reshape(-1).view(bool)


@dataclass(frozen=True)
class Within:
    """Where a row of whole numbers lies: in order, at the places of a ``mask``. None of them is ``common``."""

    mask: np.ndarray
    common: int | None = None

    def closed(self, values: np.ndarray) -> np.ndarray:
        """The numbers, as if there were no such number as the common one."""
        return values if self.common is None else values - (values > self.common)

    def opened(self, values: np.ndarray) -> np.ndarray:
        """The inverse of ``closed``."""
        return values if self.common is None else values + (values >= self.common)


def plan_values(values: np.ndarray, within: Within) -> tuple[bytes, Encoder] | None:
    """The head, without its mode, and the coded part of whole numbers at the places of a mask.

    Where the signs change is among what is tried: indices of a codebook do not say which of its values are negative. ``None``
    where they are too many or too large for such a model.
    """
    wide = within.closed(values.astype(np.int64))
    low, middle = int(wide.min()), int(np.median(wide))
    span = int(wide.max()) - low + 1
    if not fits(within.mask.shape) or not 1 < span <= MAX_SPAN:
        return None
    matrix, shape, trials = _matrix(within.mask, within.mask.shape), within.mask.shape, {}
    geometries = _geometries(matrix, shape)
    for zero in {middle, middle + 1, low + span if within.common is None else within.common}:
        signed, most = _signed(wide, zero), (zero - low, low + span - zero, STEPS * len(wide))
        if min(most) >= 0 and len(wide) + np.abs(signed).sum() <= most[2]:
            coded = partial(_sizes, signed, matrix, most)
            trials[zero] = coded, coded(geometries[0], USUAL)
    if not trials:
        return None
    zero = min(trials, key=lambda zero: trials[zero][1][0])
    how, best = _best(*trials[zero], geometries, len(wide))
    return varint(zigzag(low)) + varint(span - 1) + varint(zero - low) + _head(*how, shape), _encoder(*best[1:])


def read_values(head: Reader, dec: Decoder, within: Within | None, count: int) -> np.ndarray:
    """The whole numbers that :func:`plan_values` planned."""
    low, span, below = head.signed(), head.varint() + 1, head.varint()
    if within is None or int(within.mask.sum()) != count:
        raise FormatError(f"{count} whole numbers are declared to lie at the places of a mask that has others")
    if not 1 < span <= MAX_SPAN or below > span or abs(low) > 1 << 62:
        raise FormatError(f"{span} whole numbers from {low}, {below} of them negative, are declared to be coded by neighbours")
    how, signed = _read_how(head, within.mask.shape), np.zeros(count, dtype=np.int64)
    matrix, most, made = _matrix(within.mask, within.mask.shape), (below, span - below, STEPS * count), []
    dec.mixed(lambda coder: made.append(neighbours.sizes(signed, matrix, most, how, coder, _NO_BITS, _NO_FREQS)))
    if made[0] > most[2]:
        raise FormatError(f"{count} whole numbers take more than {most[2]} decisions")
    return within.opened(signed - (signed > 0) + low + below)


def _signed(values: np.ndarray, zero: int) -> np.ndarray:
    """-1, -2 … below ``zero``, 1, 2 … from there on."""
    return values - zero + (values >= zero)


def _sizes(signed: np.ndarray, matrix: np.ndarray, most: tuple[int, int, int], geometry: Geometry, slow: int) -> Coded:
    freqs = np.zeros(int(np.abs(signed).sum()) + len(signed), dtype=np.int32)
    bits = np.zeros(len(freqs), dtype=np.uint8)
    made = neighbours.sizes(signed, matrix, most, (*geometry, slow), _NO_CODER, bits, freqs)
    return _cost(bits[:made], freqs[:made])


def _places(matrix: np.ndarray, density: int, geometry: Geometry, slow: int) -> Coded:
    freqs = np.zeros(matrix.size, dtype=np.int32)
    neighbours.places(matrix, density, (*geometry, slow), _NO_CODER, freqs)
    return _cost(matrix.reshape(-1), freqs)


_NO_CODER, _NO_BITS, _NO_FREQS = np.zeros(0, np.uint64), np.zeros(0, np.uint8), np.zeros(0, np.int32)


def _matrix(mask: np.ndarray, shape: Shape) -> np.ndarray:
    return np.array(mask.reshape(shape[0], -1)).view(np.uint8)


def _density(ones: int, count: int) -> int:
    """In units of 2**-16."""
    return max(1, (ones << 16) // count)


def _cost(bits: np.ndarray, freqs: np.ndarray) -> Coded:
    return float((PRECISION - np.log2(np.where(bits, freqs, TOTAL - freqs))).sum()), bits, freqs


def _encoder(bits: np.ndarray, freqs: np.ndarray) -> Encoder:
    enc = Encoder()
    enc.binary(bits, freqs)
    return enc


def _geometries(matrix: np.ndarray, shape: Shape) -> list[Geometry]:
    """Where neighbours may be: what the shape says, or the distances at which a row of a matrix is like itself."""
    found = [of_shape(shape)]
    if len(shape) == 2 and matrix.size <= THOROUGH:
        peaks = distances(matrix)
        found += [(peak, 0) for peak in peaks[:1]] + list(permutations(peaks, 2))
    return found


def _best(
    coded: Callable[[Geometry, int], Coded], first: Coded, geometries: list[Geometry], count: int
) -> tuple[tuple[Geometry, int], Coded]:  # fmt: skip
    """The shortest: the geometry first, of which ``first`` is the first tried, then how fast to learn."""
    best, how = first, (geometries[0], USUAL)
    for geometry in geometries[1:]:
        trial = coded(geometry, USUAL)
        if trial[0] < best[0]:
            best, how = trial, (geometry, USUAL)
    for step in (1, -1) if count <= THOROUGH else ():
        # faster is tried only where slower did not pay
        while SLOW <= how[1] + step < SLOW + 4 and (step > 0 or how[1] <= USUAL):
            trial = coded(how[0], how[1] + step)
            if trial[0] >= best[0]:
                break
            best, how = trial, (how[0], how[1] + step)
    return how, best


def _head(geometry: Geometry, slow: int, shape: Shape) -> bytes:
    kind = NOWHERE if geometry == (0, 0) else SHAPE if geometry == of_shape(shape) else STORED
    stored = varint(geometry[0]) + varint(geometry[1]) if kind == STORED else b""
    return bytes([slow - SLOW | kind << 2]) + stored


def _read_how(head: Reader, shape: Shape) -> tuple[int, int, int]:
    if not fits(shape):
        raise FormatError(f"a tensor of shape {shape} is declared to be coded by neighbours that it does not have")
    byte = head.byte()
    kind, slow = byte >> 2, SLOW + (byte & 3)
    if kind > STORED:
        raise FormatError(f"unknown neighbours {kind}")
    stride, period = (head.varint(), head.varint()) if kind == STORED else of_shape(shape) if kind == SHAPE else (0, 0)
    if max(stride, period) > prod(shape[1:]):
        raise FormatError(f"neighbours {stride} and {period} places away are declared in rows of {prod(shape[1:])}")
    return stride, period, slow
