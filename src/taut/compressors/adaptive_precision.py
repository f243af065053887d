"""Adaptive precision: every weight has as many bits as it needs, and no more."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from taut.compressors.base import Code, Compressor, Stats, check_weight, dense, fisher_of
from taut.cost import Cost
from taut.errors import TautError

WIDEST = 31  # the finest grid has steps of 2^-30


@dataclass(frozen=True, eq=False)
class AdaptivePrecisionCode(Code):
    """Weights of the form ``unit * m / 2^(p - 2)`` with ``m`` odd, each with its own precision ``p``.

    ``unit ()``: a power of two at first, which recovery may train; ``precision``, uint8, of the weight's shape: 0 is a zero,
    1 is ``±2 unit``, 2 is ``±unit``; ``digits``, booleans in a row: of every weight its sign and the ``p - 2`` binary
    digits of ``(|m| - 1) / 2``, first all weights of precision 1, then 2, …, in row-major order.
    """

    unit: Tensor | Code
    precision: Tensor
    digits: Tensor

    @cached_property
    def multiples(self) -> Tensor:
        """The weights in units, exact: single precision, for units in double precision double."""
        wide = torch.promote_types(dense(self.unit).dtype, torch.float32)
        flat = self.precision.reshape(-1)
        values, at = torch.zeros(flat.numel(), dtype=wide, device=flat.device), 0
        for p in range(1, int(flat.max()) + 1 if flat.numel() else 0):
            where = (flat == p).nonzero().squeeze(1)
            count, each = where.numel(), width(p)
            digits = self.digits[at : at + count * each].reshape(count, each)
            at += count * each
            size = torch.zeros(count, dtype=torch.int64, device=flat.device)
            for place in range(1, each):
                size = 2 * size + digits[:, place]
            odd = (2 * size + 1).to(wide) * 2.0 ** (2 - p)
            values[where] = torch.where(digits[:, 0], -odd, odd)
        return values.reshape(self.precision.shape)

    def decompress(self) -> Tensor:
        unit = dense(self.unit)
        wide = torch.promote_types(unit.dtype, torch.float32)
        return (self.multiples.to(wide) * unit.to(wide)).to(unit.dtype)

    def cost(self) -> Cost:
        """Dense: the layer computes with decoded weights. What few bits save is bytes."""
        return Cost(self.precision.numel(), self.precision.numel())

    def _rebuild(self, tensors: Iterator[Tensor]) -> Code:
        # training rebuilds the code at every step: the multiples stay
        new = super()._rebuild(tensors)
        new.__dict__["multiples"] = self.multiples
        return new


@dataclass(frozen=True)
class AdaptivePrecision(Compressor):
    r"""Every weight is rounded to the fewest binary digits that its tolerance allows:

    .. math:: \min_v \sum_i p_i \quad\text{subject to}\quad |v_i - w_i| \le \tau_i, \quad v_i = u\, m_i / 2^{p_i - 1}, \qquad
              \tau_i = \min\Big(\text{spread} \cdot t u,\; \frac{1}{\mu |g_i|}\Big)

    ``u`` is the power of two that is not below the largest weight. The tolerances maximise :math:`\sum_i \log_2 \tau_i` under a
    linear model of the loss, :math:`\sum_i |g_i| \tau_i \le t u \sum_i |g_i|`, within a trust region: reverse water-filling,
    solved exactly. After Khoram and Li 2018, *Adaptive quantization of neural networks* (ICLR), one step of their iteration,
    with these differences: the budget ``t`` is relative to the weight, the trust region to ``t``; and ``|g|`` is the root of
    the Fisher information (sampled labels), since the gradient of the loss itself vanishes where training has ended.

    **The bits are all counted.** A weight of precision ``p`` stores ``max(1, p - 1)`` digits, and its precision is stored too,
    entropy-coded: 1.7 to 2.2 bits for each of normally distributed weights, which the published ratios may leave out. At the
    same squared error the file is then 10 to 30 % larger than that of a uniform grid with entropy coding
    (``Quantize(step=...)``), so this is here for comparison; ``EntropyCodebook`` weighs by the Fisher information as well.

    Recovery trains all weights and puts them back, then the unit.

    Args:
        tolerance: ``t``, the mean tolerance (weighted by ``|g|``) in units of ``u``; 2^-20 to 1.
        by: ``"fisher"`` (needs ``stats.fisher``), or ``"magnitude"``: one tolerance ``t u`` for all.
        spread: the largest tolerance in units of the mean one, at least 1.

    Example:
        >>> code = AdaptivePrecision(tolerance=0.1).compress(torch.tensor([0.02, 0.7, -0.97, 0.52]))
        >>> code.decompress().tolist(), code.precision.tolist(), code.digits.numel()
        ([0.0, 0.75, -1.0, 0.5], [0, 3, 1, 2], 4)
    """

    tolerance: float = 0.02
    by: str = "magnitude"
    spread: float = 8.0

    def __post_init__(self) -> None:
        if not 2**-20 <= self.tolerance <= 1:
            raise TautError(f"{self}: the tolerance must be from 2^-20 to 1")
        if self.by not in ("magnitude", "fisher"):
            raise TautError(f"{self}: by must be 'magnitude' or 'fisher'")
        if not 1 <= self.spread < float("inf"):
            raise TautError(f"{self}: spread is the largest tolerance in units of the mean one, and at least 1")

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        w = check_weight(w, self)
        wide = w.to("cpu", torch.float64).reshape(-1)
        peak = float(wide.abs().max())
        # half of u, which may itself be beyond a narrow dtype
        unit = max(2.0 ** (_exponent(peak) - 1), torch.finfo(w.dtype).smallest_normal) if peak else 1.0
        slopes = fisher_of(stats, w, self).to("cpu", torch.float64).sqrt() if self.by == "fisher" else torch.ones_like(wide)
        allowed = tolerances(slopes.reshape(-1), self.tolerance, self.spread)
        precision, odd = fewest_digits(wide / unit / 2, allowed, torch.finfo(w.dtype).max / unit / 2)
        return AdaptivePrecisionCode(
            torch.tensor(unit, dtype=torch.float64).to(w.dtype).to(w.device),
            precision.to(torch.uint8).reshape(w.shape).to(w.device),
            _packed(precision, odd).to(w.device),
        )

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """Tolerances from 1 down to 2^-12, halved each time."""
        return [dataclasses.replace(self, tolerance=2.0**-i) for i in range(13)]

    def relaxed(self) -> Compressor | None:
        return None

    def needs_stats(self) -> bool:
        return self.by == "fisher"


def width(precision: int) -> int:
    """The digits that a weight of this precision stores, its sign among them.

    Example:
        >>> [width(p) for p in range(5)]
        [0, 1, 1, 2, 3]
    """
    return max(1, precision - 1) if precision else 0


def tolerances(slopes: Tensor, mean: float, spread: float) -> Tensor:
    r"""The ``tau`` that maximise :math:`\sum_i \log \tau_i` subject to :math:`\sum_i g_i \tau_i \le \text{mean} \sum_i g_i` and
    :math:`\tau_i \le \text{spread} \cdot \text{mean}`, for ``slopes`` g of at least 0: reverse water-filling.

    Example:
        >>> tolerances(torch.tensor([1.0, 1.0, 4.0, 0.0]), mean=1.0, spread=1.5).tolist()
        [1.5, 1.5, 0.75, 1.5]
    """
    cap = spread * mean
    ordered = slopes.double().sort().values
    n, below = ordered.numel(), torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    budget = mean * below[-1]
    # the flattest j weights are at the cap, the others share what is left of the budget equally
    j = torch.arange(n, dtype=torch.float64)
    share = (budget - cap * below[:-1]) / (n - j)
    # the first j that leaves no other above the cap
    fits = share <= cap * ordered
    if not bool(fits.any()):
        return torch.full_like(slopes, cap, dtype=torch.float64)
    level = share[int(fits.int().argmax())]
    return torch.where(slopes > 0, level / slopes.double(), torch.inf).clamp(max=cap)


def fewest_digits(w: Tensor, allowed: Tensor, largest: float = float("inf")) -> tuple[Tensor, Tensor]:
    """For each of flat ``w`` within [-1, 1], the least precision at which rounding errs by no more than ``allowed``, and ``m``.

    ``largest``: values beyond it are refused, so that rounding up does not leave a narrow dtype.

    Example:
        >>> fewest_digits(torch.tensor([0.7, 0.2]), torch.tensor([0.1, 0.2]))
        (tensor([3, 0]), tensor([3, 0]))
    """
    w, allowed = w.double(), allowed.double().clamp(min=2.0**-WIDEST)
    precision = torch.zeros(w.numel(), dtype=torch.int64)
    odd = torch.zeros(w.numel(), dtype=torch.int64)
    left = (w.abs() > allowed).nonzero().squeeze(1)
    for p in range(1, WIDEST + 1):
        if not left.numel():
            break
        grid = 2.0 ** (p - 1)
        m = (w[left] * grid).round()
        near = ((m / grid - w[left]).abs() <= allowed[left]) & (m.abs() / grid <= largest)
        precision[left[near]], odd[left[near]] = p, m[near].long()
        left = left[~near]
    return precision, odd


def _packed(precision: Tensor, odd: Tensor) -> Tensor:
    parts = [torch.zeros(0, dtype=torch.bool)]
    for p in range(1, int(precision.max()) + 1):
        m = odd[precision == p]
        places = torch.arange(width(p) - 2, -1, -1)
        digits = ((m.abs() - 1) // 2)[:, None] >> places & 1
        parts.append(torch.cat([(m < 0)[:, None], digits.bool()], 1).reshape(-1))
    return torch.cat(parts)


def _exponent(peak: float) -> int:
    """The least ``e`` with ``peak <= 2^e``."""
    mantissa, exponent = torch.frexp(torch.tensor(peak, dtype=torch.float64))
    return int(exponent) - (float(mantissa) == 0.5)
