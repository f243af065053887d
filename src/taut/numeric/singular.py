"""Singular values: decomposition that does not give up, soft thresholding, and the rank that holds a share of the energy."""

from __future__ import annotations

import torch
from torch import Tensor

from taut.errors import TautError
from taut.numeric.symmetric import eigh


def working(w: Tensor) -> Tensor:
    """``w`` in a type one can compute in: 16 bits and fewer become fp32, fp32 and fp64 stay.

    Example:
        >>> working(torch.ones(2, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    if not w.is_floating_point():
        raise TautError(f"a weight of dtype {w.dtype} and shape {tuple(w.shape)}: convert it to a floating-point type first")
    return w if w.dtype in (torch.float32, torch.float64) else w.float()


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The thin singular value decomposition ``matrix = U diag(S) V^T`` as ``(U, S, V^T)``, singular values descending.

    In fp64 for fp64, otherwise in fp32. Where LAPACK's divide and conquer does not converge, the symmetric eigenproblem in
    double precision takes its place (singular values to about 1e-8 of the largest).
    NaN, infinite values, integers and tensors that are not matrices raise a :class:`~taut.errors.TautError`.

    Example:
        >>> u, s, vt = svd(torch.tensor([[3.0, 0.0], [0.0, -4.0]]))
        >>> s.tolist()
        [4.0, 3.0]
        >>> torch.allclose(u * s @ vt, torch.tensor([[3.0, 0.0], [0.0, -4.0]]))
        True
    """
    w = checked(matrix)
    try:
        return torch.linalg.svd(w, full_matrices=False)
    except torch.linalg.LinAlgError:
        u, s, vt = _svd_by_eigenvectors(w.double())
        return u.to(w.dtype), s.to(w.dtype), vt.to(w.dtype)


def singular_values(matrix: Tensor) -> Tensor:
    """The singular values alone, descending; differentiable (the gradient is ``U V^T``, without NaN at zero).

    Example:
        >>> singular_values(torch.diag(torch.tensor([1.0, -2.0]))).tolist()
        [2.0, 1.0]
    """
    w = checked(matrix)
    try:
        return torch.linalg.svdvals(w)
    except torch.linalg.LinAlgError:
        return _svd_by_eigenvectors(w.double())[1].to(w.dtype)


def shrink_singular_values(matrix: Tensor, threshold: float) -> Tensor:
    """Soft-threshold the singular values: ``U diag((S - threshold)_+) V^T``, in the matrix's dtype.

    Computed as the subtraction ``W - U diag(min(S, threshold)) V^T``, so that what is kept is not rebuilt: rebuilding costs
    accuracy in fp32. For fp32 and below the subtracted part is ``U diag(min(1, threshold / S)) U^T W`` with ``U`` and ``S^2``
    from the Gram matrix of the short side in double precision, which is as exact and several times faster on long matrices.
    (Cai, Candes and Shen, *A singular value thresholding algorithm for matrix completion*, SIAM J. Optim. 2010, theorem 2.1.)

    Example:
        >>> shrink_singular_values(torch.diag(torch.tensor([3.0, 1.0, 0.5])), 1.0).diag().tolist()
        [2.0, 0.0, 0.0]
    """
    if not threshold >= 0:
        raise TautError(f"a singular-value threshold must not be negative, got {threshold}")
    w = checked(matrix)
    if threshold == 0 or w.numel() == 0:
        return matrix.clone()
    # mps has no fp64
    shrink = shrink_by_svd if w.dtype == torch.float64 or w.device.type == "mps" else shrink_by_gram
    return shrink(w, threshold).to(matrix.dtype)


def shrink_by_svd(w: Tensor, threshold: float) -> Tensor:
    """Soft-threshold by the full decomposition, in double precision where the device has it.

    Example:
        >>> shrink_by_svd(torch.diag(torch.tensor([3.0, 1.0, 0.5])), 1.0).diag().tolist()
        [2.0, 0.0, 0.0]
    """
    wide = w if w.device.type == "mps" else w.double()
    u, s, vt = svd(wide)
    if not bool((s > threshold).any()):
        return torch.zeros_like(w)
    return (wide - (u * s.clamp(max=threshold)) @ vt).to(w.dtype)


def shrink_by_gram(w: Tensor, threshold: float) -> Tensor:
    """Soft-threshold by the eigenvectors of the Gram matrix of the short side, in double precision.

    As exact as the full decomposition for fp32; for fp64 to about 1e-8 of the largest singular value.

    Example:
        >>> shrink_by_gram(torch.diag(torch.tensor([3.0, 1.0, 0.5])), 1.0).diag().tolist()
        [2.0, 0.0, 0.0]
    """
    wide = w.double()
    s, clipped = _clipped_by_gram(wide, threshold)
    return (wide - clipped).to(w.dtype) if bool((s > threshold).any()) else torch.zeros_like(w)


def rank_for_energy(singular_values: Tensor, energy: float) -> int:
    """The smallest rank whose singular values hold the share ``energy`` (0 to 1) of the sum of squares; 0 for a zero matrix.

    Values so small that their square does not change the sum in fp64 are never needed.

    Example:
        >>> rank_for_energy(torch.tensor([3.0, 2.0, 1.0]), 0.9), rank_for_energy(torch.tensor([3.0, 2.0, 1.0]), 1.0)
        (2, 3)
    """
    if not 0 <= energy <= 1:
        raise TautError(f"energy is a share between 0 and 1, got {energy}")
    held = singular_values.detach().double().sort(descending=True).values.square().cumsum(0)
    if held.numel() == 0 or held[-1] == 0 or energy == 0:
        return 0
    return int((held < energy * held[-1]).sum()) + 1


def checked(matrix: Tensor) -> Tensor:
    """``matrix`` in a type one can compute in; no matrix, NaN and infinite values are errors."""
    if matrix.dim() != 2:
        raise TautError(f"singular values need a matrix, got shape {tuple(matrix.shape)}; choose a view of the weight first")
    w = working(matrix)
    if not bool(torch.isfinite(w).all()):
        bad = int((~torch.isfinite(w)).sum())
        raise TautError(
            f"singular values of a matrix of shape {tuple(w.shape)} with {bad} NaN or infinite values; lower the "
            "learning rate or check the checkpoint"
        )
    return w


def _clipped_by_gram(w: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Singular values of a double-precision matrix, and ``U diag(min(S, threshold)) V^T``."""
    tall = w.shape[0] > w.shape[1]
    short = w.mT if tall else w
    squares, u = eigh(short @ short.mT)
    s = squares.clamp_min(0).sqrt()
    clipped = (u * (threshold / s.clamp_min(threshold))) @ (u.mT @ short)
    return s, clipped.mT if tall else clipped


def _svd_by_eigenvectors(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin decomposition from the eigenvectors of ``W W^T``; both sides are orthonormal even at zero singular values."""
    if w.shape[0] > w.shape[1]:
        v, s, ut = _svd_by_eigenvectors(w.mT)
        return ut.mT, s, v.mT
    u = eigh(w @ w.mT)[1].flip(1)
    # the rows of U^T W are orthogonal, so that R is the diagonal of singular values up to rounding
    q, r = torch.linalg.qr((u.mT @ w).mT)
    s, order = r.diagonal().abs().sort(descending=True)
    sign = torch.where(r.diagonal() < 0, -1.0, 1.0).to(w.dtype)
    return u[:, order], s, (q * sign)[:, order].mT
