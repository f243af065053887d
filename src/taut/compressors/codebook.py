"""Codebooks: every weight is one of a few shared values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from taut.compressors.base import Code, Compressor, Stats, check_weight, dense, fisher_of
from taut.cost import Cost
from taut.errors import TautError
from taut.numeric.kmeans import kmeans_1d

RUNGS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
LARGEST = 65536


@dataclass(frozen=True, eq=False)
class CodebookCode(Code):
    """The ``centroids (c,)``, ascending, and for each weight the index of its own; the shape of ``indices`` is the weight's.

    With ``zero``, index 0 means exactly 0, which is no centroid (training never moves it), and index ``i`` is centroid ``i - 1``.
    """

    centroids: Tensor | Code
    indices: Tensor
    zero: bool

    def decompress(self) -> Tensor:
        table = dense(self.centroids)
        if self.zero:
            table = torch.cat([table.new_zeros(1), table])
        return table.index_select(0, self.indices.reshape(-1).int()).reshape(self.indices.shape)

    def cost(self) -> Cost:
        """Dense: the layer computes with decoded weights. What a codebook saves is bytes."""
        return Cost(self.indices.numel(), self.indices.numel())


@dataclass(frozen=True)
class Codebook(Compressor):
    """At most ``k`` distinct values:

        argmin_{C, v}  sum_i h_i (v_i - w_i)^2    subject to  v_i in C,  |C| <= k,  and 0 in C if ``keep_zero``

    Solved by k-means in one dimension (:func:`taut.numeric.kmeans.kmeans_1d`): optimal for up to 4096 distinct weights, within
    0.5 % of the optimal error beyond. By magnitude ``h = 1`` (Han et al. 2016, arXiv 1510.00149); by Fisher ``h`` is the mean
    squared gradient (Choi et al. 2017, arXiv 1612.01543). Zero counts as one of the ``k`` values; fewer distinct weights than
    ``k`` make fewer centroids. Indices are stored in 8 bits up to 256 values, 16 up to 32,768, else 32.

    Recovery trains all weights and then puts them back onto a codebook.

    Args:
        k: how many values, 1 to 65,536.
        by: ``"magnitude"`` or ``"fisher"`` (needs ``stats.fisher``).
        keep_zero: one of the values is exactly 0, so that zeros stay zeros.

    Example:
        >>> code = Codebook(k=3).compress(torch.tensor([[0.0, 0.1, 1.0], [1.25, -2.0, 0.0]]))
        >>> code.centroids, code.indices.tolist()
        (tensor([-2.0000,  1.1250]), [[0, 0, 2], [2, 1, 0]])
        >>> code.decompress().tolist()
        [[0.0, 0.0, 1.125], [1.125, -2.0, 0.0]]
    """

    k: int = 16
    by: str = "magnitude"
    keep_zero: bool = True
    optimal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1 <= self.k <= LARGEST:
            raise TautError(f"{self}: k must be from 1 to {LARGEST:,}")
        if self.by not in ("magnitude", "fisher"):
            raise TautError(f"{self}: by must be 'magnitude' or 'fisher'")

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        w = check_weight(w, self)
        weights = _flat(fisher_of(stats, w, self)) if self.by == "fisher" else None
        centers, nearest = kmeans_1d(_flat(w), self.k, weights, self.keep_zero)
        # centers that are the same number in the weight's precision become one
        table, merged = torch.unique(torch.from_numpy(centers).to(w.dtype), return_inverse=True)
        indices = merged[torch.from_numpy(nearest)]
        if self.keep_zero:
            zero = int((table < 0).sum())
            # zero comes first, what was below it moves up
            indices = torch.where(indices == zero, 0, indices + (indices < zero))
            table = table[table != 0]
        indices = indices.to(_index_type(table.numel() + self.keep_zero)).reshape(w.shape)
        return CodebookCode(table.to(w.device), indices.to(w.device), self.keep_zero)

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """2, 3, 4, 6, 8, … 256 values, up to the first that is no less than the number of weights."""
        useful = [k for i, k in enumerate(RUNGS) if i == 0 or RUNGS[i - 1] < prod(shape)]
        return [dataclasses.replace(self, k=k) for k in useful]

    def relaxed(self) -> Compressor | None:
        return None

    def needs_stats(self) -> bool:
        return self.by == "fisher"


def _flat(tensor: Tensor):  # noqa: ANN202 - an array of doubles
    return tensor.detach().reshape(-1).cpu().double().numpy()


def _index_type(count: int) -> torch.dtype:
    if count <= 256:
        return torch.uint8
    return torch.int16 if count <= 32768 else torch.int32
