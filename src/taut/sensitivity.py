"""What a layer's rank is worth: the share of its energy, the error of its outputs, or an estimate or measurement of the loss."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from taut.compressors.low_rank import LowRank
from taut.errors import TautError
from taut.layers import Layer, put
from taut.measure import evaluate, fisher_diagonal
from taut.moments import input_moments
from taut.numeric.singular import rank_for_energy, singular_values, svd
from taut.numeric.truncation import weighted
from taut.objective import Objective, batches_of
from taut.views import view

SENSITIVITIES = ("energy", "fisher", "activation", "loss")
Ranks = dict[str, list[int]]
Losses = dict[str, list[float]]


def matrix_of(layer: Layer, scheme: int = 1) -> Tensor:
    """The matrix whose rank counts, ``(m, n)``, detached; weights with fewer than four axes have one scheme."""
    w = layer.weight.detach()
    return view("matrix2" if scheme == 2 and w.dim() == 4 else "matrix").see(w)


def rank_of(matrix: Tensor, energy: float = 1.0) -> int:
    """The smallest rank, at least 1, that holds the share ``energy`` of the squares; rounding is no energy.

    Singular values below ``max(m, n) * eps`` of the largest are rounding: what a proximal step left of a value is exactly that.

    Example:
        >>> rank_of(torch.diag(torch.tensor([3.0, 1.0, 1e-9]))), rank_of(torch.diag(torch.tensor([3.0, 1.0, 1e-9])), 0.9)
        (2, 1)
    """
    values = singular_values(matrix)
    real = int((values > max(matrix.shape) * torch.finfo(values.dtype).eps * values[0]).sum())
    return max(1, min(real, rank_for_energy(values, energy)))


@dataclass(frozen=True)
class Sensitivity:
    """How much a layer's rank is worth: what is measured, and on what.

    ``by``: ``"energy"``, the share of the layer's energy that is cut (no data); ``"activation"``, the share of the energy of its
    outputs (the ranks are then meant for ``LowRank(by="activation")``, which the plan says); ``"fisher"``, half the squared
    error weighted by the diagonal of the Fisher information, an estimate of the loss; ``"loss"``, the loss measured with this
    layer alone at each of about two ranks for each factor 2 (a pass over the data for each). ``inputs``: whether linear layers
    may also read fewer inputs (:class:`taut.compressors.Columns`), which is judged by activation.
    """

    by: str = "fisher"
    data: Iterable | None = None
    objective: Objective | None = None
    inputs: bool = False

    def __post_init__(self) -> None:
        if self.by not in SENSITIVITIES:
            raise TautError(f"Sensitivity(by={self.by!r}): choose one of {', '.join(SENSITIVITIES)}")
        if self.by != "energy" and self.data is None:
            raise TautError(
                f"Sensitivity(by={self.by!r}) is measured on data: give data=, an iterable of batches, or by='energy'"
            )
        if isinstance(self.data, Iterator):  # gone through more than once
            object.__setattr__(self, "data", list(self.data))
        if self.inputs and self.by != "activation":
            raise TautError(f"Sensitivity(by={self.by!r}, inputs=True): which inputs can go is judged by='activation'")

    def method(self, rank: int, scheme: int) -> LowRank:
        """Low rank as it is meant to be applied."""
        return LowRank(rank, scheme, "activation" if self.by == "activation" else "weight")

    def batches(self) -> Iterable:
        """The data to measure on."""
        return () if self.data is None else batches_of(self.data, "calibration")

    def losses(self, model: nn.Module, layers: dict[str, Layer], ranks: Ranks, scheme: int) -> Losses:
        """What each layer loses at each of its ranks."""
        if self.by == "activation" and scheme != 1:
            raise TautError(
                "Sensitivity(by='activation'): outputs are products with the matrix of scheme 1; use scheme=1, or by='fisher'"
            )
        data = self.batches()
        if self.by == "loss":
            return _measured(model, layers, ranks, scheme, data, self.objective)
        if self.by == "fisher":
            fisher = fisher_diagonal(model, data, layers)
            return {n: _weighted_errors(layer, fisher[n], ranks[n], scheme) for n, layer in layers.items()}
        moments = input_moments(model, data, layers) if self.by == "activation" else {}
        if lost := [n for n in layers if self.by == "activation" and n not in moments]:
            raise TautError(
                f"{', '.join(lost)}: no inputs were seen on the data; leave them out with layers=, or use by='fisher'"
            )
        matrices = {n: matrix_of(layer, scheme) for n, layer in layers.items()}
        return {n: _tails(weighted(m, moments[n]) if n in moments else m, ranks[n]) for n, m in matrices.items()}


def _tails(matrix: Tensor, ranks: list[int]) -> list[float]:
    """The share of a matrix's energy beyond each rank."""
    squares = singular_values(matrix).double().square()
    tails = squares.flip(0).cumsum(0).flip(0)
    return [float(tails[r] / tails[0]) if tails[0] > 0 else 0.0 for r in ranks]


def _weighted_errors(layer: Layer, fisher: Tensor, ranks: list[int], scheme: int) -> list[float]:
    """Half the squared error of the best approximations of each rank, weighted element by element."""
    matrix = matrix_of(layer, scheme)
    h = view("matrix2" if scheme == 2 and fisher.dim() == 4 else "matrix").see(fisher).to(matrix.dtype)
    u, s, vt = svd(matrix)
    left, errors, at = matrix.clone(), [], 0
    for r in ranks:
        left -= u[:, at:r] * s[at:r] @ vt[at:r]
        errors.append(0.5 * float((h * left.square()).sum()))
        at = r
    return errors


def _measured(
    model: nn.Module, layers: dict[str, Layer], ranks: Ranks, scheme: int, data: Any, objective: Objective | None
) -> Losses:
    """The increase of the measured loss with one layer at a time put to each of its ranks."""
    base = evaluate(model, data, objective).loss
    found: Losses = {}
    for name, layer in layers.items():
        found[name] = []
        for r in ranks[name]:
            trial = copy.deepcopy(model)
            put(trial, layer, LowRank(r, scheme).compress(layer.weight.detach()))
            found[name].append(evaluate(trial, data, objective).loss - base)
    return found
