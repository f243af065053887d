"""Which columns of a matrix its products with known inputs need least, and what the others then do in their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from taut.numeric.truncation import DAMPING

ROUNDS = 512
"""Eliminations at most: of a matrix with more columns, several go at once."""


def fewer_columns(matrix: Tensor, moments: Tensor, counts: Sequence[int]) -> Iterator[tuple[Tensor, Tensor, float]]:
    r"""For each of the falling ``counts``: which columns stay ``(n,)``, boolean; their new values ``(m, count)``, in double
    precision; and what is lost of the products, where ``V`` has zeros in the columns that go:

    .. math:: \min_V \mathbb{E}\,\|(W - V) x\|^2

    For given columns the minimum is a regression on the inputs that are still read. Which go is decided greedily, each time
    those whose loss is the least, by the inverse of the second moments ``C = E x x^T`` ``(n, n)``, kept up to date: column ``j``
    costs ``||w_j||^2 / [C^-1]_jj`` (the optimal brain surgeon, Hassibi and Stork, NIPS 1993, with all rows of a column at once).

    Example:
        >>> inputs = torch.tensor([[1.0, 0.99, 0.0], [0.99, 1.0, 0.0], [0.0, 0.0, 0.01]])  # two almost alike, one hardly varies
        >>> stay, values, lost = next(fewer_columns(torch.tensor([[1.0, 1.0, 2.0]]), inputs, [1]))
        >>> stay.tolist(), values.round(decimals=2).tolist(), round(lost, 3)
        ([False, True, False], [[1.99]], 0.06)
    """
    size = matrix.shape[1]
    work, inverse = matrix.double().clone(), _inverse(moments.to(matrix.device, torch.float64))
    unit = float(moments.diagonal().double().mean())
    stays, lost = torch.ones(size, dtype=torch.bool, device=matrix.device), 0.0
    for before, count in pairwise([size, *counts]):
        for gone in _shares(before - count, -(-size // ROUNDS)):
            left = stays.nonzero().flatten()
            price = work[:, left].square().sum(0) / inverse[left, left]
            out = left[price.argsort(stable=True)[:gone]]
            solved = torch.linalg.solve(inverse[out][:, out], inverse[out])
            lost += float((work[:, out] @ torch.linalg.inv(inverse[out][:, out]) * work[:, out]).sum()) * unit
            work = work - work[:, out] @ solved
            inverse = inverse - inverse[:, out] @ solved
            stays[out] = False
        yield stays.clone(), work[:, stays], lost


def _shares(total: int, most: int) -> Iterator[int]:
    while total > 0:
        yield min(most, total)
        total -= most


def _inverse(moments: Tensor) -> Tensor:
    """Of the moments as multiples of their mean, damped: inputs that were never seen count a little."""
    moments = (moments + moments.T) / 2
    level = moments.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    identity = torch.eye(len(moments), dtype=torch.float64, device=moments.device)
    return torch.linalg.inv(moments / level + DAMPING * identity)
