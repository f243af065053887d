"""Pruning: the weights that matter are kept as they are, all others are zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from taut.compressors.base import Code, Compressor, Stats, check_weight, dense, fisher_of
from taut.cost import Cost
from taut.errors import TautError


@dataclass(frozen=True, eq=False)
class PruneCode(Code):
    """The kept ``values (nnz,)`` in row-major order, and where they are: a boolean ``mask`` of the weight's shape."""

    values: Tensor | Code
    mask: Tensor

    @cached_property
    def positions(self) -> Tensor:
        """The kept elements as flat indices."""
        return self.mask.reshape(-1).nonzero().squeeze(1)

    def decompress(self) -> Tensor:
        values = dense(self.values)
        if values.shape != self.positions.shape:
            raise TautError(f"pruned weight: {tuple(values.shape)} values for {self.positions.numel()} places in the mask")
        return values.new_zeros(self.mask.numel()).scatter_(0, self.positions, values).reshape(self.mask.shape)

    def cost(self) -> Cost:
        """Dense: scattered zeros make no module smaller or faster."""
        return Cost(self.mask.numel(), self.mask.numel())

    def part_stats(self, stats: Stats | None) -> dict[str, Stats | None]:
        if stats is None or stats.fisher is None:
            return {"values": None}
        return {"values": Stats(fisher=stats.fisher.to(self.mask.device)[self.mask])}

    def _rebuild(self, tensors: Iterator[Tensor]) -> Code:
        # training rebuilds the code at every step: the mask, and so the positions, stay
        new = super()._rebuild(tensors)
        new.__dict__["positions"] = self.positions
        return new


@dataclass(frozen=True)
class Prune(Compressor):
    """Keep a fraction of the weights, ``s = max(1, round(density * n))`` of ``n``:

        argmin_v  sum_i h_i (v_i - w_i)^2    subject to  v has at most s nonzeros

    Solved by keeping the largest ``h_i w_i^2``. By magnitude ``h = 1`` (optimal in squared error; Han et al. 2015,
    arXiv 1506.02626); by Fisher ``h`` is the mean squared gradient (optimal in that weighted error, the diagonal model of
    the loss; LeCun et al. 1990, Theis et al. 2018, arXiv 1801.05787); at random, the baseline, nested along the ladder. Ties
    are kept in row-major order.

    Args:
        density: fraction kept, above 0 and at most 1.
        by: ``"magnitude"``, ``"fisher"`` (needs ``stats.fisher``) or ``"random"``.
        seed: for ``"random"``.

    Example:
        >>> code = Prune(density=0.5).compress(torch.tensor([[3.0, -1.0], [0.5, -2.0]]))
        >>> code.values, code.decompress()
        (tensor([ 3., -2.]), tensor([[ 3.,  0.], [ 0., -2.]]))
        >>> [method.density for method in Prune().ladder((3, 2))]
        [0.2371, 0.3162, 0.5623, 0.7499, 1.0]
    """

    density: float = 0.1
    by: str = "magnitude"
    seed: int = 0
    optimal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise TautError(f"{self}: the density must be above 0 and at most 1")
        if self.by not in ("magnitude", "fisher", "random"):
            raise TautError(f"{self}: by must be 'magnitude', 'fisher' or 'random'")

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        w = check_weight(w, self)
        mask = largest(self._scores(w, stats).reshape(-1), self.kept(w.numel())).reshape(w.shape)
        return PruneCode(w[mask], mask)

    def kept(self, count: int) -> int:
        """How many of ``count`` weights are kept."""
        return max(1, round(self.density * count))

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """Densities from 0.001 to 1, eight for each factor 10; those that keep as many weights as the one before are left out."""
        rungs: dict[int, Prune] = {}
        for i in range(25):
            rung = dataclasses.replace(self, density=float(f"{10 ** (i / 8 - 3):.4g}"))
            rungs[rung.kept(prod(shape))] = rung
        return list(rungs.values())

    def needs_stats(self) -> bool:
        return self.by == "fisher"

    def _scores(self, w: Tensor, stats: Stats | None) -> Tensor:
        if self.by == "magnitude":
            return w.abs()
        if self.by == "random":
            return torch.rand(w.shape, generator=torch.Generator().manual_seed(self.seed)).to(w.device)
        # the root orders alike, and small squares do not vanish
        return fisher_of(stats, w, self).to(w.dtype if w.dtype == torch.float64 else torch.float32).sqrt() * w.abs()


def largest(scores: Tensor, count: int) -> Tensor:
    """The mask of the ``count`` largest of flat ``scores``; of equal ones, the first.

    Example:
        >>> largest(torch.tensor([1.0, 2.0, 2.0, 3.0]), 2).tolist()
        [False, True, False, True]
    """
    if count == scores.numel():
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(scores.numel() - count + 1).values
    mask = scores > threshold
    ties = (scores == threshold).nonzero().squeeze(1)
    mask[ties[: count - int(mask.sum())]] = True
    return mask
