"""Weights put on a grid one column after the other, the columns that are left making up for the errors of those that went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

DAMPING = 0.05
"""Share of the mean second moment that every input gets: moments are estimated, and errors are not exactly where they say."""
BLOCK = 64
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Bits:
    """What levels cost: a zero in its place, a nonzero in its place ``(rows, columns)``, and its sign and size by ``|level|``."""

    zero: Matrix
    nonzero: Matrix
    size: Matrix

    def of(self, levels: NDArray) -> float:
        """The bits of a whole matrix.

        Example:
            >>> costs = Bits(np.full((1, 2), 0.5), np.full((1, 2), 2.0), np.array([0.0, 1.0]))
            >>> costs.of(np.array([[0, -1]]))
            3.5
        """
        return float(np.where(levels == 0, self.zero, self.nonzero + self.size[np.abs(levels)]).sum())


def inverse_root(moments: Tensor) -> Matrix:
    """The upper triangular ``U`` with ``U^T U = H^-1``, ``H`` the damped moments ``(n, n)``.

    ``1 / U[j, j]**2`` is what an error in column ``j`` costs where the columns after it make up for it, and ``U[j, k] / U[j, j]``
    how much of it column ``k`` takes over.

    Example:
        >>> inverse_root(torch.diag(torch.tensor([1.0, 4.0]))).round(3).tolist()
        [[0.943, 0.0], [0.0, 0.492]]
    """
    h = moments.double().cpu()
    h = (h + h.T) / 2
    level = float(h.diagonal().mean()) or 1.0
    h = h + DAMPING * level * torch.eye(len(h), dtype=torch.float64)
    # of the reversed matrix: H = R R^T with R upper triangular, and U is the inverse of R
    root = torch.linalg.cholesky(h.flip(0, 1)).flip(0, 1)
    return torch.linalg.solve_triangular(root, torch.eye(len(h), dtype=torch.float64), upper=True).numpy()


def quantize_columns(w: Matrix, u: Matrix, gain: Matrix, step: float, bits: Bits) -> tuple[NDArray[np.int32], float]:
    r"""Levels ``q (rows, n)`` for the weights ``w``, and the weighted error that is left, both in bits:

    .. math:: \min_q \sum_r g_r (w_r - \Delta q_r)^T H (w_r - \Delta q_r) + \mathrm{bits}(q)

    Greedy, column by column: of zero and the multiples next to the weight the cheapest is taken, and the columns that are left
    are moved to make up for its error (optimal brain surgeon: Hassibi and Stork 1993; in this order: Frantar et al. 2023, *GPTQ*,
    arXiv 2210.17323, with its blocks). ``u`` is the :func:`inverse_root` of ``H``, ``gain`` ``(rows,)`` has ``g``.

    Example:
        >>> costs = Bits(np.zeros((1, 2)), np.ones((1, 2)), np.array([0.0, 1.0, 2.0]))
        >>> alike = inverse_root(torch.tensor([[1.0, 0.9], [0.9, 1.0]]))  # two inputs that are nearly the same
        >>> quantize_columns(np.array([[0.5, 0.4]]), alike, np.array([100.0]), 1.0, costs)[0].tolist()
        [[0, 1]]
    """
    w, levels, total = w.copy(), np.zeros(w.shape, dtype=np.int32), 0.0
    for start in range(0, w.shape[1], BLOCK):
        stop = min(start + BLOCK, w.shape[1])
        errors = np.zeros((len(w), stop - start))
        own = np.ascontiguousarray(u[start:stop, start:stop])
        costs = bits.zero[:, start:stop], bits.nonzero[:, start:stop], bits.size
        _block(w[:, start:stop], levels[:, start:stop], errors, own, gain, step, costs)
        w[:, stop:] -= errors @ u[start:stop, stop:]
        total += float((gain[:, None] * errors**2).sum())
    return levels, total


@njit(cache=True)
def _block(w: Matrix, levels: NDArray, errors: Matrix, u: Matrix, gain: Matrix, step: float, costs: tuple) -> None:
    """The columns of one block, row by row: rows do not depend on each other."""
    zero, nonzero, size = costs
    rows, columns = w.shape
    for r in range(rows):
        for j in range(columns):
            a, root = abs(w[r, j]) / step, step / u[j, j]
            best, level = gain[r] * (a * root) ** 2 + zero[r, j], 0
            near = min(int(a + 0.5), len(size) - 1)
            for q in range(max(near - 1, 1), near + 1):
                cost = gain[r] * ((a - q) * root) ** 2 + nonzero[r, j] + size[q]
                if cost < best:
                    best, level = cost, q
            level = -level if w[r, j] < 0 else level
            levels[r, j] = level
            errors[r, j] = (w[r, j] - level * step) / u[j, j]
            for k in range(j + 1, columns):
                w[r, k] -= errors[r, j] * u[j, k]
