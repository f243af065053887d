"""How a steering goes, and what it leaves: settings, measured steps, result."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from taut.budget.recover import Recovery
from taut.errors import TautError
from taut.measure import Evaluation

MODELS = ("curvature", "linear", "both")


@dataclass(frozen=True)
class Steering:
    """How to steer.

    ``model``: what predicts the loss, its ``"curvature"`` (the diagonal of the Fisher information), the ``"linear"`` term, or
    ``"both"``. ``radius``: of the first step, in root mean squares of each layer's weights. ``samples``: of the training data,
    for the model of the loss. ``steps``: measured candidates at most. ``train``: the training between two steps, in which no
    weight gets further from its target than the step has brought it; ``finish``: of what the codes leave free, at the end.
    """

    model: str = "both"
    radius: float = 0.25
    samples: int = 2048
    steps: int = 60
    train: Recovery | None = Recovery(epochs=1, lr=1e-3)
    finish: Recovery | None = Recovery(epochs=4, lr=5e-4)

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise TautError(f"Steering(model={self.model!r}): choose one of {', '.join(MODELS)}")
        if not self.radius > 0 or self.samples < 1 or self.steps < 1:
            raise TautError(f"{self}: radius, samples and steps are above 0")


@dataclass(frozen=True)
class SteerStep:
    """A measured candidate.

    ``distance`` of its weights to their targets, as a fraction of the trained ones; ``predicted`` and ``measured`` change of the
    loss since the last kept candidate, with the paired standard ``error`` of the measurement; ``coded``: the weights are in
    their sets.
    """

    index: int
    distance: float
    loss: float
    metric: float
    predicted: float
    measured: float
    error: float
    radius: float
    multiplier: float
    kept: bool
    coded: bool = False


@dataclass(frozen=True)
class Steered:
    """What :func:`taut.budget.steer.steer` returns.

    ``model``: the last kept network; ``reached``: whether all its weights are in their sets (it is then coded); ``steps``:
    every measured candidate; ``baseline`` and ``evaluation``: of the original and of ``model``, on validation data.
    """

    model: nn.Module
    reached: bool
    steps: tuple[SteerStep, ...]
    baseline: Evaluation
    evaluation: Evaluation
