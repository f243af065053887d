"""L2: all weights become smaller, none becomes zero."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from taut.numeric.singular import working
from taut.regularizers.base import Regularizer, check_step


@dataclass(frozen=True)
class L2(Regularizer):
    """Half the sum of squares: keeps weights small; the rival that compresses nothing by itself.

        r(w)           =  strength / 2 * sum_i w_i^2
        prox(w, step)  =  w / (1 + step * strength)

    Hoerl and Kennard, *Ridge regression*, Technometrics 12, 1970. With plain gradient descent this is weight decay of the same
    strength, taken implicitly: stable at any step.

    Args:
        strength: the factor, in units of the loss per squared unit of weight.

    Example:
        >>> import torch
        >>> w = torch.tensor([[3.0, 4.0]])
        >>> L2(2.0).value(w).item()
        25.0
        >>> L2(2.0).prox(w, step=0.5).tolist()
        [[1.5, 2.0]]
    """

    strength: float = 1e-4

    def value(self, w: Tensor) -> Tensor:
        return 0.5 * self.strength * working(w).square().sum()

    def prox(self, w: Tensor, step: float) -> Tensor:
        return (working(w) / (1 + check_step(step) * self.strength)).to(w.dtype)
