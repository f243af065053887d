"""Few patterns of bits for many: a codebook of signs, nearest in weighted Hamming distance.

    min_{C, |C| <= k}  sum_j m_j min_{c in C} hamming(p_j, c)

for patterns ``p_j`` of weight ``m_j``. It is k-medians on the corners of a cube, hard in general; here the codebook doubles from
one pattern to ``k``: each pattern that is added gains the most (all corners are tried up to 10 bits, else the heaviest patterns).
After each doubling single patterns are exchanged for better ones, then assignments and majorities take turns until nothing
changes; so more patterns never lose.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ALL_BITS = 10  # with so many bits every pattern there is can enter the codebook
CANDIDATES = 512  # else so many of the heaviest can
TURNS = 50
FEW = 1 << 11  # kernels that are looked at one by one
EXCHANGES = 3  # times that each pattern is tried to be replaced

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
    sign, mass = np.where(kernels >= 0, 1.0, -1.0), np.abs(kernels).sum(1)
    if not mass.any():
        return _sorted(sign[:1], np.zeros(len(kernels), dtype=np.int64))
    book, inverse = np.unique(sign[mass > 0], axis=0, return_inverse=True)
    if len(book) > k:
        sums = kernels
        if len(kernels) > FEW:
            # kernels of equal signs are taken together, except at the end of each doubling
            sums = np.zeros_like(book)
            np.add.at(sums, inverse.reshape(-1), kernels[mass > 0])
        trial = _Trial(sums, _corners(sums))
        book = sums[:0]
        for size in [*(2**i for i in range(k.bit_length()) if 2**i < k), k]:
            starts = [trial.extended(book, size), *([trial.opposite()] if size == 2 else [])]
            book = _settled(max(map(trial.exchanged, starts), key=trial.score), kernels)
    return _sorted(book, nearest(kernels, book))


def nearest(kernels: Signs, book: Signs) -> NDArray[np.int64]:
    """The index of the pattern with the largest product, for each kernel; the first at a tie."""
    return (kernels @ book.T).argmax(1)


def _corners(sums: Signs) -> Signs:
    """The patterns that can enter the codebook."""
    bits = sums.shape[1]
    if bits <= ALL_BITS:
        return np.where(np.arange(2**bits)[:, None] >> np.arange(bits) & 1, 1.0, -1.0)
    heaviest = np.argsort(-np.abs(sums).sum(1), kind="stable")[:CANDIDATES]
    return np.where(sums[heaviest] >= 0, 1.0, -1.0)


class _Trial:
    """Codebooks for a few ``sums (n, bits)`` of kernels, with patterns taken from the ``corners``."""

    def __init__(self, sums: Signs, corners: Signs) -> None:
        self.sums, self.corners, self.products = sums, corners, sums @ corners.T

    def _best(self, others: Signs) -> tuple[int, float]:
        """The corner that adds most to the products with the best of others, and how much."""
        gains = np.maximum(self.products - others[:, None], 0).sum(0)
        winner = int(gains.argmax())
        return winner, float(gains[winner])

    def extended(self, book: Signs, size: int) -> Signs:
        """The codebook with the corners added one at a time that gain the most."""
        best = (self.sums @ book.T).max(1) if len(book) else -np.abs(self.sums).sum(1)
        chosen: list[int] = []
        while len(book) + len(chosen) < size:
            winner, gain = self._best(best)
            if gain <= 0:
                break
            chosen.append(winner)
            best = np.maximum(best, self.products[:, winner])
        return np.concatenate([book, self.corners[chosen]])

    def opposite(self) -> Signs:
        """The best codebook of a corner and its negative."""
        one = self.corners[np.abs(self.products).sum(0).argmax()]
        return np.stack([one, -one])

    def score(self, book: Signs) -> float:
        """The sum of products, each with the nearest pattern."""
        return float((self.sums @ book.T).max(1).sum())

    def exchanged(self, book: Signs) -> Signs:
        """Each pattern in turn replaced by the corner that is best beside the others."""
        own = self.sums @ book.T
        for _ in range(EXCHANGES if len(book) > 1 else 0):
            before = book.copy()
            for i in range(len(book)):
                others = np.delete(own, i, axis=1).max(1)
                winner, gain = self._best(others)
                if gain > np.maximum(own[:, i] - others, 0).sum() * (1 + 1e-9):
                    book[i], own[:, i] = self.corners[winner], self.products[:, winner]
            if np.array_equal(book, before):
                break
        return book


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
