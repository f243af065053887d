"""Codebooks in one dimension that pay for their bits: k-means with the entropy of the indices in the objective.

With one weight for all values, the cells of an optimal solution are intervals of the sorted values: for given centers and code
lengths each value takes the least of ``(v - c_k)^2 + price * l_k``, and the differences of two of these are linear in ``v``. The
cost of a cell that holds ``m`` of ``n`` values,

    sum_cell (v - c)^2  +  price * (m log2(n / m) + what the center itself costs),

does not depend on the other cells, so dynamic programming finds the best partition, into any number of cells. (Chou, Lookabaugh
and Gray, *Entropy-constrained vector quantization*, IEEE Trans. ASSP 37(1), 1989, descend on the same objective.)
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from taut.errors import TautError
from taut.numeric.kmeans import Floats, bins, check_values, power_of_two

EXACT = 1024  # up to so many distinct values the partition is optimal; beyond, it starts on a histogram of about as many bins
ROUNDS = 100  # of descent at most, each through all values; a fifth of them, and not to the last value, where there are many
LARGE = 20_000
CENTER_BITS = 16.0  # what an entry of the table costs: a number in half precision

Ints = NDArray[np.int64]


def entropy_kmeans_1d(
    values: ArrayLike, k: int, price: float, weights: ArrayLike | None = None, keep_zero: bool = False
) -> tuple[Floats, Ints]:
    r"""Choose at most ``k`` centers, and one for each value, that minimise error and bits together:

    .. math:: \sum_i h_i (v_i - c_{a(i)})^2 \;+\; \text{price} \cdot s \left( \sum_i -\log_2 \frac{n_{a(i)}}{n} + 16\,K \right)

    ``n_k`` of the ``n`` values have center ``k``, ``K`` centers are used (a kept zero costs nothing), and ``s``, the mean of
    ``h_i v_i^2``, makes the price a plain number: 0.01 buys a bit that saves 1 % of the mean square of a value. A value need not
    take the nearest center; a rare center must be worth its longer code.

    With equal weights and up to 1024 distinct values the result is optimal. Else it is a local optimum, found by descent from
    the best partition into intervals (of a histogram where there are more values), and cells are merged as long as that pays.

    Args:
        values: numbers of any shape, finite; taken as a flat sequence.
        k: how many centers at most, at least 1.
        price: of a bit, finite and not negative.
        weights: importance ``h`` of each value, not negative; ``None``: all 1. All zero counts as all 1.
        keep_zero: one center is exactly 0, used or not; it counts as one of the ``k``.

    Returns:
        The centers, ascending, and the index of the center of each value. A center of one distinct value is that value exactly.

    Example:
        >>> centers, index = entropy_kmeans_1d([0.0, 0.1] * 50 + [0.9, 1.1] * 50, k=9, price=0.03)
        >>> centers.round(3).tolist(), np.bincount(index).tolist()
        ([0.05, 1.0], [100, 100])
    """
    v, h = check_values(values, k, weights)
    if not (np.isfinite(price) and price >= 0):
        raise TautError(f"the price of a bit must be finite and not negative, got {price}")
    order = np.argsort(v, kind="stable")
    scale = power_of_two(v)
    x = v[order] / scale
    h = np.ones_like(x) if h is None else h[order]
    bit = price * float(np.mean(h * x * x))
    centers, places = _descend(x, h, _start(x, h, k, bit, keep_zero), k, bit, keep_zero)
    index = np.empty(v.size, dtype=np.int64)
    index[order] = places
    return centers * scale, index


def rate_bits(index: Ints) -> float:
    """The bits of indices under their own frequencies, ``sum_i -log2 (n_a(i) / n)``.

    Example:
        >>> rate_bits(np.array([0, 1, 1, 0]))
        4.0
    """
    counts = np.unique(index, return_counts=True)[1]
    return float((counts * np.log2(index.size / counts)).sum())


# A partition of the values: for each the number of its cell, -1 for the cell of the kept zero; cells ascend by their means.


def _start(x: Floats, h: Floats, k: int, bit: float, keep_zero: bool) -> Ints:
    """The best partition into intervals: of the distinct values, or of a histogram of them."""
    edges = np.flatnonzero(np.r_[True, x[1:] != x[:-1], True])
    if edges.size - 1 > EXACT:
        mass = np.add.reduceat(h, edges[:-1])
        # the histogram follows the importance, where there is any
        edges = edges[bins(x[edges[:-1]], mass if mass.all() else np.diff(edges).astype(float), EXACT, keep_zero)]
    return np.repeat(_merge(x, h, edges, k, bit, keep_zero), np.diff(edges))


def _merge(x: Floats, h: Floats, edges: Ints, k: int, bit: float, keep_zero: bool) -> Ints:
    """The best way to join neighbours among groups of values; the cell of each group."""
    groups = edges[:-1]
    sums = np.stack([np.add.reduceat(part, groups) for part in (h, h * x, h * x * x)])
    return _joined(sums, np.diff(edges).astype(np.float64), k, bit, keep_zero)


def _joined(sums: Floats, count: Floats, k: int, bit: float, keep_zero: bool) -> Ints:
    prefixes = np.concatenate([np.zeros((4, 1)), np.cumsum(np.vstack([sums, count]), axis=1)], axis=1)
    cells = _partition(prefixes, bit, keep_zero, 0)
    if len(np.unique(cells)) + (keep_zero and -1 not in cells) > k:
        cells = _partition(prefixes, bit, keep_zero, k)
    return cells


def _descend(x: Floats, h: Floats, cells: Ints, k: int, bit: float, keep_zero: bool) -> tuple[Floats, Ints]:
    """Lloyd's iteration with code lengths, then joining cells; both lower the objective, until neither does."""
    rounds, few = (ROUNDS, 0) if x.size <= LARGE else (ROUNDS // 5, x.size // LARGE)
    centers, places, sums = _centers(x, h, cells, keep_zero)
    for _ in range(rounds):
        used = sums[3] > 0
        bits = bit * np.log2(x.size / sums[3][used])
        moved = np.flatnonzero(used)[_assign(x, h, centers[used], bits)]
        if np.count_nonzero(moved != places) > few:
            cells = np.where(keep_zero & (centers[moved] == 0), -1, moved)
        else:
            at_zero = keep_zero & (centers[used] == 0)
            joined = _joined(sums[:3, used], sums[3, used], k, bit, keep_zero)
            if len(np.unique(joined)) == joined.size and np.array_equal(joined < 0, at_zero):
                break
            wide = np.zeros(centers.size, dtype=np.int64)
            wide[used] = joined
            cells = wide[places]
        centers, places, sums = _centers(x, h, cells, keep_zero)
    return centers, places


def _centers(x: Floats, h: Floats, cells: Ints, keep_zero: bool) -> tuple[Floats, Ints, Floats]:
    """The mean of each cell, ascending, with the kept zero among them; the place of each value's own; the sums of each."""
    most = int(cells.max()) + 2
    sums, low, high = _gathered(x, h, cells, most)
    # the cell of the kept zero comes first; a cell without importance may lie anywhere between its values
    mean = np.divide(sums[1], sums[0], out=np.where(sums[3] > 0, low / 2 + high / 2, 0.0), where=sums[0] > 0)
    mean = np.clip(mean, low, high)
    mean[0] = 0.0
    there = sums[3] > 0
    there[0] = keep_zero
    table, where = np.unique(mean[there], return_inverse=True)
    joined = np.stack([np.bincount(where, part[there], table.size) for part in sums]).astype(np.float64)
    places = np.zeros(most, dtype=np.int64)
    places[there] = where
    return table, places[cells + 1], joined


@njit(cache=True)
def _gathered(x, h, cells, most):  # noqa: ANN001, ANN202 - compiled
    """Of each cell, from -1 on: the sums of ``h``, ``h x``, ``h x^2`` and 1, the least and the largest value."""
    sums = np.zeros((4, most))
    low, high = np.zeros(most), np.zeros(most)
    for i in range(x.size):
        c = cells[i] + 1
        if sums[3, c] == 0:
            low[c] = high[c] = x[i]
        low[c], high[c] = min(low[c], x[i]), max(high[c], x[i])
        sums[0, c] += h[i]
        sums[1, c] += h[i] * x[i]
        sums[2, c] += h[i] * x[i] * x[i]
        sums[3, c] += 1
    return sums, low, high


@njit(cache=True)
def _assign(x, h, centers, bits):  # noqa: ANN001, ANN202 - compiled
    """For each of the ascending values the center of least ``h (x - c)^2 + bits``; the nearest ones are tried first."""
    k = centers.size
    least = bits.min()
    out = np.empty(x.size, dtype=np.int64)
    near = 0
    for i in range(x.size):
        while near + 1 < k and centers[near] + centers[near + 1] < 2 * x[i]:
            near += 1
        best = h[i] * (x[i] - centers[near]) ** 2 + bits[near]
        out[i] = near
        for step in (-1, 1):
            at = near + step
            while 0 <= at < k:
                far = h[i] * (x[i] - centers[at]) ** 2
                if far + least >= best:
                    break  # all further centers are farther
                if far + bits[at] < best:
                    best = far + bits[at]
                    out[i] = at
                at += step
    return out


@njit(cache=True)
def _partition(prefixes, bit, keep_zero, k):  # noqa: ANN001, ANN202 - compiled
    """The best partition of the groups into intervals, one of which may be at zero: the cell of each group.

    ``prefixes``: sums of ``h``, ``h x``, ``h x^2`` and of the counts of values. ``k`` = 0: into any number of cells, in one
    sweep; else into at most ``k``, a layer of the table for each number.
    """
    n = prefixes.shape[1] - 1
    layers = max(k - 1 if keep_zero else k, 0) if k else 1
    # whether the interval at zero has been used; before the first interval, and after each layer
    cost = np.full((2, 2, n + 1), np.inf)
    cut = np.zeros((layers + 1, 2, n + 1), dtype=np.int32)
    at_zero = np.zeros((layers + 1, 2, n + 1), dtype=np.bool_)
    kinds = 2 if keep_zero else 1
    cost[0, 0, 0] = 0.0
    best_layer, best_kind, best = 0, 0, np.inf
    if k and keep_zero:
        _sweep(prefixes, bit, True, cost[0], cost[0], cut[0], at_zero[0], True)
        best_kind, best = 1, cost[0, 1, n]
    for layer in range(1, layers + 1):
        before, now = cost[(layer - 1) % 2], cost[layer % 2]
        now[:] = np.inf
        if k:
            _sweep(prefixes, bit, keep_zero, before, now, cut[layer], at_zero[layer], False)
        else:
            now[0, 0] = 0.0
            _sweep(prefixes, bit, keep_zero, now, now, cut[layer], at_zero[layer], False)
        for kind in range(kinds):
            if now[kind, n] < best:
                best, best_layer, best_kind = now[kind, n], layer, kind
    cells = np.empty(n, dtype=np.int64)
    end, layer, kind, number = n, best_layer, best_kind, n
    while end > 0:
        start, zero = cut[layer, kind, end], at_zero[layer, kind, end]
        cells[start:end] = -1 if zero else number
        number -= 1
        if zero:
            kind = 0
        elif k:
            layer -= 1
        end = start
    return cells


@njit(cache=True)
def _sweep(prefixes, bit, keep_zero, before, now, cut, at_zero, only_zero):  # noqa: ANN001, ANN202 - compiled
    """One more interval: from the costs ``before`` it to those after it. Where both are one table, as many as pay.

    The interval at zero belongs to no layer, so it follows costs of this very table.
    """
    n = prefixes.shape[1] - 1
    total = prefixes[3, n]
    for i in range(1, n + 1):
        for j in range(i - 1, -1, -1):
            mass = prefixes[0, i] - prefixes[0, j]
            moment = prefixes[1, i] - prefixes[1, j]
            square = max(prefixes[2, i] - prefixes[2, j], 0.0)
            count = prefixes[3, i] - prefixes[3, j]
            spread = max(square - moment * moment / mass, 0.0) if mass > 0 else 0.0
            if spread > now[0, i] and (not keep_zero or spread > now[1, i]):
                break  # longer intervals only spread more
            rate = bit * count * np.log2(total / count)
            if not only_zero:
                for kind in range(2 if keep_zero else 1):
                    found = before[kind, j] + spread + rate + bit * CENTER_BITS
                    if found < now[kind, i]:
                        now[kind, i], cut[kind, i], at_zero[kind, i] = found, j, False
            if keep_zero and now[0, j] + square + rate < now[1, i]:
                now[1, i], cut[1, i], at_zero[1, i] = now[0, j] + square + rate, j, True
