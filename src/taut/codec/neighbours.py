"""Contexts for the weights of a layer: whether a weight is there, its sign and its size, told from its neighbours.

A weight's neighbours are those before it in its row, one place, ``stride`` places and ``period`` places away (the line above
in an image or a kernel, the channel before), and those in the rows above. Trained filters are smooth, so neighbours share
signs and sizes; inputs matter for all rows or for none, so columns and rows have densities of their own.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from taut.codec.mixing import COUNTERS, LOG, ONE, STRETCH, UNIT, Coder, Model, decide

How = tuple[int, int, int]
"""Stride, period, and how slowly mixers learn: by steps of ``2**-slow``."""
LONGEST = 20
"""Sizes from here on share their contexts."""
PRIOR = 9
"""Rows that the density of all weights counts for in the density of a column."""


@njit(cache=True)
def _at(row: np.ndarray, c: int, back: int) -> int:
    """What is ``back`` places before ``c``: nothing for none."""
    return row[c - back] if 0 < back <= c else 0


@njit(cache=True)
def _near(chances: np.ndarray, c: int, away: int) -> int:
    """The two columns ``away`` on both sides, or this one where there are none."""
    left = chances[c - away] if c >= away else chances[c]
    right = chances[c + away] if c + away < len(chances) else chances[c]
    return left + right


@njit(cache=True)
def _level(x: int) -> int:
    """A logit in steps of a half, 0 to 23."""
    return min(max((x + 8 * UNIT) >> 7, 0), 23)


@njit(cache=True)
def places(mask: np.ndarray, density: int, how: How, coder: Coder, freqs: np.ndarray) -> None:
    """Code (into ``freqs``, one for each place) or decode (into ``mask``, of 0 and 1) where the weights are."""
    stride, period, slow = how
    rows, columns = mask.shape
    base = np.full(columns, density, np.int64)
    weights = np.full((4, 8), ONE // 14, np.int64)
    weights[:, 1:3] = ONE // 4
    chances, seen = np.full(4 * COUNTERS, density, np.int64), np.zeros(4 * COUNTERS, np.int64)
    x, context = np.zeros(8, np.int64), np.zeros(4, np.int64)
    model = x, weights.reshape(-1), chances, seen
    x[3] = UNIT // 2
    none = np.zeros(columns, mask.dtype)
    for r in range(rows):
        row, up, higher = mask[r], mask[r - 1] if r > 0 else none, mask[r - 2] if r > 1 else none
        found, expected = 0, 0
        for c in range(columns):
            beside = 2 * base[c] + _near(base, c, 1)
            around = (beside + (2 * base[c] + _near(base, c, stride) if stride else beside)) >> 3
            x[0], x[1] = STRETCH[base[c] >> 4], STRETCH[around >> 4]
            x[2] = LOG[min(((found + 1) << 24) // (expected + ONE), 4095)]
            a, b, k, u = _at(row, c, 1), _at(row, c, 2), _at(row, c, period), up[c]
            d, e, f = _at(row, c, stride), _at(row, c, stride - 1), _at(row, c, stride + 1 if stride else 0)
            near, level = a + b + d + e + f, _level(x[1] + x[2])
            context[0] = a + 2 * b + 4 * d + 8 * e + 16 * f + 32 * k + 64 * u
            context[1] = near * 24 + level
            context[2] = (u + 2 * higher[c] + 4 * a + 8 * k) * 24 + level
            context[3] = min(found, 15) * 24 + _level(x[0])
            row[c] = decide(model, min(near, 3), context, slow, coder, freqs, r * columns + c, np.int64(row[c]))
            found, expected = found + row[c], expected + around
        rate = (1 << 32) // (r + 1 + PRIOR)
        for c in range(columns):
            base[c] += (((ONE - 1) * np.int64(row[c]) - base[c]) * rate) >> 32


@njit(cache=True)
def _sign(value: int) -> int:
    return 1 if value > 0 else 2 if value < 0 else 0


@njit(cache=True)
def _steps(total: int, count: int) -> int:
    """A mean size in half octaves, 0 to 7; 8 where there is none yet."""
    if count == 0:
        return 8
    mean, step = 16 * total // count, 0
    while step < 7 and mean * mean >= 512 << step:
        step += 1
    return step


@njit(cache=True)
def _balance(so_far: np.ndarray) -> int:
    """The logit of a positive sign, of so many weights, so many of them positive."""
    return STRETCH[ONE * (2 * so_far[1] + 1) // (2 * so_far[0] + 2) >> 4]


@njit(cache=True)
def _model(inputs: int, mixers: int, counters: int) -> Model:
    weights = np.full(mixers * inputs, ONE // 4, np.int64)
    return np.zeros(inputs, np.int64), weights, np.full(counters * COUNTERS, ONE // 2), np.zeros(counters * COUNTERS, np.int64)


@njit(cache=True)
def _begin(model: Model, context: np.ndarray) -> None:
    """Counters that have seen nothing begin where the first, which knows least, is."""
    chances, seen = model[2], model[3]
    for i in range(1, len(context)):
        if seen[i * COUNTERS + context[i]] == 0:
            chances[i * COUNTERS + context[i]] = chances[context[0]]


@njit(cache=True)
def sizes(
    values: np.ndarray, mask: np.ndarray, most: tuple[int, int, int], how: How, coder: Coder, bits: np.ndarray, freqs: np.ndarray
) -> int:
    """Code or decode the whole numbers, none of them 0, at the places of ``mask``: from ``-most[0]`` to ``most[1]``.

    Each is a sign and a size in unary, as far as both are open. Coding writes the decisions into ``bits`` and ``freqs``; the
    number of decisions is returned. Without ``freqs`` the values are decoded, until there are more decisions than ``most[2]``.
    """
    stride, period, slow = how
    rows, columns = mask.shape
    signs, counts = _model(6, 1, 4), _model(4, LONGEST + 1, 3)
    balance, x = signs[0], counts[0]
    x[0] = UNIT // 2
    by_sign, by_size = np.zeros(4, np.int64), np.zeros(3, np.int64)
    columns_so_far, line = np.zeros((columns, 3), np.int64), np.zeros((3, columns), np.int64)
    at, made = 0, 0
    for r in range(rows):
        row, up, higher = line[r % 3], line[(r + 2) % 3], line[(r + 1) % 3]
        row[:] = 0
        row_so_far = np.zeros(3, np.int64)
        for c in range(columns):
            if not mask[r, c] or made > most[2]:
                continue
            value, so_far = values[at], columns_so_far[c]
            a, b, k = _at(row, c, 1), _at(row, c, 2), _at(row, c, period)
            d, e, f = _at(row, c, stride), _at(row, c, stride - 1), _at(row, c, stride + 1 if stride else 0)
            positive = 1 if most[0] == 0 or (most[1] > 0 and value > 0) else 0
            if most[0] and most[1]:
                balance[0], balance[1] = _balance(row_so_far), _balance(so_far)
                by_sign[0] = _sign(a) + 3 * _sign(d) + 9 * _sign(e) + 27 * _sign(f)
                by_sign[1] = _sign(k) + 3 * _sign(a) + 9 * _sign(b)
                by_sign[2] = _sign(up[c]) + 3 * _sign(a) + 9 * _sign(higher[c])
                by_sign[3] = _sign(d) + 3 * _sign(_at(row, c, 2 * stride)) + 9 * _sign(k)
                positive = decide(signs, 0, by_sign, slow, coder, freqs, made, positive)
                if len(freqs):
                    bits[made] = positive
                made += 1
            near = _steps(2 * abs(a) + abs(b) + 2 * abs(d) + abs(e) + abs(f) + abs(k), 2)
            mean = _steps(so_far[2], so_far[0]) * 9 + _steps(row_so_far[2], row_so_far[0])
            size = 1
            while size < most[positive]:
                step = min(size, LONGEST)
                by_size[0], by_size[1], by_size[2] = 2 * step + positive, 9 * step + near, 81 * step + mean
                _begin(counts, by_size)
                more = decide(counts, step, by_size, slow, coder, freqs, made, 1 if abs(value) > size else 0)
                if len(freqs):
                    bits[made] = more
                made += 1
                if not more:
                    break
                size += 1
            row[c] = values[at] = size if positive else -size
            at += 1
            for sums in (row_so_far, so_far):
                sums[0], sums[1], sums[2] = sums[0] + 1, sums[1] + positive, sums[2] + size
    return made
