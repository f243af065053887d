"""A local model of the loss: it orders the moves, and never closes the search."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor, nn

from taut.compressors.base import Stats
from taut.layers import find_layers
from taut.measure import fisher_diagonal
from taut.moments import input_moments
from taut.objective import Objective


@dataclass(frozen=True)
class LossModel:
    r"""Predicts the change of the mean loss when a weight is changed.

    .. math:: \Delta L \approx \tfrac12 \sum_i h_i (w'_i - w_i)^2

    with the diagonal of the Fisher information (sampled labels) as curvature. At a trained optimum the linear term vanishes, so
    it is left out (Khoram & Li, equation 19, keep the linear term only: at the optimum it predicts nothing). ``inputs``: the
    second moments of the layers' inputs, for methods that want them.
    """

    curvature: dict[str, Tensor]
    inputs: dict[str, Tensor] = field(default_factory=dict)

    def change(self, name: str, before: Tensor, after: Tensor) -> float:
        """The predicted change for one layer.

        Example:
            >>> import torch
            >>> LossModel({"fc": torch.tensor([2.0, 4.0])}).change("fc", torch.zeros(2), torch.tensor([1.0, 0.5]))
            1.5
        """
        return 0.5 * float((self.curvature[name].double() * (after.double() - before.double()) ** 2).sum())

    def stats(self, name: str) -> Stats:
        """What is known of a layer, as a compressor takes it."""
        return Stats(self.curvature.get(name), self.inputs.get(name))


def fit(
    model: nn.Module, data: Iterable, objective: Objective, *, seed: int = 0, samples: int = 2048, inputs: bool = False
) -> LossModel:  # fmt: skip
    """The loss model around the present weights of a dense ``model``; with the moments of the layers' inputs if asked for."""
    layers = find_layers(model)
    curvature = fisher_diagonal(model, data, layers, seed=seed, samples=samples, loss=objective.loss)
    return LossModel(curvature, input_moments(model, data, layers, samples=samples) if inputs else {})
