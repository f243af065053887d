"""Symbols under one model, decoded by compiled code: the streams are constriction's, which searches a table for each symbol.

Here the upper bits of a symbol's slot tell where to begin, so that most symbols take one look.
"""

from __future__ import annotations

import numpy as np
from numba import njit

PRECISION = 24
"""Frequencies sum to ``2**PRECISION``."""
TOP = 12
"""Bits of a slot that tell where to begin."""


def take_symbols(coder: np.ndarray, freqs: np.ndarray, out: np.ndarray) -> None:
    """Decode a symbol for each place of ``out``, and add it there.

    ``coder``: the state of the ANS decoder, how many of its words are left, and those; ``freqs``: whole numbers, at least 1 each,
    that sum to 2**24.

    Example:
        >>> coder, out = np.array([3 << 24 | 5, 0], dtype=np.uint64), np.zeros(1, dtype=np.int8)
        >>> take_symbols(coder, np.array([4, 2**24 - 4]), out)
        >>> int(out[0]), int(coder[0]) == 3 * (2**24 - 4) + 1
        (1, True)
    """
    ends = np.concatenate([[0], np.cumsum(freqs)]).astype(np.uint32)
    begin = np.searchsorted(ends, np.arange(1 << TOP) << (PRECISION - TOP), side="right") - 1
    _take(coder, ends, begin.astype(np.uint16), out)


@njit(cache=True)
def _take(coder: np.ndarray, ends: np.ndarray, begin: np.ndarray, out: np.ndarray) -> None:
    state, left = coder[0], coder[1]
    for i in range(len(out)):
        slot = state & np.uint64((1 << PRECISION) - 1)
        symbol = np.uint64(begin[slot >> np.uint64(PRECISION - TOP)])
        while slot >= np.uint64(ends[symbol + np.uint64(1)]):
            symbol += np.uint64(1)
        low = np.uint64(ends[symbol])
        state = (state >> np.uint64(PRECISION)) * (np.uint64(ends[symbol + np.uint64(1)]) - low) + (slot - low)
        if state < np.uint64(1 << 32) and left > np.uint64(0):
            left -= np.uint64(1)
            state = state << np.uint64(32) | coder[np.uint64(2) + left]
        out[i] += np.int64(symbol)
    coder[0], coder[1] = state, left
