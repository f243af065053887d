"""Force regularization: filters attract each other, until few directions span them all."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from taut.errors import TautError
from taut.regularizers.base import Regularizer, back, check_step, see


@dataclass(frozen=True)
class Force(Regularizer):
    """Attraction between the directions of the rows: the weight comes near a low rank, without a decomposition in training.

    With the directions u_i = w_i / ||w_i|| of the rows that are not zero, every pair is joined by a spring (``norm="l2"``) or
    by a constant pull (``norm="l1"``):

        r(w)           =  strength * sum_{i<j} e(u_i, u_j),       e = ||u_i - u_j||^2 / 2   or   ||u_i - u_j||
        f_i            =  sum_j (u_j - u_i)   or   sum_j (u_j - u_i) / ||u_j - u_i||
        prox(w, step)  =  w_i + step * strength * ||w_i|| * (f_i - (u_i . f_i) u_i)

    Wen, Xu, Wu, Wang, Chen and Li, *Coordinating filters for faster deep neural networks*, ICCV 2017. **The step is theirs and no
    proximal operator** (``exact_prox`` and ``proximal`` are False): the part of the force at right angles to the row, times the
    row's length, so that it turns every row by the same angle whatever its length. It lowers the value, whose gradient it is
    but for the factor ||w_i||^2; lengths stay as they are to first order, and nothing becomes exactly zero or of exactly low
    rank: decompose after training. Keep step * strength * rows well below 1, or rows overshoot.

    Args:
        strength: the factor of the force, in radians per unit of step and row.
        norm: ``l2``, a force that grows with the distance, or ``l1``, one that does not (it compares all pairs: rows^2 memory).
        view: what attracts each other: ``rows`` (filters), or another view of :mod:`taut.views`.

    Example:
        >>> w = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> Force(1.0).value(w).item()  # the directions are sqrt(2) apart
        1.0
        >>> Force(0.1).prox(w, step=1.0)
        tensor([[2.0000, 0.2000],
                [0.1000, 1.0000]])
    """

    exact_prox: ClassVar[bool] = False
    convex: ClassVar[bool] = False
    proximal: ClassVar[bool] = False

    strength: float = 1e-4
    norm: str = "l2"
    view: str = "rows"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in ("l1", "l2"):
            raise TautError(f"Force: norm is 'l1' (a constant force) or 'l2' (a spring), got {self.norm!r}")

    def value(self, w: Tensor) -> Tensor:
        _, u = _directions(see(w, self.view))
        if self.norm == "l1":
            return 0.5 * self.strength * _distances(u).sum()
        # the squares of all differences, from the centre: no pair is formed
        return 0.5 * self.strength * len(u) * (u - u.sum(0) / max(len(u), 1)).square().sum()

    def prox(self, w: Tensor, step: float) -> Tensor:
        turn = check_step(step) * self.strength
        rows = see(w, self.view)
        if turn == 0 or rows.numel() == 0:
            return w.clone()
        alive, u = _directions(rows)
        if self.norm == "l1":
            distance = _distances(u)
            pull = torch.where(distance > 0, 1 / distance.clamp_min(torch.finfo(u.dtype).tiny), 0)
            force = pull @ u - pull.sum(1, keepdim=True) * u
        else:
            force = u.sum(0) - len(u) * u
        across = force - (force * u).sum(1, keepdim=True) * u
        moved = rows.clone()
        moved[alive] += turn * torch.linalg.vector_norm(rows[alive], dim=1, keepdim=True) * across
        return back(moved, w, self.view)


def _directions(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows are not zero (or so short that their squared length is lost), and the unit vectors of those."""
    lengths = torch.linalg.vector_norm(rows, dim=1)
    alive = lengths.detach() > sqrt(torch.finfo(rows.dtype).tiny)
    return alive, rows[alive] / lengths[alive, None]


def _distances(u: Tensor) -> Tensor:
    """All pairs; as differences and not by a matrix product, which loses the small ones."""
    return torch.cdist(u, u, compute_mode="donot_use_mm_for_euclid_dist")
