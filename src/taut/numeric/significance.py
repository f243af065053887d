"""How likely a weight is to be nonzero, told from the others: what its place costs in the file."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from taut.numeric.geometry import distances, of_shape

PRIOR = 4
"""Weights that the density of all counts for in that of a row or a column."""
TRUST = 0.5
"""The part of the log-odds that is believed. A weight is among its own neighbours' neighbours: with all of it, what is dense
becomes denser and what is sparse dies out before the loss can tell."""
STEPS = 5
SAMPLE = 1 << 14
"""Weights that the regression is about: it has three numbers to find."""


def beside(weight: Tensor) -> tuple[int, ...]:
    """How far away in a row the weights are that are a weight's neighbours.

    Example:
        >>> beside(torch.zeros(8, 4, 3, 3))
        (1, 2, 3, 4, 9)
    """
    stride, period = of_shape(weight.shape)
    if weight.dim() == 2:
        stride, *_ = [*distances(weight.detach().cpu().float().numpy(), 1), 0]
    near = {1, stride - 1, stride, stride + 1} if stride else {1}
    return tuple(sorted(d for d in near | {period} if 0 < d < weight[0].numel()))


@torch.no_grad()
def log_odds(nonzero: Tensor, near: tuple[int, ...], trust: float = TRUST) -> tuple[Tensor, Tensor]:
    """For every weight the log2 odds that it is nonzero, ``trust`` of the way from those of all weights, which come second.

    A logistic regression on the odds of its row and column (the first dimension has the rows) and on the number of its neighbours
    that are nonzero, ``near`` places away on both sides: what the codec's contexts see, on both sides instead of one.

    Example:
        >>> mask = torch.zeros(40, 50)
        >>> mask[:, :10] = 1
        >>> odds, overall = log_odds(mask, (1,))
        >>> bool(odds[0, 5] > overall > odds[0, 30])
        True
    """
    ones = nonzero.reshape(len(nonzero), -1).float()
    rows, columns = ones.shape
    # in double precision: the density of a full row is next to 1
    share = (ones.sum(dtype=torch.double) + 0.5) / (ones.numel() + 1)
    row, column = ((ones.sum(d, True, dtype=torch.double) + PRIOR * share) / (n + PRIOR) for d, n in ((1, columns), (0, rows)))
    overall = share.logit().float()
    own = row.logit().float() + column.logit().float() - overall
    far = max(near)
    padded = pad(ones, (far, far))
    count = torch.zeros_like(ones)
    for d in (d for n in near for d in (-n, n)):
        count += padded[:, far + d : far + d + columns]
    some = slice(None, None, max(1, ones.numel() // SAMPLE) | 1)
    features = torch.stack([own.reshape(-1)[some], count.reshape(-1)[some], torch.ones_like(ones).reshape(-1)[some]], dim=1)
    slopes = _regression(features.double(), ones.reshape(-1)[some].double()).tolist()
    fitted = (slopes[0] * own + slopes[1] * count + slopes[2]).reshape(nonzero.shape)
    return (overall + trust * (fitted.clamp(-9, 3) - overall)) / math.log(2), overall / math.log(2)


def _regression(features: Tensor, wanted: Tensor) -> Tensor:
    """Newton's method from the odds of row and column alone, with a small ridge around them."""
    start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.double, device=features.device)
    weights, ridge = start, torch.eye(3, dtype=torch.double, device=features.device)
    for _ in range(STEPS):
        p = (features @ weights).sigmoid()
        curvature = features.T @ (features * (p * (1 - p))[:, None]) + ridge
        weights = weights + torch.linalg.solve(curvature, features.T @ (wanted - p) - (weights - start))
    return weights
