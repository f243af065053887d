"""The step of the uniform grid that is nearest to given numbers."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

SAMPLE = 2**18  # elements on which steps are compared, over all rows
LEAST, MOST = 256, 2**14  # and in each row
AT_ONCE = 2**18  # elements of work at once


def best_steps(rows: Tensor, limit: int) -> Tensor:
    """For each row of magnitudes, the step of the smallest squared error with levels up to ``limit``; ``(rows,)``, doubles."""
    peak = rows.amax(1)
    unit = torch.where(peak > 0, peak, torch.ones_like(peak))
    sample, weight = _sample(rows)
    sample = sample / unit[:, None]
    divisors = torch.tensor(_divisors(limit), dtype=rows.dtype, device=rows.device)
    at_once = max(1, AT_ONCE // sample.numel())
    errors = torch.cat([_errors(sample, weight, some[:, None, None], limit) for some in divisors.split(at_once)])
    # of the grids that fit equally well but for rounding, the coarsest
    fits = errors <= errors.amin(0) + 1e-24 * rows.shape[1]
    return unit / divisors[fits.int().argmax(0)]


def _errors(sample: Tensor, weight: Tensor, divisors: Tensor, limit: int) -> Tensor:
    """Squared errors ``(divisors, rows)`` of grids of step ``1 / divisor``."""
    grid = (sample * divisors).round_().clamp_(max=limit).div_(divisors)
    return grid.sub_(sample).square_().mul_(weight).sum(2)


@cache
def _divisors(limit: int) -> tuple[float, ...]:
    """The ``j`` of the steps ``max / j`` to try, ascending.

    Closed under what quantizing does to the largest weight, ``j -> min(limit, round(j))``, so that a quantized weight finds its
    grid again; and a superset of those of every smaller limit, so that more bits never lose.
    """
    most = max(64, 8 * (limit + 1))
    spread = [2 ** (i / 16) for i in range(16 * 18)]
    whole = [*range(1, 128), *(round(j) for j in spread), *(2**b - 1 for b in range(1, 16))]
    return tuple(sorted({float(j) for j in [*spread, *whole] if j <= most}))


def _sample(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Elements of each row and what each counts for: the largest as themselves, the others evenly spaced."""
    count, length = rows.shape
    most = min(MOST, max(LEAST, SAMPLE // count))
    if length <= most:
        return rows, torch.ones_like(rows)
    tail = rows.topk(most // 8, dim=1).values
    stride = -(-length // (most - most // 8))
    spaced = rows[:, ::stride]
    weight = stride * (spaced < tail[:, -1:]).to(rows.dtype)
    return torch.cat([tail, spaced], 1), torch.cat([torch.ones_like(tail), weight], 1)
