"""Soft thresholding of singular values by one of several methods, chosen by shape, device and the memory of earlier calls."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from taut.errors import TautError
from taut.numeric.polar import shrink_by_polar
from taut.numeric.singular import checked, shrink_by_gram, shrink_by_svd
from taut.numeric.subspace import shrink_by_subspace

METHODS = ("auto", "svd", "gram", "subspace", "polar")
"""What :func:`threshold_singular_values` knows."""

SMALL = 128  # short sides up to this: the exact method takes a few milliseconds and launches the fewest operations
LARGE = 512  # on an accelerator: matrix products are cheap there, an eigendecomposition of this size is not


def threshold_singular_values(
    matrix: Tensor, threshold: float, method: str = "auto", memory: dict[str, Any] | None = None
) -> Tensor:
    """``U diag((S - threshold)_+) V^T`` of ``matrix = U diag(S) V^T``, in the matrix's dtype.

    ============  =========================================================  ==================================================
    method        how                                                        error
    ============  =========================================================  ==================================================
    ``svd``       full decomposition in fp64                                 rounding of the result
    ``gram``      eigenvectors of the short side's Gram matrix in fp64       rounding of the result (fp64: 1e-8 of the largest)
    ``subspace``  the basis of the last call, kept in ``memory``             at most about 5 % of what the call changes
    ``polar``     Newton-Schulz iterations: matrix products only             0.1 % of the threshold, and rounding of the largest
    ``auto``      one of these, :func:`choose`
    ============  =========================================================  ==================================================

    Args:
        matrix: two dimensions; 16-bit types are computed in fp32.
        threshold: not negative, in units of the singular values.
        method: one of :data:`METHODS`.
        memory: what earlier calls on the same matrix left, empty at the first; it is updated. Without one ``subspace`` starts
            from nothing: an eigendecomposition in the matrix's own precision.

    Example:
        >>> w = torch.diag(torch.tensor([3.0, 1.0, 0.5]))
        >>> {m: threshold_singular_values(w, 1.0, m).diag().round(decimals=2).abs().tolist() for m in ("svd", "polar")}
        {'svd': [2.0, 0.0, 0.0], 'polar': [2.0, 0.0, 0.0]}
    """
    check_method(method)
    if not threshold >= 0:
        raise TautError(f"a singular-value threshold must not be negative, got {threshold}")
    w = checked(matrix)
    if threshold == 0 or w.numel() == 0:
        return matrix.clone()
    if method == "auto":
        method = choose(w, memory is not None)
    if method == "subspace":
        shrunk = shrink_by_subspace(w, threshold, {} if memory is None else memory)
    else:
        shrunk = {"svd": shrink_by_svd, "gram": shrink_by_gram, "polar": shrink_by_polar}[method](w, threshold)
    return shrunk.to(matrix.dtype)


def choose(w: Tensor, remembered: bool) -> str:
    """The method that ``auto`` means for a matrix in fp32 or fp64; ``remembered``: calls on it share a memory.

    On the CPU, where every method was timed, calls without a memory are exact; so are those on fp64 anywhere. The rule for
    accelerators follows from what their operations cost in general and has not been timed.

    Example:
        >>> choose(torch.zeros(20, 25), True), choose(torch.zeros(500, 800), True), choose(torch.zeros(500, 800), False)
        ('gram', 'subspace', 'gram')
    """
    if w.dtype == torch.float64:
        return "svd"
    short = min(w.shape)
    if w.device.type == "mps":  # neither fp64 nor decompositions
        return "polar"
    if short <= SMALL:
        return "gram"
    if remembered:
        return "subspace"
    return "gram" if w.device.type == "cpu" or short < LARGE else "polar"


def check_method(method: str) -> None:
    """An error that lists the methods unless ``method`` is one."""
    if method not in METHODS:
        raise TautError(f"unknown method {method!r} to shrink singular values; choose one of {', '.join(METHODS)}")
