"""Shrinkage of values and of groups: the two steps most proximal operators are made of."""

from __future__ import annotations

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
