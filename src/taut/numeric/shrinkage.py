"""Shrinkage of values and of groups: the two steps most proximal operators are made of."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor


def soft_threshold(w: Tensor, threshold: float) -> Tensor:
    """``sign(w) max(|w| - threshold, 0)``, elementwise; exactly ``w`` at threshold 0.

    Example:
        >>> soft_threshold(torch.tensor([-2.0, 0.5, 1.5]), 1.0).tolist()
        [-1.0, 0.0, 0.5]
    """
    return w - w.clamp(-threshold, threshold)


def shrink_rows(matrix: Tensor, threshold: float) -> Tensor:
    """Shorten each row by ``threshold``, ``max(1 - threshold / ||row||, 0) row``; rows no longer than that become zero.

    Example:
        >>> shrink_rows(torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]), 1.0)
        tensor([[2.4000, 3.2000],
                [0.0000, 0.0000],
                [0.0000, 0.0000]])
    """
    norms = torch.linalg.vector_norm(matrix, dim=1, keepdim=True)
    return matrix * (1 - threshold / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_min(0)


def sparse_group_norm(groups: Tensor, alpha: float) -> Tensor:
    """``(1 - alpha) sum_g sqrt(P) ||g|| + alpha sum_i |w_i|`` for groups of ``P`` elements, one a row.

    Example:
        >>> float(sparse_group_norm(torch.tensor([[3.0, 4.0, 0.0, 0.0]]), alpha=0.5))
        8.5
    """
    lengths = sqrt(groups.shape[1]) * torch.linalg.vector_norm(groups, dim=1).sum()
    return (1 - alpha) * lengths + alpha * groups.abs().sum()
