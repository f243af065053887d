"""Uniform quantization: every weight is a whole multiple of a step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from taut.compressors.base import Code, Compressor, Stats, check_weight, dense, fisher_of, moments_of
from taut.cost import Cost
from taut.errors import LayerError, TautError
from taut.numeric.rate_levels import choose_levels, orders
from taut.numeric.steps import best_steps
from taut.numeric.surgeon import Matrix

RUNGS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 16)


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

    def like(self) -> tuple[tuple[int, ...], torch.dtype] | None:
        """The shape of the levels, and the dtype of the step."""
        step = self.step.like() if isinstance(self.step, Code) else ((), self.step.dtype)
        return None if step is None else (tuple(self.levels.shape), step[1])

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


STEPS = {"magnitude": 3.0, "loss": 9.0}
"""The grid's step, in units of the error that costs a bit. A fine grid leaves the choice to the rates, which in squared error is
best. By loss a wide one is: zeros err in one direction all, towards a smaller output, which the model of the loss does not see;
there 5 and 14 gave about the same loss at the same bytes on both LeNets."""
TEMPER = 0.5
"""The power of a row's Fisher information, relative to the mean, that is believed. Of a network that is sure of its training data
few samples decide it: with all of it the loss at the same bytes was higher on both LeNets, and with none of it about the same."""
LEAST_FISHER = 1e-3
"""Of the mean over rows: the Fisher information of a row whose outputs no sampled loss depends on."""
MOST_INPUTS = 8192
"""Inputs of a layer whose errors are compensated; the moments of more take gigabytes."""
LARGEST = 2**15 - 1
"""Multiples of the step."""


@dataclass(frozen=True)
class RateQuantize(Compressor):
    r"""A uniform grid whose levels are chosen for the loss and the length of the file together:

    .. math:: \min_{q} \; \Delta L(\Delta q - w) + \text{price} \cdot \mathrm{bits}(q)

    By ``"loss"``, the loss is the quadratic model with the curvature of K-FAC (Martens and Grosse 2015): row ``r`` has
    :math:`\tfrac12 g_r\, d^T C d`, ``C`` the second moments of the layer's inputs and ``g`` the Fisher information of its
    outputs, tempered. Columns are quantized one after the other, and those that are left make up for the errors (optimal
    brain surgeon), :func:`taut.numeric.surgeon.quantize_columns`; in their own order or by falling moments, whichever is
    better. Where the inputs' moments are not known, the diagonal alone counts. By ``"magnitude"`` it is the squared error
    of the weights, no data.

    The bits of a level are those of its size under the layer's own frequencies and of its place, told from rows, columns and
    neighbours as in the file (:func:`taut.numeric.significance.log_odds`). The step follows from the price. After rate-distortion
    optimised quantization in video coding; with the surgeon's compensation: Conzelmann and Bamler 2025 (arXiv 2505.18758).

    One price for all layers of a network is what shares the bits out among them; :func:`taut.compress` looks for the highest
    that the budget allows. Approximate: a greedy local optimum.

    Args:
        price: of a bit. By ``"loss"`` in units of the loss; by ``"magnitude"`` of the weight's mean square.
        by: ``"loss"`` (needs the Fisher information, and the inputs' moments to compensate) or ``"magnitude"``.

    Example:
        >>> torch.manual_seed(0); w = torch.randn(50, 60)
        <torch._C.Generator object at 0x...>
        >>> for price in (0.01, 1.0):
        ...     v = RateQuantize(price).compress(w).decompress()
        ...     print(len(v.unique()), f"{float((v - w).square().mean() / w.square().mean()):.2f}")
        26 0.01
        3 0.85
    """

    price: float = 0.01
    by: str = "magnitude"
    idempotent: ClassVar[bool] = False
    monotone: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.price < float("inf"):
            raise TautError(f"{self}: the price of a bit must be a positive number")
        if self.by not in ("magnitude", "loss"):
            raise TautError(f"{self}: by must be 'magnitude' or 'loss'")

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        w = check_weight(w, self)
        wide = w.cpu().double()
        unit = float(wide.abs().max()) or 1.0
        matrix = (wide / unit).reshape(w.shape if w.dim() > 1 else (1, -1)).flatten(1)
        if self.by == "loss":
            gain, moments = self._curvature(w, matrix, stats)
            roots, gain = orders(moments), gain * unit**2 / self.price
        else:
            mean = float(matrix.square().mean()) or 1.0
            gain, roots = np.full(len(matrix), 1 / mean / self.price), [(None, np.eye(matrix.shape[1]))]
        # an error of 1 costs so many bits in a row of mean gain and a column of mean logarithm
        height = math.log(gain.mean()) - 2 * float(np.log(roots[0][1].diagonal()).mean())
        step = unit * min(1.0, max(1 / LARGEST, STEPS[self.by] * math.exp(-height / 2)))
        # in the precision it is stored in, never rounded to nothing
        stored = torch.tensor(step, dtype=w.dtype).clamp(min=torch.finfo(w.dtype).smallest_normal)
        found = [choose_levels(matrix.numpy(), order, u, gain, float(stored) / unit, w.shape) for order, u in roots]
        levels = torch.from_numpy(min(found, key=lambda item: item[1])[0]).reshape(w.shape)
        kind = torch.int8 if int(levels.abs().max()) < 128 else torch.int16
        return QuantizeCode(stored.to(w.device), levels.to(w.device, kind))

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """By magnitude prices from 4 down to 2^-12; by loss, whose units differ, from 2^-7 down to 2^-49, by factors of 4."""
        exponents = range(-2, 13) if self.by == "magnitude" else range(7, 50, 2)
        return [dataclasses.replace(self, price=2.0**-i) for i in exponents]

    def relaxed(self) -> Compressor | None:
        return None

    def needs_stats(self) -> bool:
        return self.by == "loss"

    def needs_inputs(self) -> bool:
        return self.by == "loss"

    def _curvature(self, w: Tensor, matrix: Tensor, stats: Stats | None) -> tuple[Matrix, Tensor]:
        """Half the Fisher information of each row's outputs, and the moments of its inputs, whose product is the curvature."""
        fisher = fisher_of(stats, w, self).cpu().double().reshape(matrix.shape)
        assert stats is not None
        size = matrix.shape[1]
        if stats.inputs is None or w.dim() == 1 or size > MOST_INPUTS:
            moments = torch.diag(fisher.mean(0))
        else:
            moments = moments_of(stats, w, self).cpu().double()
        gain = 0.5 * fisher.sum(1) / (float(moments.diagonal().sum()) or 1.0)
        mean = float(gain.mean()) or 1.0
        tempered = (gain / mean).clamp(min=LEAST_FISHER) ** TEMPER
        return (tempered * (mean / tempered.mean())).numpy(), moments
