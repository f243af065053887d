"""Contexts for the weights of a layer: whether a weight is there, its sign and its size, told from its neighbours.

A weight's neighbours are those before it in its row, one place, ``stride`` places and ``period`` places away (the line above
in an image or a kernel, the channel before), and those in the rows above. Trained filters are smooth, so neighbours share
signs and sizes; inputs matter for all rows or for none, so columns and rows have densities of their own.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from taut.codec.mixing import LOG, ONE, UNIT, Sizes, decide, memory, place, stretch

How = tuple[int, int, int]
"""Stride, period, and how slowly mixers learn: by steps of ``2**-slow``."""
Work = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
LONGEST = 20
"""Sizes from here on share their contexts."""
PRIOR = 9
"""Rows that the density of all weights counts for in the density of a column."""
STEPS = np.searchsorted(np.sqrt(512 << np.arange(7)), np.arange(183), side="right").astype(np.int8)
"""The half octave, 0 to 7, of a mean size in units of 1/16; larger ones are in the last."""


@njit(cache=True, inline="always")
def _level(x: int) -> int:
    """A logit in steps of a half, 0 to 23."""
    return min(max((x + 8 * UNIT) >> 7, 0), 23)


@njit(cache=True, inline="always")
def _nearby(chances: np.ndarray, c: int, away: int) -> int:
    """Four times the mean of a column's chance, twice, and those ``away`` on both sides, or its own where there are none."""
    left = chances[c - away] if c >= away else chances[c]
    right = chances[c + away] if c + away < len(chances) else chances[c]
    return 2 * chances[c] + left + right


@njit(cache=True)
def _around(chances: np.ndarray, stride: int, out: np.ndarray) -> None:
    """The mean chance of every column and of its neighbours."""
    for c in range(len(out)):
        beside = _nearby(chances, c, 1)
        out[c] = (beside + (_nearby(chances, c, stride) if stride else beside)) >> 3


def _lines(how: How, columns: int) -> np.ndarray:
    """Three rows, in turn the one that is coded and those above, with as many zeros before them as are looked at."""
    return np.zeros((3, max(2, how[0] + 1, 2 * how[0], how[1]) + columns), np.int64)


@njit(cache=True, inline="always")
def _beside(row: np.ndarray, p: int, stride: int, period: int) -> tuple[int, int, int, int, int, int]:
    """What stands 1, 2, ``stride``, ``stride - 1``, ``stride + 1`` and ``period`` places before; nothing for none."""
    d, e = row[p - stride] * np.int64(stride > 0), row[p - stride + 1] * np.int64(stride > 1)
    f, k = row[p - stride - 1] * np.int64(stride > 0), row[p - period] * np.int64(period > 0)
    return row[p - 1], row[p - 2], d, e, f, k


def places(mask: np.ndarray, density: int, how: How, coder: np.ndarray, freqs: np.ndarray) -> None:
    """Code (into ``freqs``, one for each place) or decode (into ``mask``, of 0 and 1) where the weights are."""
    columns = mask.shape[1]
    weights = np.full((4, 8), ONE // 14)
    weights[:, 1:3] = ONE // 4
    model = memory((0, 0, 0, UNIT // 2, 0, 0, 0, 0), 4, weights, density)
    _places(mask, how, coder, freqs, (model, np.full(columns, density), np.zeros(columns, np.int64), _lines(how, columns)))


@njit(cache=True, error_model="numpy")
def _places(mask: np.ndarray, how: How, coder: np.ndarray, freqs: np.ndarray, work: Work) -> None:
    """``work``: the model, the columns' chances, room for those of their neighbours, lines.

    Arrays are made outside, since numba takes seconds to compile what makes them.
    """
    (stride, period, slow), (model, base, around, lines) = how, work
    (rows, columns), context = mask.shape, np.zeros(4, np.int64)
    before = lines.shape[1] - columns
    for r in range(rows):
        row, up, higher = lines[r % 3], lines[(r + 2) % 3], lines[(r + 1) % 3]
        found, expected = 0, 0
        _around(base, stride, around)
        for c in range(columns):
            x, p = model, before + c
            x[0], x[1] = stretch(base[c]), stretch(around[c])
            x[2] = LOG[min(np.uint64((found + 1) << 24) // np.uint64(expected + ONE), np.uint64(4095))]
            a, b, d, e, f, k = _beside(row, p, stride, period)
            u, near, level = up[p], a + b + d + e + f, _level(x[1] + x[2])
            context[0] = a + 2 * b + 4 * d + 8 * e + 16 * f + 32 * k + 64 * u
            context[1] = near * 24 + level
            context[2] = (u + 2 * higher[p] + 4 * a + 8 * k) * 24 + level
            context[3] = min(found, 15) * 24 + _level(x[0])
            bit = decide((8, 4, slow), model, min(near, 3), context, coder, freqs, r * columns + c, np.int64(mask[r, c]))
            row[p] = mask[r, c] = bit
            found, expected = found + bit, expected + around[c]
        rate = (1 << 32) // (r + 1 + PRIOR)
        for c in range(columns):
            base[c] += (((ONE - 1) * row[before + c] - base[c]) * rate) >> 32


@njit(cache=True, inline="always")
def _sign(value: int) -> int:
    return 1 if value > 0 else 2 if value < 0 else 0


@njit(cache=True, inline="always")
def _steps(total: int, count: int) -> int:
    """A mean size in half octaves, 0 to 7; 8 where there is none yet."""
    return STEPS[min(np.uint64(16 * total) // np.uint64(count), np.uint64(182))] if count else 8


@njit(cache=True, inline="always")
def _balance(count: int, positive: int) -> int:
    """The logit of a positive sign, of so many weights, so many of them positive."""
    return stretch(np.int64(np.uint64(ONE * (2 * positive + 1)) // np.uint64(2 * count + 2)))


@njit(cache=True, inline="always")
def _begin(sizes: Sizes, model: np.ndarray, context: np.ndarray) -> None:
    """Counters that have seen nothing begin where the first, which knows least, is."""
    least = model[place(sizes, model, 0, context[0])]
    for i in range(1, sizes[1]):
        here = place(sizes, model, i, context[i])
        if model[here + np.uint64(1)] == 0:
            model[here] = least


def sizes(
    values: np.ndarray, mask: np.ndarray, most: tuple[int, int, int], how: How, coder: np.ndarray, bits: np.ndarray,
    freqs: np.ndarray,
) -> int:  # fmt: skip
    """Code or decode the whole numbers, none of them 0, at the places of ``mask``: from ``-most[0]`` to ``most[1]``.

    Each is a sign and a size in unary, as far as both are open. Coding writes the decisions into ``bits`` and ``freqs``; the
    number of decisions is returned. Without ``freqs`` the values are decoded, until there are more decisions than ``most[2]``.
    """
    columns = mask.shape[1]
    signs = memory((0,) * 6, 4, np.full(6, ONE // 4), ONE // 2)
    counts = memory((UNIT // 2, 0, 0, 0), 3, np.full((LONGEST + 1, 4), ONE // 4), ONE // 2)
    work = signs, counts, np.zeros((3, columns), np.int64), _lines(how, columns)
    return _sizes(values, mask, most, how, coder, bits, freqs, work)


@njit(cache=True, error_model="numpy")
def _sizes(
    values: np.ndarray, mask: np.ndarray, most: tuple[int, int, int], how: How, coder: np.ndarray, bits: np.ndarray,
    freqs: np.ndarray, work: Work,
) -> int:  # fmt: skip
    """``work``: the models of signs and of sizes; of every column how many there are, how many are positive and the sum of their
    sizes, so far; lines.
    """
    (stride, period, slow), (signs, counts, so_far, lines) = how, work
    (rows, columns), by_sign, by_size = mask.shape, np.zeros(4, np.int64), np.zeros(3, np.int64)
    many, positives, sums = so_far[0], so_far[1], so_far[2]
    before = lines.shape[1] - columns
    at, made = 0, 0
    for r in range(rows):
        row, up, higher = lines[r % 3], lines[(r + 2) % 3], lines[(r + 1) % 3]
        for p in range(before, len(row)):
            row[p] = 0
        row_many, row_positives, row_sum = 0, 0, 0
        for c in range(columns):
            if not mask[r, c] or made > most[2]:
                continue
            value, p = values[at], before + c
            a, b, d, e, f, k = _beside(row, p, stride, period)
            positive = 1 if most[0] == 0 or (most[1] > 0 and value > 0) else 0
            if most[0] and most[1]:
                signs[0], signs[1] = _balance(row_many, row_positives), _balance(many[c], positives[c])
                by_sign[0] = _sign(a) + 3 * _sign(d) + 9 * _sign(e) + 27 * _sign(f)
                by_sign[1] = _sign(k) + 3 * _sign(a) + 9 * _sign(b)
                by_sign[2] = _sign(up[p]) + 3 * _sign(a) + 9 * _sign(higher[p])
                by_sign[3] = _sign(d) + 3 * _sign(row[p - 2 * stride] * np.int64(stride > 0)) + 9 * _sign(k)
                positive = decide((6, 4, slow), signs, 0, by_sign, coder, freqs, made, positive)
                if len(freqs):
                    bits[made] = positive
                made += 1
            near = _steps(2 * abs(a) + abs(b) + 2 * abs(d) + abs(e) + abs(f) + abs(k), 2)
            mean = _steps(sums[c], many[c]) * 9 + _steps(row_sum, row_many)
            size = 1
            while size < most[positive]:
                step = min(size, LONGEST)
                by_size[0], by_size[1], by_size[2] = 2 * step + positive, 9 * step + near, 81 * step + mean
                _begin((4, 3, slow), counts, by_size)
                more = decide((4, 3, slow), counts, step, by_size, coder, freqs, made, 1 if abs(value) > size else 0)
                if len(freqs):
                    bits[made] = more
                made += 1
                if not more:
                    break
                size += 1
            row[p] = values[at] = size if positive else -size
            at += 1
            row_many, row_positives, row_sum = row_many + 1, row_positives + positive, row_sum + size
            many[c], positives[c], sums[c] = many[c] + 1, positives[c] + positive, sums[c] + size
    return made
