"""Zeros and ones: constant, packed, one density, a density for every row and column, or told from their neighbours.

The last but one reads the mask row by row. A column's density is estimated from the rows above (and the columns beside it), a
row's number of ones is stored as a class, and the odds of a one are the column's odds times the factor that brings the row to
its number. All of it is whole-number arithmetic, so both sides get the same frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from taut.codec import contexts
from taut.codec.coder import TOTAL, Decoder, Encoder, normalise
from taut.codec.models import class_weights, count_classes, decode_adaptive, encode_adaptive
from taut.codec.wire import Reader, varint
from taut.errors import FormatError

ZEROS, ONES, PACKED, DENSITY, CONTEXT, MIXED = range(6)
MAX_ELEMENTS, MAX_SIDE = 1 << 24, 1 << 16
THOROUGH = 1 << 21  # above this many elements fewer settings are tried
PRIORS = (1, 2, 4, 12)  # strength of the overall density, in rows
ROW_GRAIN = 2
VIEWS = ("rows", "columns", "inputs", "kernels")
BLOCK = 1 << 19
FREE_ROWS, BITS_PER_ROW = 16, 4  # rows take time one by one, so their number is bounded by the stream's length


@dataclass(frozen=True)
class Setting:
    """How a mask is read: ``view``, index of the prior, whether neighbouring columns count, whether rows have a class."""

    view: int = 0
    prior: int = 1
    smooth: bool = True
    rows: bool = True

    def byte(self) -> int:
        return self.view | self.prior << 2 | self.smooth << 4 | self.rows << 5

    @staticmethod
    def of(byte: int) -> Setting:
        return Setting(byte & 3, byte >> 2 & 3, bool(byte >> 4 & 1), bool(byte >> 5 & 1))


def plan_mask(bits: np.ndarray, shape: tuple[int, ...]) -> tuple[bytes, Encoder]:
    """The shortest head and coded part for a flat boolean array of this shape."""
    ones = int(bits.sum())
    if ones in (0, len(bits)):
        return bytes([ONES if ones else ZEROS]), Encoder()
    packed = bytes([PACKED]) + np.packbits(bits, bitorder="little").tobytes()
    enc = Encoder()
    counts = np.array([len(bits) - ones, ones])
    enc.static(bits.view(np.uint8), normalise(counts), counts=counts)
    plans = [(packed, Encoder()), (bytes([DENSITY]) + varint(ones), enc)]
    if 64 <= len(bits) <= MAX_ELEMENTS and ones > 8:
        plans += _context(bits, shape, ones, enough=0.99 * enc.bits)
        if contexts.fits(shape):
            head, mixed = contexts.plan_places(bits, shape)
            plans.append((bytes([MIXED]) + head, mixed))
    return min(plans, key=lambda plan: 8 * len(plan[0]) + plan[1].bits)


def read_mask(head: Reader, dec: Decoder, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """The flat boolean array that :func:`plan_mask` planned."""
    if count == 0:
        return np.zeros(0, dtype=bool)
    mode = head.byte()
    if mode in (ZEROS, ONES):
        return np.full(count, mode == ONES)
    if mode == PACKED:
        packed = np.frombuffer(head.take(-(-count // 8)), dtype=np.uint8)
        return np.unpackbits(packed, count=count, bitorder="little").astype(bool)
    if mode == MIXED:
        return contexts.read_places(head, dec, count, shape)
    if mode not in (DENSITY, CONTEXT):
        raise FormatError(f"unknown mask mode {mode}")
    setting = Setting.of(head.byte()) if mode == CONTEXT else None
    ones = head.varint()
    if not 0 < ones < count:
        raise FormatError(f"a mask of {count} elements declares {ones} ones")
    if setting is None:
        return dec.static(count, normalise(np.array([count - ones, ones])), 0, np.dtype(np.uint8)).astype(bool)
    return _read_context(head, dec, shape, setting, ones)


def _sides(shape: tuple[int, ...], view: int) -> tuple[int, int] | None:
    """Rows and columns of a view, or ``None`` where it does not apply."""
    if len(shape) < 2 or (view > 1 and len(shape) < 3) or prod(shape) > MAX_ELEMENTS:
        return None
    total = prod(shape)
    rows = (shape[0], total // max(shape[0], 1), shape[1], shape[0] * shape[1])[view]
    columns = total // max(rows, 1)
    return (rows, columns) if 1 < rows <= MAX_SIDE and 1 < columns <= MAX_SIDE else None


def _see(bits: np.ndarray, shape: tuple[int, ...], view: int) -> np.ndarray:
    rows, columns = _sides(shape, view) or (0, 0)
    if view == 1:
        return np.ascontiguousarray(bits.reshape(columns, rows).T)
    if view == 2:
        return np.ascontiguousarray(np.moveaxis(bits.reshape(shape), 1, 0)).reshape(rows, columns)
    return bits.reshape(rows, columns)


def _back(matrix: np.ndarray, shape: tuple[int, ...], view: int) -> np.ndarray:
    if view == 1:
        return matrix.T.reshape(-1)
    if view == 2:
        return np.moveaxis(matrix.reshape(shape[1], shape[0], *shape[2:]), 0, 1).reshape(-1)
    return matrix.reshape(-1)


def _context(bits: np.ndarray, shape: tuple[int, ...], ones: int, enough: float) -> list[tuple[bytes, Encoder]]:
    """The best setting: the view first, then, if rows and columns tell anything at all, the rest one at a time."""
    views = [view for view in range(len(VIEWS)) if _sides(shape, view)]
    if not views:
        return []
    thorough = len(bits) <= THOROUGH
    trials = {Setting(view): _encode_context(bits, shape, Setting(view), ones) for view in views[: 4 if thorough else 2]}
    best = min(trials, key=lambda s: trials[s][1].bits)
    if thorough and trials[best][1].bits < enough:
        for change in ("prior", "smooth", "rows"):
            for value in (0, 2, 3) if change == "prior" else (False,):
                setting = Setting(**{**best.__dict__, change: value})
                trials[setting] = _encode_context(bits, shape, setting, ones)
            best = min(trials, key=lambda s: trials[s][1].bits)
    # a reader refuses more rows than this, and half as many spare ones keep rounding out of it
    coded = int((_row_classes(_see(bits, shape, best.view)) != 0).sum()) if best.rows else (_sides(shape, best.view) or (0,))[0]
    return [trials[best]] if coded <= FREE_ROWS // 2 + trials[best][1].bits / BITS_PER_ROW else []


def _encode_context(bits: np.ndarray, shape: tuple[int, ...], setting: Setting, ones: int) -> tuple[bytes, Encoder]:
    matrix = _see(bits, shape, setting.view)
    rows, columns = matrix.shape
    enc, head = Encoder(), bytes([CONTEXT, setting.byte()]) + varint(ones)
    classes = np.full(rows, -1)
    if setting.rows:
        classes = _row_classes(matrix)
        size = int(classes.max()) + 1
        head += varint(size - 1)
        encode_adaptive(enc, classes, size)
    density = _overall(ones, len(bits))
    above = np.zeros(columns, dtype=np.int64)
    step = max(1, BLOCK // columns)
    for start in range(0, rows, step):
        block = matrix[start : start + step]
        counts = np.cumsum(block, axis=0, dtype=np.int64)
        before = np.concatenate([above[None], above + counts[:-1]])
        above = above + counts[-1]
        coded = classes[start : start + step] != 0
        index = np.arange(start, start + len(block), dtype=np.int64)[coded]
        freqs = _frequencies(before[coded], index, classes[start : start + step][coded], density, setting)
        enc.binary(block[coded].reshape(-1), freqs.reshape(-1).astype(np.int32))
    return head, enc


def _row_classes(matrix: np.ndarray) -> np.ndarray:
    return count_classes(matrix.sum(axis=1), ROW_GRAIN)


def _read_context(head: Reader, dec: Decoder, shape: tuple[int, ...], setting: Setting, ones: int) -> np.ndarray:
    sides = _sides(shape, setting.view)
    if sides is None:
        raise FormatError(f"a mask of shape {shape} declares a view that it does not have")
    rows, columns = sides
    classes = np.full(rows, -1)
    if setting.rows:
        size = head.varint() + 1
        if size > 2 + ROW_GRAIN * 17:
            raise FormatError(f"a mask declares {size} row classes")
        classes = decode_adaptive(dec, rows, size)
    coded = np.flatnonzero(classes)
    if len(coded) > FREE_ROWS + dec.length / BITS_PER_ROW:
        raise FormatError(f"a mask declares {len(coded)} rows in a stream of {dec.length} bits")
    density = _overall(ones, rows * columns)
    matrix = np.zeros((rows, columns), dtype=bool)
    above = np.zeros((1, columns), dtype=np.int64)
    for row in coded:
        freqs = _frequencies(above, np.array([row], dtype=np.int64), classes[row : row + 1], density, setting)
        matrix[row] = dec.binary(freqs[0])
        above += matrix[row]
    return _back(matrix, shape, setting.view)


def _overall(ones: int, total: int) -> int:
    """The density in units of 2**-20."""
    return max(1, (ones << 20) // total)


def _frequencies(above: np.ndarray, row: np.ndarray, classes: np.ndarray, density: int, setting: Setting) -> np.ndarray:
    """Frequencies of a one, ``(rows, columns)``, from the ones above each place; probabilities are in units of 2**-20.

    ``row``: how many rows are above; ``classes``: the rows' classes, or -1 where none are stored.
    """
    prior = PRIORS[setting.prior]
    seen = 4 * above
    if setting.smooth:
        seen = 2 * above
        seen[:, 1:] += above[:, :-1]
        seen[:, 0] += above[:, 0]
        seen[:, :-1] += above[:, 1:]
        seen[:, -1] += above[:, -1]
    column = ((seen << 20) + 4 * prior * density) // (4 * (row + prior))[:, None]
    column = np.clip(column, 1, (1 << 20) - 1)
    if not setting.rows:
        return np.clip(column << 4, 64, TOTAL - 64)
    # the factor on the odds, in units of 2**-12, that brings the row's mean density to its class's
    width = column.shape[1]
    wanted = np.minimum(class_weights(classes, ROW_GRAIN), 64 * width - 1)
    mean = np.maximum(column.sum(axis=1) // width, 1)
    factor = (wanted * ((1 << 20) - mean) << 12) // ((64 * width - wanted) * mean)
    one = column * np.clip(factor, 1, 1 << 24)[:, None]
    zero = ((1 << 20) - column) << 12
    return np.clip(((one << 18) // (one + zero)) << 6, 64, TOTAL - 64)
