"""Soft thresholding of singular values that keeps a basis between calls: training moves a weight little from one to the next.

The memory is a dict of plain values: ``basis``, orthonormal columns in the space of the short side of the matrix; ``calls``; and
``fresh``, how often an eigendecomposition found the basis anew.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from taut.numeric.symmetric import eigh

TOLERANCE = 0.05  # of what the step changes: an old basis that errs by more is replaced
SAMPLE = 16  # rows of the error that are computed to estimate it
THIN = 0.25  # of the short side: at lower ranks only the leading subspace is followed
GUARD = 8  # directions that are followed beyond the rank, at least
GROWTHS = 3  # times that missed directions are added in one call before the basis is found anew


def shrink_by_subspace(w: Tensor, threshold: float, memory: dict[str, Any]) -> Tensor:
    """Soft-threshold the singular values of a matrix in the basis of the last call on it, which ``memory`` holds.

    *Full basis*: in the orthonormal basis ``U`` of an earlier call the rows of ``Y = U^T W`` are nearly orthogonal, their lengths
    nearly the singular values ``s``, and ``W - U diag(min(1, t / s)) Y`` costs two matrix products. The first-order error of
    this (Higham, *Functions of matrices*, 2008, theorem 3.11: divided differences times the products of rows) is estimated on
    some rows; above :data:`TOLERANCE` of the change, an eigendecomposition replaces the basis.

    *Leading subspace*, at low rank: one step of subspace iteration from the last basis and the Rayleigh-Ritz values in it
    (Halko, Martinsson and Tropp, SIAM Review 53, 2011, section 4.5). A few power steps look for singular values above ``t`` in
    the rest and add what they find. All below ``t`` is exactly gone: the result has the rank of what is kept.

    The first call is a decomposition of the Gram matrix in the precision of ``w`` (singular values below 3e-4 of the largest
    are not resolved in fp32: each errs by at most ``t``).

    Example:
        >>> memory, w = {}, torch.diag(torch.tensor([3.0, 1.0, 0.5]))
        >>> shrink_by_subspace(w, 0.6, memory).diag().tolist()
        [2.4..., 0.3..., 0.0]
        >>> sorted(memory)
        ['basis', 'calls', 'fresh']
    """
    if w.shape[0] > w.shape[1]:
        return shrink_by_subspace(w.mT, threshold, memory).mT
    size = float(w.abs().amax())
    if size == 0:
        return w.clone()
    if not 1e-6 < size < 1e6:  # fourth powers of the singular values must not overflow or vanish
        return shrink_by_subspace(w / size, min(threshold / size, 1e9), memory) * size
    call, fresh, basis = memory.get("calls", 0), memory.get("fresh", 0), memory.get("basis")
    done = None
    if basis is not None and basis.shape[0] == w.shape[0]:
        following = _follow if basis.shape[1] < w.shape[0] else _turn
        done = following(w, threshold, basis.to(w), call)
    if done is None:
        fresh += 1
        basis = eigh(w @ w.mT)[1].flip(1)
        done = _split(w, threshold, basis, basis.mT @ w)
    memory |= {"basis": done[1], "calls": call + 1, "fresh": fresh}
    return done[0]


def _turn(w: Tensor, threshold: float, basis: Tensor, call: int) -> tuple[Tensor, Tensor] | None:
    """The result in an old full basis, unless that errs by too much."""
    y = basis.mT @ w
    norms = torch.linalg.vector_norm(y, dim=1)
    change = torch.linalg.vector_norm(norms.clamp(max=threshold))
    if bool(_error(y, norms, threshold, call) > TOLERANCE * change):
        return None
    return _split(w, threshold, basis, y)


def _error(y: Tensor, norms: Tensor, threshold: float, call: int) -> Tensor:
    """Estimate of the norm of the first-order error of thresholding the rows of ``y`` in place of its singular values."""
    m = y.shape[0]
    every = max(1, m // SAMPLE)
    rows = torch.arange(call % every, m, every, device=y.device)
    s = norms.clamp_min(torch.finfo(norms.dtype).tiny)
    share, square = threshold / s.clamp_min(threshold), s.square()
    step = square[rows, None] - square
    # min(1, t / s) as a function of s^2: its divided differences, its derivative where two singular values coincide
    slope = torch.where(s > threshold, -0.5 * threshold / (s * square), 0.0)
    near = step.abs() < 1e-3 * square
    divided = torch.where(near, slope, (share[rows, None] - share) / torch.where(near, 1.0, step))
    products = y[rows] @ y.mT
    products[torch.arange(len(rows), device=y.device), rows] = 0
    return torch.linalg.matrix_norm((divided * products) @ y) * (m / len(rows)) ** 0.5


def _split(w: Tensor, threshold: float, basis: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The result in a full basis, with ``y`` the matrix in it, and what to keep of the basis."""
    norms = torch.linalg.vector_norm(y, dim=1)
    norms, order = norms.sort(descending=True)
    rank, m = int((norms > threshold).sum()), w.shape[0]
    keep = rank + max(GUARD, rank // 4)
    if 2 * rank > m:
        share = torch.empty_like(norms)
        share[order] = threshold / norms.clamp_min(threshold)
        return w - basis @ (share[:, None] * y), basis
    top = order[:rank]
    leading = basis[:, top]
    shrunk = leading @ ((1 - threshold / norms[:rank])[:, None] * y[top])
    return shrunk, basis[:, order[:keep]] if keep <= THIN * m else basis


def _follow(w: Tensor, threshold: float, basis: Tensor, call: int) -> tuple[Tensor, Tensor] | None:
    """The result in the leading subspace, and the next basis; ``None`` where the rank has outgrown it."""
    q = torch.linalg.qr(w @ (w.mT @ basis))[0]
    y = q.mT @ w
    for growth in range(GROWTHS + 1):
        missed, largest = _probe(w, q, call + growth)
        if bool(largest <= threshold):
            break
        if growth == GROWTHS or q.shape[1] + missed.shape[1] > 2 * THIN * w.shape[0]:
            return None
        q, y = torch.cat([q, missed], 1), torch.cat([y, missed.mT @ w])
    wide = y if y.device.type == "mps" else y.double()  # squares of small singular values, and mps has no fp64
    squares, turn = eigh(wide @ wide.mT)
    s, turn = squares.clamp_min(0).sqrt().flip(0).to(w.dtype), turn.flip(1).to(w.dtype)
    rank = int((s > threshold).sum())
    q = q @ turn
    shrunk = q[:, :rank] @ ((1 - threshold / s[:rank])[:, None] * (turn[:, :rank].mT @ y))
    return shrunk, q[:, : rank + max(GUARD, rank // 4)]


def _probe(w: Tensor, q: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The strongest directions outside the subspace, by power steps from random ones, and the largest singular value in them."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.randn(w.shape[0], GUARD, generator=generator).to(w)
    for power in range(3):
        p = p - q @ (q.mT @ p)
        p = torch.linalg.qr(p - q @ (q.mT @ p))[0]
        if power < 2:
            p = w @ (w.mT @ p)
    rest = p.mT @ w
    return p, eigh(rest @ rest.mT)[0][-1].clamp_min(0).sqrt()
