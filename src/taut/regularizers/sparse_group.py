"""Sparse group lasso: whole groups become zero, and single weights in the groups that stay."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from torch import Tensor

from taut.numeric.shrinkage import shrink_rows, soft_threshold, sparse_group_norm
from taut.regularizers.base import Regularizer, back, check_share, check_step, see


@dataclass(frozen=True)
class SparseGroupLasso(Regularizer):
    """Group lasso and l1 in one: drives whole groups to zero, and single weights in the others.

        r(w)             =  strength * [ (1 - alpha) * sum_g sqrt(P_g) * ||w_g||  +  alpha * sum_i |w_i| ]
        s                =  sign(w) * max(|w| - step * strength * alpha, 0)
        prox(w, step)_g  =  max(1 - step * strength * (1 - alpha) * sqrt(P_g) / ||s_g||, 0) * s_g

    with ``P_g`` the number of weights in group g. The prox is exact: soft thresholding first, then the groups. Simon et al., *A
    sparse-group lasso*, J. Comput. Graph. Stat. 22, 2013; in networks: Alvarez and Salzmann, *Compression-aware training of deep
    networks*, NIPS 2017.

    Args:
        strength: the factor, in units of the loss per unit of weight.
        alpha: between 0 (group lasso) and 1 (l1).
        view: what a group is, as in :class:`~taut.regularizers.GroupLasso`.

    Example:
        >>> import torch
        >>> w = torch.tensor([[3.0, 0.5], [0.7, -0.7]])
        >>> SparseGroupLasso(1.0, alpha=0.5).prox(w, step=1.0)
        tensor([[1.7929, 0.0000],
                [0.0000, -0.0000]])
    """

    strength: float = 1e-4
    alpha: float = 0.5
    view: str = "rows"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, self.alpha)

    def value(self, w: Tensor) -> Tensor:
        return self.strength * sparse_group_norm(see(w, self.view), self.alpha)

    def prox(self, w: Tensor, step: float) -> Tensor:
        groups = see(w, self.view)
        threshold = check_step(step) * self.strength
        sparse = soft_threshold(groups, threshold * self.alpha)
        return back(shrink_rows(sparse, threshold * (1 - self.alpha) * sqrt(groups.shape[1])), w, self.view)
