"""Loss-aware binary weights: signs, and the scale at which they cost the loss least."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from taut.compressors.base import Code, Compressor, Stats, check_weight, dense, fisher_of
from taut.cost import Cost
from taut.errors import TautError


@dataclass(frozen=True, eq=False)
class LossAwareBinaryCode(Code):
    """The ``scale``, ``()`` or one a row ``(rows,)``, and which weights are ``positive``: booleans of the weight's shape."""

    scale: Tensor | Code
    positive: Tensor

    def decompress(self) -> Tensor:
        scale = dense(self.scale)
        return signed(scale.reshape(scale.shape + (1,) * (self.positive.dim() - scale.dim())), self.positive)

    def cost(self) -> Cost:
        """Dense: the layer computes with decoded weights, on inputs that are not binary. What signs save is bytes."""
        return Cost(self.positive.numel(), self.positive.numel())


@dataclass(frozen=True)
class LossAwareBinary(Compressor):
    r"""Two values, :math:`\pm\alpha`, that lose least under a diagonal model of the loss:

    .. math:: \min_{\alpha, b} \sum_i d_i (\alpha b_i - w_i)^2 \quad\text{subject to}\quad b_i \in \{-1, 1\}
              \qquad\Rightarrow\qquad b_i = \operatorname{sign}(w_i), \quad \alpha = \frac{\sum_i d_i |w_i|}{\sum_i d_i}

    Hou, Yao and Kwok 2017, *Loss-aware binarization of deep networks* (ICLR, arXiv 1611.01600, proposition 3.1), for one
    weight that is trained already; the Fisher information is the curvature ``d``. Training with it from step to step is
    :class:`~taut.parametrizations.loss_aware.LossAware`. By magnitude (``d = 1``) it is the binary-weight network of Rastegari
    et al. 2016 (arXiv 1603.05279). Zero counts as positive. Activations are left as they are.

    At most one bit a weight, and 4 bytes a scale. Recovery trains all weights, then the scales.

    Args:
        by: ``"fisher"`` (needs ``stats.fisher``) or ``"magnitude"``.
        per: one scale for the ``"tensor"`` (the paper's), or one for each ``"row"`` (first axis: output or filter).

    Example:
        >>> weight = torch.tensor([[0.5, -1.0], [3.0, -0.5]])
        >>> LossAwareBinary().compress(weight).decompress().tolist()
        [[1.25, -1.25], [1.25, -1.25]]
        >>> LossAwareBinary(by="fisher").compress(weight, Stats(fisher=torch.tensor([[1.0, 1.0], [0.0, 0.0]]))).scale
        tensor(0.7500)
    """

    by: str = "magnitude"
    per: str = "tensor"
    optimal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.by not in ("magnitude", "fisher"):
            raise TautError(f"{self}: by must be 'magnitude' or 'fisher'")
        if self.per not in ("tensor", "row"):
            raise TautError(f"{self}: per must be 'tensor' or 'row'")

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        w = check_weight(w, self)
        curvature = fisher_of(stats, w, self) if self.by == "fisher" else torch.ones_like(w)
        rows = self.per == "row" and w.dim() > 1
        scale = loss_aware_scale(*((t.reshape(len(w), -1) if rows else t.reshape(1, -1)) for t in (w, curvature)))
        return LossAwareBinaryCode(scale if rows else scale.squeeze(0), w >= 0)

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """One scale, then one for each row."""
        return [dataclasses.replace(self, per=per) for per in (("tensor", "row") if len(shape) > 1 else ("tensor",))]

    def relaxed(self) -> Compressor | None:
        return None

    def needs_stats(self) -> bool:
        return self.by == "fisher"


def loss_aware_scale(w: Tensor, curvature: Tensor) -> Tensor:
    """``sum d |w| / sum d`` of each row of ``(rows, n)``, in the dtype of ``w``; rows without curvature count all weights alike.

    Example:
        >>> loss_aware_scale(torch.tensor([[1.0, -3.0]]), torch.tensor([[3.0, 1.0]]))
        tensor([1.5000])
    """
    wide = torch.float32 if w.device.type == "mps" else torch.float64
    d = curvature.to(wide)
    # of values near one: neither tiny curvatures nor tiny weights may vanish in the product
    peak = d.amax(1, keepdim=True)
    d = torch.where(peak > 0, d / peak.clamp(min=torch.finfo(wide).tiny), torch.ones_like(d))
    return ((d * w.abs().to(wide)).sum(1) / d.sum(1)).to(w.dtype)


def signed(scale: Tensor, positive: Tensor) -> Tensor:
    """``scale`` where ``positive``, else ``-scale``; the gradient of the scale is exact."""
    return torch.where(positive, scale, -scale)
