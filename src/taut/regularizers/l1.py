"""L1: single weights become exactly zero."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from taut.numeric.shrinkage import soft_threshold
from taut.numeric.singular import working
from taut.regularizers.base import Regularizer, check_step


@dataclass(frozen=True)
class L1(Regularizer):
    """Sum of absolute values: drives single weights to zero, wherever they are.

        r(w)           =  strength * sum_i |w_i|
        prox(w, step)  =  sign(w) * max(|w| - step * strength, 0)

    Tibshirani, *Regression shrinkage and selection via the lasso*, J. R. Stat. Soc. B 58, 1996; the prox is soft thresholding
    (Donoho, *De-noising by soft-thresholding*, IEEE Trans. Inf. Theory 41, 1995).

    Args:
        strength: the factor, in units of the loss per unit of weight.

    Example:
        >>> import torch
        >>> w = torch.tensor([[-2.0, 0.5], [0.0, 1.5]])
        >>> L1(0.5).value(w).item()
        2.0
        >>> L1(0.5).prox(w, step=2.0).tolist()
        [[-1.0, 0.0], [0.0, 0.5]]
    """

    strength: float = 1e-4

    def value(self, w: Tensor) -> Tensor:
        return self.strength * working(w).abs().sum()

    def prox(self, w: Tensor, step: float) -> Tensor:
        return soft_threshold(working(w), check_step(step) * self.strength).to(w.dtype)
