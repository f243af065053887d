"""Trained rank pruning: the weight is put onto a low rank again and again while it trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from taut.errors import TautError
from taut.numeric.singular import rank_for_energy, singular_values, svd
from taut.regularizers.base import Regularizer, back, check_step, see


@dataclass(frozen=True)
class TrainedRank(Regularizer):
    """Every few steps: a cut to the rank that holds a share of the energy, and a sub-gradient step on the nuclear norm.

        r(w)           =  strength * sum_j s_j,                                       w = U diag(s) V^T
        k              =  the least rank with  sum_{j<=k} s_j^2 >= energy * sum_j s_j^2
        prox(w, step)  =  U_k diag(s_1..s_k) V_k^T  -  step * strength * U_k V_k^T

    Xu et al., *TRP: Trained rank pruning for efficient deep neural networks*, IJCAI 2020. Between two such steps the whole matrix
    trains, so that a direction that was cut can come back. Use it as ``ProxOptimizer(..., every=m)``: the step is then m
    learning rates, the sub-gradient of m steps at once.

    **This is no proximal operator** (``exact_prox`` and ``proximal`` are False): the cut is the same however short the step (a
    step of zero does nothing), and cutting twice cuts more. The sub-gradient stops at zero, where it would only turn the sign.

    Args:
        strength: of the nuclear norm, in units of the loss per unit of weight (the authors' code: 3e-4).
        energy: the share of the sum of squares that is kept, between 0 and 1.
        view: the authors' channel-wise decomposition is ``matrix``; for their spatial one take ``matrix2``, which has height
            and width the other way round.

    Example:
        >>> w = torch.diag(torch.tensor([4.0, 3.0, 1.0]))
        >>> TrainedRank(strength=0.5, energy=0.9).prox(w, step=1.0).diag().tolist()  # 25 of 26 parts of the energy
        [3.5, 2.5, 0.0]
    """

    exact_prox: ClassVar[bool] = False
    convex: ClassVar[bool] = False  # the penalty is; the cut moves weights apart
    proximal: ClassVar[bool] = False

    strength: float = 3e-4
    energy: float = 0.9
    view: str = "matrix"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.energy > 1:
            raise TautError(f"TrainedRank: energy is a share between 0 and 1, got {self.energy}")

    def value(self, w: Tensor) -> Tensor:
        return self.strength * singular_values(see(w, self.view)).sum()

    def prox(self, w: Tensor, step: float) -> Tensor:
        check_step(step)
        matrix = see(w, self.view)
        if step == 0 or matrix.numel() == 0:
            return w.clone()
        exact = matrix if matrix.device.type == "mps" else matrix.double()
        u, s, vt = svd(exact)
        taken = s.clamp(max=step * self.strength)
        taken[rank_for_energy(s, self.energy) :] = torch.inf
        # as a subtraction: what stays is not rebuilt
        return back((exact - (u * torch.minimum(taken, s)) @ vt).to(matrix.dtype), w, self.view)
