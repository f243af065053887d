"""A price on rank: each layer takes the rank that pays, while the network trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor

from taut.errors import TautError
from taut.numeric.singular import singular_values, svd
from taut.regularizers.annealed import Annealed
from taut.regularizers.base import Regularizer, back, check_step, see


@dataclass(frozen=True)
class LearnedRank(Annealed, Regularizer):
    """The price of the parameters that the best rank needs, and the distance to the best weight of that rank.

        r(w)           =  min_r  alpha * cost(r) + strength / 2 * sum_{j>r} s_j^2,                  w = U diag(s) V^T
        cost(r)        =  r * (m + n),   and m * n at full rank
        prox(w, step)  =  w - h * sum_{j>r} s_j u_j v_j^T,        h = step * strength / (1 + step * strength),
                          with the r that is best for the strength  strength / (1 + step * strength)

    One ``alpha`` serves all layers of any size: it is what one parameter must lower the loss by. The rank needs no search, as the
    distance falls by s_r^2 for each more. The prox is exact, though the penalty is not convex: the minimum over z can be taken
    before that over r. Idelbayev and Carreira-Perpinan, *Low-rank compression of neural nets: learning the rank of each layer*,
    CVPR 2020.

    With a ``period`` this is their algorithm (:class:`~taut.regularizers.annealed.Annealed`): the rank and the compressed
    weight are chosen anew after every ``period`` proximal steps, and the strength, their mu, grows by ``growth`` each time, until
    the weight has the rank. The first strength that keeps any rank in a layer at all is :meth:`least_strength`; a rank of 0
    says that the layer does not pay at the present strength. Start well above it: the algorithm is a local search,
    and a rank that a weak first strength takes away does not always come back. The ranks in the end:
    :func:`taut.learning_compression.settle`.

    Args:
        alpha: the price of a parameter, in units of the loss.
        strength: mu, in units of the loss per squared unit of weight; with a schedule the first one.
        view: ``matrix`` (their scheme 1) or ``matrix2`` (scheme 2).
        growth: the factor of the strength after every period (they take 1.1 to 1.25).
        period: proximal steps from one choice of the rank to the next; 0: chosen at every proximal step, no schedule.
        multipliers: keep Lagrange multipliers (the augmented Lagrangian), which meets the constraint at a finite strength.

    Example:
        >>> w = torch.eye(4, 8) * torch.tensor([3.0, 2.0, 0.5, 0, 0, 0, 0, 0])
        >>> priced = LearnedRank(alpha=0.125, strength=2.0)  # a rank costs 0.125 * (4 + 8) = 1.5, and saves s^2
        >>> priced.rank(w), priced.value(w).item()
        (2, 3.25)
        >>> priced.prox(w, step=0.5).diagonal().tolist()
        [3.0, 2.0, 0.25, 0.0]
    """

    convex: ClassVar[bool] = False
    strengths: ClassVar[tuple[str, ...]] = ("alpha", "strength")

    alpha: float = 1e-6
    strength: float = 1e-3
    view: str = "matrix"
    growth: float = field(default=1.0, repr=False)
    period: int = field(default=0, repr=False)
    multipliers: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_schedule()
        if self.view not in ("matrix", "matrix2"):
            raise TautError(f"LearnedRank: view is 'matrix' or 'matrix2', got {self.view!r}")

    def value(self, w: Tensor) -> Tensor:
        matrix = see(w, self.view)
        s = singular_values(_exact(matrix))
        rank = self._best(s.detach(), matrix.shape)
        return self.alpha * _costs(matrix.shape)[rank] + 0.5 * self.strength * s[rank:].square().sum().to(matrix.dtype)

    def prox(self, w: Tensor, step: float) -> Tensor:
        pull = check_step(step) * self.strength
        # what a longer step pulls further counts for less distance
        return w.clone() if pull == 0 else self._cut(w, 1 / (1 + pull), pull / (1 + pull))

    def c_step(self, w: Tensor, tightening: float = 1.0) -> Tensor:
        return self._cut(w, tightening, 1.0)

    def rank(self, w: Tensor, tightening: float = 1.0) -> int:
        """The rank that pays at ``tightening`` times the strength: ``argmin_r alpha cost(r) + strength / 2 sum_{j>r} s_j^2``."""
        matrix = see(w.detach(), self.view)
        return self._best(singular_values(matrix), matrix.shape, tightening)

    def least_strength(self, w: Tensor) -> float:
        """The strength from which the layer keeps a rank of at least 1: ``2 alpha (m + n) / s_1^2``; infinite for a zero weight.

        Example:
            >>> LearnedRank(alpha=0.125).least_strength(2 * torch.eye(4, 8))
            0.75
        """
        matrix = see(w.detach(), self.view)
        largest = float(singular_values(matrix)[0]) if matrix.numel() else 0.0
        price = 2 * self.alpha * _costs(matrix.shape)[min(1, *matrix.shape)]
        return price / largest**2 if largest > 0 else float("inf")

    def _cut(self, w: Tensor, tightening: float, share: float) -> Tensor:
        """``w`` without ``share`` of the singular values beyond the rank that pays."""
        matrix = see(w, self.view)
        if matrix.numel() == 0:
            return w.clone()
        exact = _exact(matrix)
        u, s, vt = svd(exact)
        rank = self._best(s, matrix.shape, tightening)
        tail = (u[:, rank:] * s[rank:]) @ vt[rank:]
        return back((exact - share * tail).to(matrix.dtype), w, self.view)

    def _best(self, s: Tensor, shape: torch.Size, tightening: float = 1.0) -> int:
        squares = s.double().square().tolist()
        beyond = [*accumulate(reversed(squares), initial=0.0)][::-1]  # from the small end: no digit of it is lost
        mu = self.strength * tightening
        objective = [self.alpha * cost + 0.5 * mu * tail for cost, tail in zip(_costs(shape), beyond, strict=True)]
        return objective.index(min(objective))


def _exact(matrix: Tensor) -> Tensor:
    """In double precision, where the device has it: the singular values beyond the rank may be far below the largest."""
    return matrix if matrix.device.type == "mps" else matrix.double()


def _costs(shape: torch.Size) -> list[int]:
    """The parameters of every rank from 0 to full, where the dense matrix takes the factors' place."""
    m, n = shape
    return [r * (m + n) for r in range(min(m, n))] + [m * n]
