"""Nuclear norm and sparse group lasso together: low rank, and whole neurons gone."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from typing import Any, ClassVar

from torch import Tensor

from taut.numeric.shrinkage import shrink_rows, soft_threshold, sparse_group_norm
from taut.numeric.singular import singular_values
from taut.numeric.thresholding import check_method, threshold_singular_values
from taut.regularizers.base import Regularizer, back, check_share, check_step, see


@dataclass(frozen=True)
class NuclearSparseGroup(Regularizer):
    """Low rank and sparse groups at once, the full penalty of compression-aware training.

        r(w)  =  nuclear * sum_j s_j
                 + sparse_group * [ (1 - alpha) * sum_g sqrt(P_g) * ||w_g||  +  alpha * sum_i |w_i| ]

    The sum has no closed-form prox. Two incremental proximal steps take its place, the groups first and then the singular
    values:

        prox(w, step)  =  prox_{step * nuclear norm}( prox_{step * sparse group lasso}(w) )

    **This is not the prox of the sum** (``exact_prox`` is False): it differs from it by terms of second order in the step, and
    the minimum it leads to is that of loss + r only as the steps go to zero (Bertsekas, *Incremental proximal methods for
    large scale convex optimization*, Math. Program. 129, 2011). Whole rows that the first step zeroes stay zero in the second;
    single zeros inside a row do not. Alvarez and Salzmann, *Compression-aware training of deep networks*, NIPS 2017.

    Args:
        nuclear: strength of the nuclear norm.
        sparse_group: strength of the sparse group lasso.
        alpha: between 0 (groups only) and 1 (single weights only).
        view: what a group is: ``rows``, ``columns``, ``filters`` or ``kernels``.
        matrix: how a convolution is seen as a matrix: ``matrix`` or ``matrix2``.
        method: how the singular values are shrunk, as in :class:`~taut.regularizers.nuclear.Nuclear`.

    Example:
        >>> import torch
        >>> w = torch.diag(torch.tensor([3.0, 1.0]))
        >>> NuclearSparseGroup(nuclear=0.5, sparse_group=1.0, alpha=1.0).prox(w, step=1.0).tolist()
        [[1.5, 0.0], [0.0, 0.0]]
    """

    exact_prox: ClassVar[bool] = False
    strengths: ClassVar[tuple[str, ...]] = ("nuclear", "sparse_group")

    nuclear: float = 1e-4
    sparse_group: float = 1e-4
    alpha: float = 0.5
    view: str = "rows"
    matrix: str = "matrix"
    method: str = field(default="auto", repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, self.alpha)
        check_method(self.method)

    def value(self, w: Tensor) -> Tensor:
        sparse = sparse_group_norm(see(w, self.view), self.alpha)
        return self.nuclear * singular_values(see(w, self.matrix)).sum() + self.sparse_group * sparse

    def prox(self, w: Tensor, step: float) -> Tensor:
        return self._steps(w, step, None)

    def warm_prox(self, w: Tensor, step: float, memory: dict[str, Any]) -> Tensor:
        return self._steps(w, step, memory)

    def _steps(self, w: Tensor, step: float, memory: dict[str, Any] | None) -> Tensor:
        groups = see(w, self.view)
        threshold = check_step(step) * self.sparse_group
        sparse = soft_threshold(groups, threshold * self.alpha)
        sparse = shrink_rows(sparse, threshold * (1 - self.alpha) * sqrt(groups.shape[1]))
        # in full precision between the two steps, also for half-precision weights
        whole = back(sparse, w.to(groups.dtype), self.view)
        shrunk = threshold_singular_values(see(whole, self.matrix), step * self.nuclear, self.method, memory)
        return back(shrunk, w, self.matrix)
