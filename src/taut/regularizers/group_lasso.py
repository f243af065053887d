"""Group lasso: whole rows, columns, filters or kernels become zero."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from taut.numeric.shrinkage import shrink_rows
from taut.regularizers.base import Regularizer, back, check_step, see


@dataclass(frozen=True)
class GroupLasso(Regularizer):
    """Sum of the lengths of the groups: drives whole groups to zero, so that neurons or inputs can be removed.

        r(w)             =  strength * sum_g sqrt(P_g) * ||w_g||,       P_g = number of weights in group g
        prox(w, step)_g  =  max(1 - step * strength * sqrt(P_g) / ||w_g||, 0) * w_g

    Yuan and Lin, *Model selection and estimation in regression with grouped variables*, J. R. Stat. Soc. B 68, 2006; for neurons:
    Alvarez and Salzmann, *Learning the number of neurons in deep networks*, NIPS 2016.

    Args:
        strength: the factor, in units of the loss per unit of weight.
        view: what a group is: ``rows`` (an output's weights; the same as ``filters``), ``columns`` (an input's weights),
            ``kernels`` (one output and input), or another view of :mod:`taut.views`.

    Example:
        >>> w = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
        >>> GroupLasso(0.5).prox(w, step=2**0.5).tolist()[1:]
        [[0.0, 0.0], [0.0, 0.0]]
        >>> w = torch.tensor([[3.0, 0.0], [4.0, 2.0]])
        >>> round(GroupLasso(1.0, view="columns").value(w).item(), 4)  # sqrt(2) * (5 + 2)
        9.8995
    """

    strength: float = 1e-4
    view: str = "rows"

    def value(self, w: Tensor) -> Tensor:
        groups = see(w, self.view)
        return self.strength * sqrt(groups.shape[1]) * torch.linalg.vector_norm(groups, dim=1).sum()

    def prox(self, w: Tensor, step: float) -> Tensor:
        groups = see(w, self.view)
        return back(shrink_rows(groups, check_step(step) * self.strength * sqrt(groups.shape[1])), w, self.view)
