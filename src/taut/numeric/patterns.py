"""Few patterns of bits for many: a codebook of signs, nearest in weighted Hamming distance.

    min_{C, |C| <= k}  sum_j m_j min_{c in C} hamming(p_j, c)

for patterns ``p_j`` of weight ``m_j``. It is k-medians on the corners of a cube, hard in general; here the codebook doubles from
one pattern to ``k``: each pattern that is added gains the most (all corners are tried up to 10 bits, else the heaviest patterns),
and after each doubling assignments and majorities take turns until nothing changes, so that more patterns never lose.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ALL_BITS = 10  # with so many bits every pattern there is can enter the codebook
CANDIDATES = 512  # else so many of the heaviest can
TURNS = 50

Signs = NDArray[np.float64]


def codebook(kernels: Signs, k: int) -> tuple[Signs, NDArray[np.int64]]:
    """At most ``k`` patterns for real ``kernels (n, bits)``: the patterns, -1 and 1, ``(c, bits)``, most used first, and each
    kernel's index.

    Maximises the sum of products of each kernel with its pattern, which for kernels ``a`` times signs is the weighted Hamming
    distance above with ``m = a``. Where the signs of the kernels make no more than ``k`` patterns, those are the answer.

    Example:
        >>> book, index = codebook(np.array([[1.0, 2.0], [-0.1, 3.0], [-1.0, -1.0], [1.0, 0.5]]), k=2)
        >>> book.tolist(), index.tolist()
        ([[1.0, 1.0], [-1.0, -1.0]], [0, 0, 1, 0])
    """
    sign = np.where(kernels >= 0, 1.0, -1.0)
    mass = np.abs(kernels).sum(1)
    distinct, inverse = np.unique(sign, axis=0, return_inverse=True)
    weight = np.bincount(inverse.reshape(-1), mass, len(distinct))
    if not mass.any():
        return _sorted(sign[:1], np.zeros(len(kernels), dtype=np.int64))
    distinct, weight = distinct[weight > 0], weight[weight > 0]
    book = distinct
    if len(distinct) > k:
        corners, book = _corners(distinct, weight), distinct[:0]
        for size in [*(2**i for i in range(k.bit_length()) if 2**i < k), k]:
            book = _settled(_extended(book, size, corners, distinct, weight), kernels)
    return _sorted(book, nearest(kernels, book))


def nearest(kernels: Signs, book: Signs) -> NDArray[np.int64]:
    """The index of the pattern with the largest product, for each kernel; the first at a tie."""
    return (kernels @ book.T).argmax(1)


def _corners(distinct: Signs, weight: NDArray[np.float64]) -> Signs:
    bits = distinct.shape[1]
    if bits <= ALL_BITS:
        return np.where(np.arange(2**bits)[:, None] >> np.arange(bits) & 1, 1.0, -1.0)
    return distinct[np.argsort(-weight, kind="stable")[:CANDIDATES]]


def _extended(book: Signs, size: int, corners: Signs, distinct: Signs, weight: NDArray[np.float64]) -> Signs:
    """The codebook with the corners added one at a time that gain the most."""
    products = distinct @ corners.T
    best = (distinct @ book.T).max(1) if len(book) else np.full(len(distinct), -float(distinct.shape[1]))
    chosen = []
    for _ in range(size - len(book)):
        gains = weight @ np.maximum(products - best[:, None], 0)
        winner = int(gains.argmax())
        if gains[winner] <= 0:
            break
        chosen.append(winner)
        best = np.maximum(best, products[:, winner])
    return np.concatenate([book, corners[chosen]])


def _settled(book: Signs, kernels: Signs) -> Signs:
    """Assignments and majorities in turn, until nothing changes."""
    for _ in range(TURNS):
        index = nearest(kernels, book)
        sums = np.zeros_like(book)
        np.add.at(sums, index, kernels)
        # a pattern that nothing is assigned to, and a place where the votes are even, stay
        new = np.where(sums == 0, book, np.where(sums > 0, 1.0, -1.0))
        if np.array_equal(new, book):
            break
        book = new
    return np.unique(book, axis=0)


def _sorted(book: Signs, index: NDArray[np.int64]) -> tuple[Signs, NDArray[np.int64]]:
    """Only the patterns that are used, the most used first."""
    counts = np.bincount(index, minlength=len(book))
    order = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
    place = np.empty(len(book), dtype=np.int64)
    place[order] = np.arange(len(order))
    return book[order], place[index]
