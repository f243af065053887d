"""The best approximation of a matrix by one of a given rank: in its elements, or in its products with known inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from taut.numeric.symmetric import eigh

DAMPING = 1e-6
"""Share of the inputs' mean second moment that every direction gets: where no input was seen, the weights themselves count."""


def truncate(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors ``(m, r)`` and ``(r, n)`` of the best rank-``r`` approximation, of equal scale, in double precision.

    The leading singular vectors of the smaller side are eigenvectors of its Gram matrix, and the other factor is the
    projection on them: the product is a projection of the matrix whatever the rounding of the eigenvalues.
    """
    work, scale = _scaled(matrix)
    if work.shape[0] > work.shape[1]:
        right, left = _balanced(leading_vectors(work.T, rank), work.T, scale)
        return left.T, right.T
    return _balanced(leading_vectors(work, rank), work, scale)


def truncate_products(matrix: Tensor, moments: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    r"""Factors ``(m, r)`` and ``(r, n)`` of the rank-``r`` matrix ``V`` whose products with the inputs are nearest:

    .. math:: \min_V \mathbb{E}\,\|(W - V) x\|^2 = \|(W - V) S\|_F^2, \qquad S S^T = \mathbb{E}\, x x^T

    ``moments`` ``(n, n)`` are the second moments of the inputs. Truncating the decomposition of ``W S`` and taking ``S`` back
    out (SVD-LLM, Wang et al. 2024, arXiv 2403.07378) is the projection ``U U^T W`` on its leading left singular vectors, so
    that nothing is inverted and moments may be singular.

    Example:
        >>> w = torch.diag(torch.tensor([3.0, 2.0]))
        >>> left, right = truncate_products(w, torch.diag(torch.tensor([0.1, 1.0])), 1)  # the first input hardly varies
        >>> (left @ right).abs().round(decimals=3).tolist()
        [[0.0, 0.0], [0.0, 2.0]]
    """
    work, scale = _scaled(matrix)
    products = weighted(work, moments)
    tall = products.shape[0] > products.shape[1]
    basis = products @ leading_vectors(products.T, rank) if tall else leading_vectors(products, rank)
    # one step of orthogonal iteration: as exact as a decomposition of the products, where their Gram matrix squares the condition
    right = torch.linalg.qr(products.T @ torch.linalg.qr(basis)[0])[0]
    return _balanced(_signed(torch.linalg.qr(products @ right)[0]), work, scale)


def weighted(matrix: Tensor, moments: Tensor) -> Tensor:
    """``W S`` in double precision, ``S S^T`` the second moments ``(n, n)`` as multiples of their mean."""
    return matrix.double() @ _root(moments.to(matrix.device, torch.float64))


def nice_ranks(limit: int) -> list[int]:
    """Ranks below ``limit``, about two for each factor 2: 1, 2, 3, 4, 6, 8, 16, 24, 32, 48, 64, 96, …

    Example:
        >>> nice_ranks(20)
        [1, 2, 3, 4, 6, 8, 16]
    """
    ranks, step = [1, 2, 3, 4, 6, 8, 16, 24], 32
    while step < limit:
        ranks += [step, step * 3 // 2]
        step *= 2
    return [r for r in ranks if r < limit]


def _scaled(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix in double precision divided by its largest element, and that element."""
    device = "cpu" if matrix.device.type == "mps" else matrix.device  # the one device without double precision
    work = matrix.to(device, torch.float64)
    scale = work.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    return work / scale, scale


def leading_vectors(matrix: Tensor, rank: int) -> Tensor:
    """The leading left singular vectors ``(m, r)`` of ``(m, n)``, by the Gram matrix of its rows; every sign is fixed.

    Example:
        >>> leading_vectors(torch.tensor([[0.0, 0.1], [3.0, 0.0]]), 1).flatten().tolist()
        [0.0, 1.0]
    """
    return _signed(eigh(matrix @ matrix.T)[1][:, -rank:].flip(1))


def _signed(vectors: Tensor) -> Tensor:
    """The sign of a singular vector is arbitrary: fixed here, so that machines agree."""
    return vectors * torch.sign(vectors.gather(0, vectors.abs().argmax(0, keepdim=True)))


def _balanced(vectors: Tensor, work: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The projection of ``scale * work`` on orthonormal columns as two factors of equal scale."""
    projected = vectors.T @ work
    root = (projected.norm(dim=1) * scale).sqrt()
    inverse = torch.where(root > 0, scale / root, torch.zeros_like(root))
    return vectors * root, projected * inverse[:, None]


def _root(moments: Tensor) -> Tensor:
    """A matrix ``S`` with ``S S^T`` the damped moments; sums made in single precision may be a little indefinite."""
    moments = (moments + moments.T) / 2
    level = moments.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    damped = moments / level + DAMPING * torch.eye(len(moments), dtype=torch.float64, device=moments.device)
    root, failed = torch.linalg.cholesky_ex(damped)
    if not bool(failed):
        return root
    values, vectors = eigh(damped)
    return vectors * values.clamp(min=DAMPING).sqrt()
