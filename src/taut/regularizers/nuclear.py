"""Nuclear norm: singular values become zero, so the weight becomes two thin factors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from taut.numeric.singular import singular_values
from taut.numeric.thresholding import check_method, threshold_singular_values
from taut.regularizers.base import Regularizer, back, check_step, see


@dataclass(frozen=True)
class Nuclear(Regularizer):
    """Sum of the singular values: drives the weight to low rank.

        r(w)           =  strength * sum_j s_j,                      w = U diag(s) V^T
        prox(w, step)  =  U diag(max(s - step * strength, 0)) V^T

    Fazel, Hindi and Boyd, ACC 2001 (the norm); Cai, Candes and Shen, SIAM J. Optim. 20, 2010, theorem 2.1 (the prox); in
    networks: Alvarez and Salzmann, *Compression-aware training of deep networks*, NIPS 2017.

    Args:
        strength: the factor, in units of the loss per unit of weight.
        view: how a convolution is seen as a matrix: ``matrix`` (outputs by inputs and kernel) or ``matrix2`` (outputs and
            kernel rows by inputs and kernel columns).
        method: how the singular values are shrunk: ``svd`` and ``gram`` (exact), ``subspace`` (keeps a basis between the calls of
            one :class:`~taut.train.ProxOptimizer`, and errs by at most about 5 % of what a step changes), ``polar`` (matrix
            products only), or ``auto``, by shape and device: :func:`~taut.numeric.thresholding.threshold_singular_values`.

    Example:
        >>> import torch
        >>> w = torch.diag(torch.tensor([3.0, 1.0, 0.5]))
        >>> Nuclear(0.5).value(w).item()
        2.25
        >>> Nuclear(0.5).prox(w, step=2.0).diag().tolist()
        [2.0, 0.0, 0.0]
    """

    strength: float = 1e-4
    view: str = "matrix"
    method: str = field(default="auto", repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_method(self.method)

    def exact(self) -> bool:
        return self.method != "polar"

    def value(self, w: Tensor) -> Tensor:
        return self.strength * singular_values(see(w, self.view)).sum()

    def prox(self, w: Tensor, step: float) -> Tensor:
        return self._shrunk(w, step, None)

    def warm_prox(self, w: Tensor, step: float, memory: dict[str, Any]) -> Tensor:
        return self._shrunk(w, step, memory)

    def _shrunk(self, w: Tensor, step: float, memory: dict[str, Any] | None) -> Tensor:
        threshold = check_step(step) * self.strength
        return back(threshold_singular_values(see(w, self.view), threshold, self.method, memory), w, self.view)
