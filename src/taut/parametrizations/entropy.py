"""Entropy-penalised training: weights on a grid from the first step, and the bits they cost as part of the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from taut.compressors.base import Code
from taut.compressors.quantize import QuantizeCode
from taut.errors import TautError
from taut.numeric.significance import beside, log_odds
from taut.parametrizations.base import Latent, Parametrization


@dataclass(frozen=True)
class Entropy(Parametrization):
    r"""Whole multiples of a learned step, trained together with the entropy of the multiples:

    .. math:: \min_{v, \Delta}\; L(\Delta q) + \lambda \sum_i R(v_i / \Delta), \qquad
              q_i = \operatorname{clip}(\operatorname{round}(v_i / \Delta), -n, n)

    ``R(u)`` is the length in bits of the level ``u`` under the layer's own empirical frequencies,
    :math:`R(q) = -\log_2 \hat p(q)` at whole numbers and linear between them. Where most weights are zero, the step from one to
    zero saves many bits: what the loss does not need goes to zero and stays there, and the layers share out the bits among
    themselves, since a bit costs the same in each. A nonzero costs less beside others and in rows and columns that have many
    (:func:`taut.numeric.significance.log_odds`), as it will in the file. After Oktay et al. 2020 (*Scalable model
    compression by entropy penalized reparameterization*, arXiv 1906.06624), with these differences: frequencies are counted, not
    fitted, and depend on the place; the rate's gradient is that of the linear interpolation, not of noise; the step is learned
    per weight tensor with the gradient of Esser et al. 2020 (*Learned step size quantization*, arXiv 1902.08153, eq. 3), from
    the loss alone; both pass the rounding straight through.

    The penalty is in bits; the caller multiplies it by :math:`\lambda` (loss per bit).

    Args:
        levels: ``n``, the largest multiple: ``2 n + 1`` values; 1 to 127.
        coarse: the first step, in units of twice the mean magnitude of the weight.

    Example:
        >>> weight = torch.tensor([[0.0, 0.75], [-1.25, 0.0]])
        >>> latent = Entropy(levels=1).latent(weight)
        >>> latent(*latent.right_inverse(weight)).tolist()
        [[0.0, 1.0], [-1.0, 0.0]]
    """

    levels: int = 3
    coarse: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.levels <= 127:
            raise TautError(f"{self}: levels must be from 1 to 127")
        if self.coarse == 0:
            raise TautError(f"{self}: coarse must be more than 0")

    def latent(self, weight: Tensor) -> Grid:
        return Grid(self.levels, self.coarse, beside(weight) if weight.dim() > 1 else ())


class Grid(Latent):
    """One weight on its grid: trained are its continuous values and the logarithm of the step."""

    lengths: Tensor

    def __init__(self, levels: int, coarse: float, near: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.levels, self.coarse, self.near = levels, coarse, near
        # bits that a nonzero costs more in its place than anywhere, and what the places cost in all
        self.more: Tensor | None = None
        self.places = 0.0
        # bits of each level from -n to n; a level more at the top, so that the last interval has two ends
        self.register_buffer("lengths", torch.zeros(2 * levels + 2), persistent=False)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        weight = weight.detach()
        # a weight that is all zeros has no scale
        step = _step_of(weight, self.levels) or 2 * self.coarse * float(weight.abs().mean()) or 1.0
        return weight.clone(), torch.tensor(math.log(step)).to(weight)

    def forward(self, values: Tensor, log_step: Tensor) -> Tensor:
        return _Round.apply(values, log_step.exp(), self.levels)

    def penalty(self, values: Tensor, log_step: Tensor) -> Tensor:
        """The bits of the weight under the frequencies of its levels, which :meth:`count` took last."""
        step = log_step.detach().exp()
        return _Rate.apply(values, values.detach() / step, self.lengths, step, self.more) + self.places

    @torch.no_grad()
    def count(self, values: Tensor, log_step: Tensor) -> float:
        """Take the frequencies of the levels as they are now, and return the bits of the weight under them.

        Half an occurrence more for each level keeps all of them possible.
        """
        n = self.levels
        places = (self._levels(values, log_step) + n).reshape(-1).long()
        counts = torch.bincount(places, minlength=2 * n + 1).to(self.lengths)
        bits = -((counts + 0.5) / (counts + 0.5).sum()).log2()
        self.lengths.copy_(torch.cat([bits, bits[-1:]]))
        return float((counts * bits).sum()) + self._place(places.reshape(values.shape) != n)

    def _place(self, nonzero: Tensor) -> float:
        """Take what the places cost as they are now; the bits of the weight beyond those of its levels."""
        if not self.near or not bool(nonzero.any()):
            self.more, self.places = None, 0.0
            return 0.0
        odds, overall = log_odds(nonzero, self.near)
        self.more = (overall - odds).to(self.lengths)
        self.places = float((_log2_of_one_and(odds) - _log2_of_one_and(overall)).sum())
        return self.places + float(self.more[nonzero].sum())

    def code(self, values: Tensor, log_step: Tensor) -> Code:
        return QuantizeCode(log_step.detach().exp(), self._levels(values, log_step).detach().to(torch.int8))

    def _levels(self, values: Tensor, log_step: Tensor) -> Tensor:
        return (values / log_step.exp()).round().clamp(-self.levels, self.levels)


def _step_of(weight: Tensor, levels: int) -> float:
    """The step of a weight that is on such a grid already, so that training goes on where it ended; 0 if it is on none."""
    sizes = weight.abs().unique()
    sizes = sizes[sizes > 0]
    if not 0 < len(sizes) <= levels:
        return 0.0
    multiples = sizes / sizes[0]
    whole = bool((multiples - multiples.round()).abs().max() < 0.02) and float(multiples[-1]) < levels + 0.5
    return float(sizes[0]) if whole else 0.0


class _Round(Function):
    """``step * clip(round(v / step))``; the gradient passes inside the grid, the step's is that of Esser et al. 2020."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, step: Tensor, levels: int) -> Tensor:
        scaled = values / step
        rounded = scaled.round().clamp_(-levels, levels)
        ctx.save_for_backward(scaled, rounded)
        ctx.levels = levels
        return rounded * step

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        scaled, rounded = ctx.saved_tensors
        end = ctx.levels + 0.5
        slope = rounded - _between(scaled, scaled, end)
        return _between(grad, scaled, end), (grad * slope).sum() / math.sqrt(grad.numel() * ctx.levels), None


class _Rate(Function):
    """The bits of levels between whole numbers, by linear interpolation; the gradient is for the values, not for the step.

    Called at every step, on every weight: tables and arithmetic alone, since masks take several times as long.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, scaled: Tensor, lengths: Tensor, step: Tensor, more: Tensor | None) -> Tensor:
        n, kind = len(lengths) // 2 - 1, torch.promote_types(lengths.dtype, scaled.dtype)
        scaled, lengths = scaled.to(kind).contiguous(), lengths.to(kind)
        # the lines of the intervals from below -n to above n; the outer two are flat
        slopes = torch.cat([lengths.new_zeros(1), lengths.diff()])
        heights = torch.cat([lengths[:1], lengths[:-1]]) - slopes * torch.arange(-n - 1, n + 1).to(slopes)
        interval = scaled.floor().clamp_(-n - 1, n).add_(n + 1).int().reshape(-1)
        slope = slopes.index_select(0, interval).reshape(scaled.shape)
        bits = heights.index_select(0, interval).sum() + torch.dot(slope.reshape(-1), scaled.reshape(-1))
        if more is not None:
            bits = bits + (scaled.abs().clamp_(max=1) * more).sum()
            slope = slope + _between(scaled.sign() * more, scaled, 1.0)
        ctx.save_for_backward(slope, step)
        return bits

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        slope, step = ctx.saved_tensors
        return slope * (grad / step), None, None, None, None


def _between(x: Tensor, where: Tensor, end: float) -> Tensor:
    """``x`` where ``where`` is between ``-end`` and ``end``, else 0."""
    return torch.ops.aten.hardtanh_backward(x, where, -end, end)


def _log2_of_one_and(odds: Tensor) -> Tensor:
    """``log2(1 + 2**odds)``: the bits of a zero."""
    return torch.logaddexp2(torch.zeros_like(odds), odds)
