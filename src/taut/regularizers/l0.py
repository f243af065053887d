"""L0: a price for every weight that is not zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from taut.numeric.singular import working
from taut.regularizers.base import Regularizer, check_step


@dataclass(frozen=True)
class L0(Regularizer):
    """The number of nonzeros: small weights become exactly zero, and the others are left as they are, without L1's shrinkage.

        r(w)           =  strength * #{i : w_i != 0}
        prox(w, step)  =  w_i where |w_i| > sqrt(2 step strength), else 0

    The penalty is not convex; its prox is exact, and is hard thresholding (Blumensath and Davies, *Iterative thresholding for
    sparse approximations*, J. Fourier Anal. Appl. 14, 2008). Its gradient is zero wherever it has one: a proximal step is the
    only way to train under it.

    Args:
        strength: what a nonzero weight must save, in units of the loss.

    Example:
        >>> w = torch.tensor([[-2.0, 0.5], [0.0, 1.5]])
        >>> L0(0.5).value(w).item()
        1.5
        >>> L0(0.5).prox(w, step=1.0).tolist()
        [[-2.0, 0.0], [0.0, 1.5]]
    """

    convex: ClassVar[bool] = False

    strength: float = 1e-4

    def value(self, w: Tensor) -> Tensor:
        return self.strength * working(w).sign().square().sum()

    def prox(self, w: Tensor, step: float) -> Tensor:
        wide = working(w)
        threshold = math.sqrt(2 * check_step(step) * self.strength)
        return torch.where(wide.abs() > threshold, wide, 0).to(w.dtype, copy=True)
