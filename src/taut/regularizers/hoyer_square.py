"""Hoyer-square: sparse at any scale, without L1's shrinkage of the weights that stay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from taut.regularizers.base import Regularizer, back, check_step, see


@dataclass(frozen=True)
class HoyerSquare(Regularizer):
    """The squared ratio of l1 to l2: between 1, one group left, and their number, all of the same length.

        r(w)  =  strength * ( sum_g ||w_g|| )^2 / sum_g ||w_g||^2,             r(0) = 0

    A group is a single weight by default. It counts the nonzeros without regard to scale: a layer cannot escape it by smaller
    weights, and large weights are made larger rather than smaller. Yang, Wen and Li, *DeepHoyer*, ICLR 2020, who train with its
    gradient and then cut small weights; groups of weights are their Group-HS.

    The prox is exact, though the penalty is not convex. With n_1 >= n_2 >= ... the lengths of the groups, some k longest ones
    stay, and where S and Q are the sum and the sum of squares of those k, t = step * strength:

        a     =  the smaller root of  S a^2 - (Q + 2 k t) a + 2 t S = 0
        z_g   =  max(n_g - a, 0) / (1 - a^2 / (2 t)) * w_g / n_g

    The quadratic follows from the stationarity of the k lengths (the cubic terms cancel); of the n candidates and zero the one
    with the least objective is taken, from sums along the sorted lengths. Another derivation: Jia, Prater-Bennette and Shen,
    *Computing proximity operators of scale and signed permutation invariant functions*, 2024.

    Args:
        strength: the factor, in units of the loss per remaining weight or group.
        view: what a group is: ``elements``, ``rows``, ``columns`` or another view of :mod:`taut.views`.

    Example:
        >>> w = torch.tensor([[3.0, 4.0, 0.0]])
        >>> round(HoyerSquare(1.0).value(w).item(), 4)  # 7^2 / 5^2
        1.96
        >>> HoyerSquare(2.0).prox(torch.tensor([[4.0, 1.0, 0.5]]), step=1.0).tolist()  # the largest stays as it is
        [[4.0, 0.0, 0.0]]
    """

    convex: ClassVar[bool] = False

    strength: float = 1e-4
    view: str = "elements"

    def value(self, w: Tensor) -> Tensor:
        groups = see(w, self.view)
        tiny = torch.finfo(groups.dtype).tiny
        largest = groups.detach().abs().max().clamp_min(tiny) if groups.numel() else 1.0
        lengths = torch.linalg.vector_norm(groups / largest, dim=1)  # scaled, so that no square is lost or overflows
        return self.strength * lengths.sum().square() / lengths.square().sum().clamp_min(tiny)

    def prox(self, w: Tensor, step: float) -> Tensor:
        threshold = check_step(step) * self.strength
        groups = see(w, self.view)
        if threshold == 0 or groups.numel() == 0:
            return w.clone()
        lengths = torch.linalg.vector_norm(groups.to(_exact_type(groups)), dim=1)
        offset = _offset(lengths.sort(descending=True).values, threshold)
        stays = lengths > offset
        factor = torch.where(stays, 1 - offset / lengths, 0) / (1 - offset**2 / (2 * threshold))
        if int(stays.sum()) <= 1:  # a lone group has the value 1 at any length, and keeps it to the last bit
            factor = stays
        return back((groups * factor[:, None]).to(groups.dtype), w, self.view)


def _exact_type(groups: Tensor) -> torch.dtype:
    """Double precision where the device has it: the candidates' objectives differ by little."""
    return groups.dtype if groups.device.type == "mps" else torch.float64


def _offset(lengths: Tensor, threshold: float) -> float:
    """What is taken from each length before they grow again, infinite where all become zero; ``lengths`` are descending."""
    sums, squares = lengths.cumsum(0), lengths.square().cumsum(0)
    count = torch.arange(1, len(lengths) + 1, dtype=lengths.dtype, device=lengths.device)
    middle = squares + 2 * threshold * count
    root = (middle.square() - 8 * threshold * sums.square()).clamp_min(0).sqrt()
    offset = 4 * threshold * sums / (middle + root)  # the smaller root, without cancellation
    shrink = 1 - offset.square() / (2 * threshold)
    possible = (lengths > offset) & (shrink > 0)
    kept_sum, kept_squares = sums - count * offset, squares - 2 * offset * sums + count * offset.square()
    ratio = torch.where(count == 1, 1, kept_sum.square() / kept_squares)
    # the squared distance is that of the k lengths, and all of the others
    turn = 1 - shrink
    moved = (turn.square() * squares - 2 * offset * turn * sums + count * offset.square()) / shrink.square()
    objective = threshold * ratio + 0.5 * (torch.where(count == 1, 0, moved) + squares[-1] - squares)
    objective = torch.where(possible, objective, math.inf)
    best = int(objective.argmin())
    return float(offset[best]) if float(objective[best]) < 0.5 * float(squares[-1]) else math.inf
