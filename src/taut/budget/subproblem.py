"""One step of steering: as near to the targets as a local model of the loss allows, within a box around the present weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

HALVINGS = 100
"""Of the interval of the multiplier's logarithm: to rounding."""


@dataclass(frozen=True)
class Part:
    """One layer's share of a step's problem; tensors of one shape, in double precision.

    ``gap``: the targets minus the weights; ``slope`` and ``curvature`` of the loss there; ``radius``: no weight moves further;
    ``weight``: what a squared distance counts.
    """

    gap: Tensor
    slope: Tensor
    curvature: Tensor
    radius: float
    weight: float = 1.0

    def step(self, multiplier: float) -> Tensor:
        """The minimum for a given price of the loss: each coordinate's parabola, clipped to the box."""
        if multiplier == float("inf"):  # the least loss in the box
            moved = torch.where(self.curvature > 0, -self.slope / self.curvature, -self.slope.sign() * self.radius)
        else:
            moved = (self.weight * self.gap - multiplier * self.slope) / (self.weight + multiplier * self.curvature)
        return moved.clamp(-self.radius, self.radius)

    def change(self, step: Tensor) -> float:
        """The change of the loss that the model predicts."""
        return float((self.slope * step + 0.5 * self.curvature * step * step).sum())


@dataclass(frozen=True)
class Solved:
    """``steps``: one for each part; ``multiplier``: the price of the loss, 0 where its bound does not bind; ``predicted``: the
    change of the loss by the model; ``feasible``: whether that is within the room.
    """

    steps: list[Tensor]
    multiplier: float
    predicted: float
    feasible: bool


def solve(parts: Sequence[Part], room: float) -> Solved:
    r"""The step that ends nearest to the targets, of all that the model of the loss and the box allow:

    .. math:: \min_d \tfrac12 \sum_l a_l \|d_l - t_l\|^2 \quad\text{subject to}\quad
              \sum_l g_l \cdot d_l + \tfrac12 \sum_i h_i d_i^2 \le \text{room}, \qquad |d_i| \le r_l

    Convex for curvatures that are not negative, and separable for a given multiplier ``nu`` of the bound:
    ``d_i = clip((a t_i - nu g_i) / (a + nu h_i), -r, r)``, the box *inside* the search for ``nu``: clipping after it would break
    the bound. The predicted change falls as ``nu`` grows, so that bisection finds the one at which the bound holds with equality.
    If no step within the box meets the bound (the network is already beyond it), the one that lowers the loss most.
    Khoram and Li, *DNN model compression under accuracy constraints*, with the linear model (``h = 0``).

    Example:
        >>> gap, slope = torch.tensor([1.0, 1.0]).double(), torch.tensor([0.0, 1.0]).double()
        >>> solved = solve([Part(gap, slope, torch.zeros(2).double(), radius=2.0)], room=0.25)
        >>> solved.steps[0].round(decimals=3).tolist(), round(solved.predicted, 3)
        ([1.0, 0.25], 0.25)
    """

    def predicted(multiplier: float) -> float:
        return sum(part.change(part.step(multiplier)) for part in parts)

    if predicted(0.0) <= room:
        return _solved(parts, 0.0, room)
    if predicted(float("inf")) > room:
        return _solved(parts, float("inf"), room)
    low, high = 1e-12, 1.0
    while predicted(high) > room and high < 1e300:
        high *= 1e4
    while predicted(low) <= room and low > 1e-300:
        low *= 1e-4
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5 if low * high > 0 else low * 10
        low, high = (low, middle) if predicted(middle) <= room else (middle, high)
        if high <= low * (1 + 1e-14):
            break
    return _solved(parts, high, room)


def _solved(parts: Sequence[Part], multiplier: float, room: float) -> Solved:
    steps = [part.step(multiplier) for part in parts]
    change = sum(part.change(step) for part, step in zip(parts, steps, strict=True))
    return Solved(steps, multiplier, change, change <= room + 1e-12 * abs(room))
