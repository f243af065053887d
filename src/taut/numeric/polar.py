"""Polar factors by Newton-Schulz iterations, and soft thresholding of singular values from them: matrix products only."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

STABLE = 1.69770248525577  # a larger scaling would take the largest singular value to 0 and lose it in rounding
TOLERANCE = 1e-3  # of the threshold: how exactly singular values near 0 and near the threshold are treated


def polar_factor(w: Tensor, resolution: float = 1e-4) -> Tensor:
    """The nearest matrix with orthonormal rows (or columns), ``U V^T`` of ``w = U diag(S) V^T``, without a decomposition.

    Newton-Schulz iterations ``X <- a X (3 - a^2 X X^T) / 2`` with the scaling ``a`` that is best for the interval the singular
    values are known to lie in: the smallest grows 2.6 times a step at first, then the convergence is quadratic. Singular values
    below ``resolution`` times the largest are not taken to 1, only towards it. (Chen and Chow, *A stable scaling of Newton-Schulz
    for improving the sign function computation of a Hermitian matrix*, 2014; Higham, *Functions of matrices*, 2008, chapter 8.)

    The factor of a symmetric matrix is symmetric, and is its matrix sign. Zero stays zero.

    Example:
        >>> polar_factor(torch.tensor([[0.0, 2.0], [-0.5, 0.0]])).round(decimals=5).tolist()
        [[0.0, 1.0], [-1.0, 0.0]]
    """
    if w.shape[0] > w.shape[1]:
        return polar_factor(w.mT, resolution).mT
    x = w / spectral_bound(w).clamp_min(torch.finfo(w.dtype).tiny)
    precision = torch.finfo(w.dtype).eps
    least = max(resolution, precision)
    while True:
        a = min(sqrt(3 / (1 + least + least * least)), STABLE)
        product = x @ x.mT
        x = (1.5 * a) * x - (0.5 * a**3) * (product @ x)
        done = 1 - least < sqrt(precision)
        # the middle of the interval is taken to 1, the least value comes from an end
        least = min(0.5 * a * end * (3 - (a * end) ** 2) for end in (least, 1.0))
        if done:
            return x


def spectral_bound(w: Tensor) -> Tensor:
    """An upper bound of the largest singular value of a wide matrix: the fourth root of the sum of fourth powers, a tensor.

    Example:
        >>> float(spectral_bound(torch.tensor([[2.0, 0.0], [0.0, 2.0]])))  # 2 * 2 ** (1 / 4)
        2.378...
    """
    largest = w.abs().amax().clamp_min(torch.finfo(w.dtype).tiny)
    scaled = w / largest  # fourth powers would overflow
    # the rounding of the products may lift a singular value above the bound
    return 1.0001 * largest * torch.linalg.matrix_norm(scaled @ scaled.mT).sqrt()


def shrink_by_polar(w: Tensor, threshold: float) -> Tensor:
    """Soft-threshold the singular values of a matrix by two polar factors.

    With ``W = Q Z``, ``Z`` symmetric and not negative, ``min(S, t)`` is ``(Z + t - |Z - t|) / 2`` on the eigenvectors of ``Z``,
    and ``|A| = A sign(A)``. Singular values that are not resolved (near zero in the first factor, near ``t`` in the second)
    cost an error of at most :data:`TOLERANCE` times the threshold each, plus rounding of the largest singular value; values
    that should become zero become that small. (Cai and Osher, *Fast singular value thresholding without singular value
    decomposition*, Methods and Applications of Analysis 20, 2013.)

    Example:
        >>> shrink_by_polar(torch.diag(torch.tensor([3.0, 1.0, 0.5])), 1.0).diag().round(decimals=2).abs().tolist()
        [2.0, 0.0, 0.0]
    """
    if w.shape[0] > w.shape[1]:
        return shrink_by_polar(w.mT, threshold).mT
    bound = float(spectral_bound(w))
    if bound <= threshold:
        return torch.zeros_like(w)
    q = polar_factor(w, TOLERANCE * threshold / bound)
    z = _symmetric(q @ w.mT)
    at = threshold * torch.eye(z.shape[0], dtype=z.dtype, device=z.device)
    # the bound that the second factor finds may be the fourth root of the size above the largest distance from t
    resolution = TOLERANCE * threshold / (w.shape[0] ** 0.25 * max(bound, threshold))
    distance = _symmetric((z - at) @ polar_factor(z - at, resolution))
    return w - (z + at - distance) @ (q / 2)


def _symmetric(a: Tensor) -> Tensor:
    return (a + a.mT) / 2
