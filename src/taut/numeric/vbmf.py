r"""The rank of a noisy matrix by empirical variational Bayes, in closed form: which singular values are signal.

The model: ``Y (L, M)``, ``L <= M``, is ``B A^T`` plus independent Gaussian noise of variance ``s2``; the columns of ``A`` and
``B`` have Gaussian priors whose variances, like ``s2``, are estimated by maximising the evidence. The solution keeps a singular
value ``g`` if, and only if, ``g^2 > M s2 x``, with ``x = (1 + t) (1 + a / t)``, ``a = L / M`` and ``t`` the zero of
``phi(t) + phi(t / a)``, ``phi(t) = log(1 + t) / t - 1/2``. Source: Nakajima, Sugiyama, Babacan and Tomioka, *Global analytic
solution of fully-observed variational Bayesian matrix factorization*, JMLR 14 (2013), theorem 2 and section 5; Nakajima, Tomioka,
Sugiyama and Babacan, *Condition for perfect dimensionality recovery by variational Bayesian PCA*, JMLR 16 (2015), theorem 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log1p, sqrt

import torch
from torch import Tensor

from taut.errors import TautError
from taut.numeric.singular import singular_values

EPS = torch.finfo(torch.float64).eps
GRID, NARROWINGS = 200, 6
"""Points of a search for the noise variance in its logarithm, and how often it is repeated around the best one."""


@dataclass(frozen=True)
class Factorization:
    """``values (rank,)``: the kept singular values after shrinkage, descending; ``noise``: the variance of the noise."""

    values: Tensor
    noise: float

    @property
    def rank(self) -> int:
        return len(self.values)


def evbmf(matrix: Tensor, noise: float | None = None) -> Factorization:
    """The global solution of empirical variational Bayesian matrix factorization, its rank and its noise variance.

    ``noise``: the variance of each element's noise, or ``None`` to estimate it too (on a grid in its logarithm, narrowed around
    the best point: the evidence has kinks where a singular value comes in). A matrix without noise has the rank it has, to the
    precision of its type.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> signal = torch.randn(60, 4, generator=draw) @ torch.randn(4, 90, generator=draw)
        >>> found = evbmf(signal + 0.5 * torch.randn(60, 90, generator=draw))
        >>> found.rank, 0.24 < found.noise < 0.26
        (4, True)
    """
    if matrix.dim() != 2 or 0 in matrix.shape:
        raise TautError(f"a rank needs a matrix with elements, got shape {tuple(matrix.shape)}")
    if noise is not None and not noise > 0:
        raise TautError(f"the variance of the noise must be above 0, got {noise}")
    rows, columns = sorted(matrix.shape)
    scale = float(matrix.detach().abs().max()) or 1.0
    g2 = (singular_values(matrix.detach().double() / scale)) ** 2
    present = g2 > max(_rounding(g2, rows, columns, matrix.dtype), float(g2[0]) * (columns * EPS) ** 2)
    s2 = noise / scale**2 if noise is not None else _noise(g2, rows, columns)
    kept = g2[present & (g2 > columns * s2 * _threshold(rows / columns))] if s2 else g2[present]
    return Factorization(_shrunk(kept, s2, rows, columns) * scale, s2 * scale**2)


def _rounding(g2: Tensor, rows: int, columns: int, dtype: torch.dtype) -> float:
    """The largest squared singular value that rounding to the matrix's own type may make: no signal, and too uneven for noise."""
    rounded = torch.finfo(dtype).eps * (sqrt(rows) + sqrt(columns)) if dtype.is_floating_point else 0.0
    return rounded**2 * float(g2.sum()) / (rows * columns)


def _shrunk(g2: Tensor, s2: float, rows: int, columns: int) -> Tensor:
    """The posterior mean of kept singular values, from their squares."""
    if not s2:
        return g2.sqrt()
    centre = 1 - (rows + columns) * s2 / g2
    return g2.sqrt() / 2 * (centre + (centre**2 - 4 * rows * columns * s2**2 / g2**2).clamp(min=0).sqrt())


def _noise(g2: Tensor, rows: int, columns: int) -> float:
    """The variance of the noise that maximises the evidence, between the bounds of JMLR 14, section 5.2."""
    x = _threshold(rows / columns)
    most = min(ceil(rows / (1 + rows / columns)) - 1, rows - 1)
    low = max(float(g2[most]) / (columns * x), float(g2[most:].mean()) / columns)
    high = float(g2.sum()) / (rows * columns)
    if high <= 0 or low <= high * 1e-24:  # singular values of zero: no noise at all
        return 0.0
    low, high = (float(torch.tensor(v, dtype=torch.float64).log()) for v in (low, max(low, high)))
    for _ in range(NARROWINGS):
        grid = torch.linspace(low, high, GRID, dtype=torch.float64)
        best = grid[_free_energies(g2, grid.exp(), rows, columns).argmin()]
        width = (high - low) / (GRID - 1)
        low, high = max(low, float(best) - width), min(high, float(best) + width)
    return float(best.exp())


def _free_energies(g2: Tensor, s2: Tensor, rows: int, columns: int) -> Tensor:
    """Twice the free energy over ``M`` for each of many variances, up to a constant (JMLR 14, section 5.2)."""
    alpha = rows / columns
    x = g2 / (columns * s2[:, None])
    kept = x > _threshold(alpha)
    inside = x.clamp(min=_threshold(alpha))
    tau = (inside - (1 + alpha) + ((inside - (1 + alpha)) ** 2 - 4 * alpha).clamp(min=0).sqrt()) / 2
    # what is kept gains a term that is zero at the threshold and negative above it
    gain = tau.log1p() - tau + alpha * (tau / alpha).log1p()
    rest = x + s2.log()[:, None]
    return (rest + torch.where(kept, gain, torch.zeros_like(gain))).sum(1)


@lru_cache(maxsize=256)
def _threshold(alpha: float) -> float:
    """``x``: the smallest ``g^2 / (M s2)`` that is signal; ``t / sqrt(alpha)`` stays close to 2.5129, its value at 1."""

    def phi(t: float) -> float:
        return log1p(t) / t - 0.5

    low, high = 1e-3 * sqrt(alpha), 1e3 * sqrt(alpha)
    for _ in range(200):
        middle = (low + high) / 2
        if phi(middle) + phi(middle / alpha) > 0:
            low = middle
        else:
            high = middle
    t = (low + high) / 2
    return (1 + t) * (1 + alpha / t)
