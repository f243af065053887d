"""Codebooks: every weight is one of a few shared values. Three ways to choose them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taut.compressors.base import Code, Compressor, Stats, check_weight, dense, fisher_of
from taut.cost import Cost
from taut.errors import TautError
from taut.numeric.entropy_kmeans import entropy_kmeans_1d
from taut.numeric.kmeans import kmeans_1d, lloyd_1d

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
        damping: of ``by="fisher"``, in means of the layer's Fisher information, added to it (Levenberg, Marquardt): few values
            are far from the weights, where the curvature at the weights says less. Much of it is ``by="magnitude"``.

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
    damping: float = 0.0
    optimal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1 <= self.k <= LARGEST:
            raise TautError(f"{self}: k must be from 1 to {LARGEST:,}")
        if not 0 <= self.damping < inf:
            raise TautError(f"{self}: damping is a finite number that is not negative")
        if self.by not in ("magnitude", "fisher"):
            raise TautError(f"{self}: by must be 'magnitude' or 'fisher'")

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        w = check_weight(w, self)
        return _code(w, *kmeans_1d(_flat(w), self.k, _importance(w, stats, self), self.keep_zero), self.keep_zero)

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """2, 3, 4, 6, 8, … 256 values, up to the first that is no less than the number of weights."""
        useful = [k for i, k in enumerate(RUNGS) if i == 0 or RUNGS[i - 1] < prod(shape)]
        return [dataclasses.replace(self, k=k) for k in useful]

    def relaxed(self) -> Compressor | None:
        return None

    def needs_stats(self) -> bool:
        return self.by == "fisher"


@dataclass(frozen=True)
class EntropyCodebook(Compressor):
    r"""As many distinct values as pay for the bits of their indices:

    .. math:: \min_{C, a}\; \frac{1}{s} \sum_i h_i (c_{a(i)} - w_i)^2
              + \text{price} \Big( \sum_i -\log_2 p_{a(i)} + 16\,|C| \Big),
              \qquad p_c = \frac{|\{i : a(i) = c\}|}{n}, \quad |C| \le k

    Entropy-constrained scalar quantization (Choi et al. 2017, arXiv 1612.01543, section 4.3): indices are entropy-coded in the
    file, so it is not the number of values that costs but their entropy. Values that are too rare for what they save vanish,
    and a weight may take a farther value that has a shorter code. An entry of the table counts 16 bits, which the paper leaves
    out: in small layers it decides. ``s`` is the mean of ``h w^2``, so that one price means the same in every layer.

    By magnitude (``h = 1``) the optimum for up to 1024 distinct weights, then idempotent and monotone too; by Fisher and for
    more weights a local optimum (:func:`taut.numeric.entropy_kmeans.entropy_kmeans_1d`). The codec's own models cost
    a little more than the entropy, or less where the places of zeros can be told from rows and columns.

    Args:
        price: of a bit, in units of the mean (weighted) square of a weight; 0.01 buys what saves 1 % of it.
        k: how many values at most, 1 to 65,536.
        by: ``"magnitude"`` or ``"fisher"`` (needs ``stats.fisher``).
        keep_zero: one of the values is exactly 0, so that zeros stay zeros; it costs nothing.
        damping: of ``by="fisher"``, as in :class:`Codebook`.

    Example:
        >>> weight = torch.tensor([0.0] * 90 + [0.1] * 2 + [0.9] * 50 + [1.1] * 50)
        >>> code = EntropyCodebook(price=0.02).compress(weight)
        >>> code.centroids, code.indices.bincount().tolist()  # 0.1 is too rare for a code of its own
        (tensor([1.]), [92, 100])
    """

    price: float = 0.01
    k: int = 256
    by: str = "magnitude"
    keep_zero: bool = True
    damping: float = 0.0
    idempotent: ClassVar[bool] = False
    monotone: ClassVar[bool] = False

    def __post_init__(self) -> None:
        Codebook(self.k, self.by, self.keep_zero, self.damping)  # its errors are ours
        if not 0 <= self.price < float("inf"):
            raise TautError(f"{self}: the price of a bit must be finite and not negative")

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        w = check_weight(w, self)
        found = entropy_kmeans_1d(_flat(w), self.k, self.price, _importance(w, stats, self), self.keep_zero)
        return _code(w, *found, self.keep_zero)

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """Prices from 4 down to 2^-12, halved each time: about 0 to 6 bits a weight."""
        return [dataclasses.replace(self, price=2.0**-i) for i in range(-2, 13)]

    def relaxed(self) -> Compressor | None:
        return None

    def needs_stats(self) -> bool:
        return self.by == "fisher"


@dataclass(frozen=True)
class LinearCodebook(Compressor):
    """At most ``k`` distinct values, by Lloyd's iteration from evenly spaced ones: the codebook of deep compression.

    Han et al. 2016 (arXiv 1510.00149, section 3.2) found that it keeps accuracy better than starts that follow the density: the
    few large weights keep values of their own. In squared error it is worse than :class:`Codebook`, which is optimal, so it
    is here for comparison. Idempotent and monotone only about; :func:`taut.numeric.kmeans.lloyd_1d`.

    Args:
        k: how many values at most, 1 to 65,536.
        keep_zero: one of the values is exactly 0. Pruned weights need no zero: ``Chain(Prune(0.1), LinearCodebook(32))``.

    Example:
        >>> weight = torch.tensor([0.0, 0.1, 0.1, 0.3, 2.0])
        >>> LinearCodebook(k=3).compress(weight).decompress().tolist()
        [0.125, 0.125, 0.125, 0.125, 2.0]
    """

    k: int = 32
    keep_zero: bool = False
    idempotent: ClassVar[bool] = False
    monotone: ClassVar[bool] = False

    def __post_init__(self) -> None:
        Codebook(self.k, keep_zero=self.keep_zero)

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        w = check_weight(w, self)
        return _code(w, *lloyd_1d(_flat(w), self.k, self.keep_zero), self.keep_zero)

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """The rungs of :class:`Codebook`."""
        return [dataclasses.replace(self, k=rung.k) for rung in Codebook().ladder(shape)]  # type: ignore[attr-defined]

    def relaxed(self) -> Compressor | None:
        return None


def _code(w: Tensor, centers: NDArray[np.float64], places: NDArray[np.int64], zero: bool) -> CodebookCode:
    """The code of a weight whose values have the centers at ``places``, which ascend and hold 0 if ``zero``."""
    # centers that are the same number in the weight's precision become one
    table, merged = torch.unique(torch.from_numpy(centers).to(w.dtype), return_inverse=True)
    indices = merged[torch.from_numpy(places)]
    if zero:
        at = int((table < 0).sum())
        # zero comes first, what was below it moves up
        indices = torch.where(indices == at, 0, indices + (indices < at))
        table = table[table != 0]
    indices = indices.to(_index_type(table.numel() + zero)).reshape(w.shape)
    return CodebookCode(table.to(w.device), indices.to(w.device), zero)


def _importance(w: Tensor, stats: Stats | None, method: Codebook | EntropyCodebook) -> NDArray[np.float64] | None:
    """The weights ``h`` of the squared errors; ``None``: all alike."""
    if method.by == "magnitude":
        return None
    fisher = _flat(fisher_of(stats, w, method))
    return fisher + method.damping * fisher.mean()


def _flat(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().reshape(-1).cpu().double().numpy()


def _index_type(count: int) -> torch.dtype:
    if count <= 256:
        return torch.uint8
    return torch.int16 if count <= 32768 else torch.int32
