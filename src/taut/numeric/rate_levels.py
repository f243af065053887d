"""Levels on a grid for the error and the length of the file together: rates told from the levels, and levels from the rates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from taut.numeric.significance import beside, log_odds
from taut.numeric.surgeon import Bits, Matrix, inverse_root, quantize_columns

PASSES = 3
"""Levels are chosen so many times, each time at the rates that the last levels gave."""


def orders(moments: Tensor) -> list[tuple[NDArray | None, Matrix]]:
    """Orders of the columns (``None``: as they are), each with the inverse root of the moments in it."""
    if not bool(moments.tril(-1).any()):
        return [(None, inverse_root(moments))]  # no column can make up for another
    order = moments.diagonal().argsort(descending=True, stable=True)
    return [(None, inverse_root(moments)), (order.numpy(), inverse_root(moments[order][:, order]))]


def choose_levels(
    w: Matrix, order: NDArray | None, u: Matrix, gain: Matrix, step: float, shape: Sequence[int]
) -> tuple[NDArray[np.int32], float]:
    """The levels, their columns as they are in ``w``, and what they cost in all, in bits."""
    columns = np.arange(w.shape[1]) if order is None else order
    back, w = np.argsort(columns), np.ascontiguousarray(w[:, columns])
    levels = np.rint(w / step).astype(np.int32)
    most, error = int(np.abs(levels).max()), 0.0
    near = beside(torch.from_numpy(levels[:, back]).reshape(tuple(shape))) if len(shape) > 1 else ()
    for _ in range(PASSES):
        bits = _bits(levels[:, back], near, most)
        bits = Bits(bits.zero[:, columns], bits.nonzero[:, columns], bits.size)
        levels, error = quantize_columns(w, u, gain, step, bits)
    levels = np.ascontiguousarray(levels[:, back])
    return levels, error + _bits(levels, near, most).of(levels)


def _bits(levels: NDArray, near: tuple[int, ...], most: int) -> Bits:
    """What each level would cost, told from the present ones. A tenth of an occurrence more keeps all sizes possible."""
    counts = np.bincount(np.abs(levels[levels != 0]), minlength=most + 1).astype(float) + 0.1
    counts[0] = 0.0
    size = np.concatenate([[0.0], 1 - np.log2(counts[1:] / max(counts.sum(), 1e-9))])
    nonzero = torch.from_numpy(np.ascontiguousarray(levels != 0))
    if near:
        odds = log_odds(nonzero, near, trust=1.0)[0].double()
    else:
        share = (float(nonzero.sum()) + 0.5) / (levels.size + 1)
        odds = torch.full(levels.shape, math.log2(share / (1 - share)), dtype=torch.double)
    zero = softplus(odds * math.log(2)) / math.log(2)  # log2(1 + 2^odds)
    return Bits(zero.numpy(), (zero - odds).numpy(), size)
