"""Uniform quantization: every weight is a whole multiple of a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from taut.compressors.base import Code, Compressor, Stats, check_weight, dense
from taut.cost import Cost
from taut.errors import LayerError, TautError

RUNGS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 16)
SAMPLE = 2**18  # elements on which steps are compared, over all rows
LEAST, MOST = 256, 2**14  # and in each row
AT_ONCE = 2**18  # elements of work at once


@dataclass(frozen=True, eq=False)
class QuantizeCode(Code):
    """The ``step``, ``()`` or one a row ``(rows,)``, and each weight's multiple of it: ``levels`` of the weight's shape."""

    step: Tensor | Code
    levels: Tensor

    def decompress(self) -> Tensor:
        step = dense(self.step)
        wide = torch.promote_types(step.dtype, torch.float32)  # half precision holds no level above 2048 exactly
        scale = step.to(wide).reshape(step.shape + (1,) * (self.levels.dim() - step.dim()))
        return (self.levels.to(wide) * scale).to(step.dtype)

    def cost(self) -> Cost:
        """Dense: the layer computes with decoded weights. What a grid saves is bytes."""
        return Cost(self.levels.numel(), self.levels.numel())


@dataclass(frozen=True)
class Quantize(Compressor):
    """A uniform grid around zero:

        argmin_{s, q}  sum_i (s q_i - w_i)^2    subject to  q_i integer,  |q_i| <= 2^(bits-1) - 1

    Approximate: the best of about 100 to 500 steps ``max|w| / j`` (a search for the clipping point, as in Banner et al. 2019,
    arXiv 1810.05723), compared on a sample of large rows that always holds their largest weights. Every set of steps contains
    the set of fewer bits, so that more bits never lose; and the grid of a quantized weight is found again.

    With ``step`` given there is no search and no clipping: every error is at most ``step / 2`` plus rounding (error-bounded
    coding), and ``bits`` and ``per`` are not used.

    Recovery trains all weights and then puts them back onto a grid.

    Args:
        bits: 2 to 16.
        per: one step for the ``"tensor"``, or one for each ``"row"`` (first axis: output or filter).
        step: the step itself; ``None``: it is searched for.

    Example:
        >>> code = Quantize(bits=3).compress(torch.tensor([0.5, -1.0, 1.5, 0.1]))
        >>> code.step, code.levels.tolist(), code.levels.dtype
        (tensor(0.5000), [1, -2, 3, 0], torch.int8)
        >>> Quantize(step=0.01).compress(torch.tensor([0.123, -5.0])).levels.tolist()
        [12, -500]
    """

    bits: int = 8
    per: str = "tensor"
    step: float | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise TautError(f"{self}: bits must be from 2 to 16 (for two values, use Codebook(k=2))")
        if self.per not in ("tensor", "row"):
            raise TautError(f"{self}: per must be 'tensor' or 'row'")
        if self.step is not None and not 0 < self.step < float("inf"):
            raise TautError(f"{self}: the step must be a positive number")

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        w = check_weight(w, self)
        wide = w.to("cpu" if w.device.type == "mps" else w.device, torch.float64)
        if self.step is None:
            limit = 2 ** (self.bits - 1) - 1
            rows = wide.reshape(w.shape[0], -1) if self.per == "row" and w.dim() > 1 else wide.reshape(1, -1)
            step = best_steps(rows.abs(), limit)
            step = step if self.per == "row" and w.dim() > 1 else step.squeeze(0)
        else:
            limit, step = None, torch.tensor(self.step, dtype=torch.float64)
        # the step in the precision it is stored in, never rounded to nothing
        step = step.to(w.device, w.dtype).clamp(min=torch.finfo(w.dtype).smallest_normal)
        return QuantizeCode(step, self._levels(wide, step, limit).to(w.device))

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """2 to 8, 10, 12 and 16 bits."""
        return [dataclasses.replace(self, bits=b, step=None) for b in RUNGS]

    def relaxed(self) -> Compressor | None:
        return None

    def _levels(self, w: Tensor, step: Tensor, limit: int | None) -> Tensor:
        scale = step.to(w).reshape(step.shape + (1,) * (w.dim() - step.dim()))
        levels = (w / scale).round()
        if limit is None:
            # rounding up must not leave the range of the dtype
            room = torch.finfo(step.dtype).max // float(step)
            levels = levels.clamp(-room, room)
        else:
            levels = levels.clamp(-limit, limit)
        return levels.to(self._level_type(int(levels.abs().max())))

    def _level_type(self, largest: int) -> torch.dtype:
        for kind in (torch.int8, torch.int16, torch.int32):
            if largest <= torch.iinfo(kind).max:
                return kind
        raise LayerError(f"{self}: the largest weight is {largest:,} steps, more than 32 bits hold; use a larger step")


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
