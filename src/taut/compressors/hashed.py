"""Hashing: weights share values in places that a hash function chooses, so that no place is ever stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from taut.compressors.base import Code, Compressor, DenseCode, Stats, check_weight, dense
from taut.cost import Cost
from taut.errors import TautError

LARGEST_SEED = 2**32 - 1
SIGNS = 0x2545F491  # turns the hash of the buckets into that of the signs


@dataclass(frozen=True, eq=False)
class HashedCode(Code):
    """The shared ``values (k,)``; which of them a weight has, and with which sign, follows from its position and the ``seed``."""

    values: Tensor | Code
    shape: tuple[int, ...]
    seed: int

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """The bucket of each weight in row-major order, int32, and its sign, int8."""
        values = dense(self.values)
        return buckets(prod(self.shape), values.numel(), self.seed, values.device)

    def decompress(self) -> Tensor:
        values = dense(self.values)
        index, sign = self.places
        return (values.index_select(0, index) * sign.to(values.dtype)).reshape(self.shape)

    def cost(self) -> Cost:
        """Dense: the layer computes with decoded weights. What hashing saves is bytes."""
        return Cost(prod(self.shape), prod(self.shape))

    def part_stats(self, stats: Stats | None) -> dict[str, Stats | None]:
        if stats is None or stats.fisher is None:
            return {"values": None}
        count = dense(self.values).numel()
        index = buckets(prod(self.shape), count, self.seed, stats.fisher.device)[0]
        return {"values": Stats(fisher=stats.fisher.new_zeros(count).index_add_(0, index, stats.fisher.reshape(-1)))}

    def _rebuild(self, tensors: Iterator[Tensor]) -> Code:
        # training rebuilds the code at every step: the places stay
        new = super()._rebuild(tensors)
        if dense(self.values).device == dense(new.values).device:  # type: ignore[attr-defined]
            new.__dict__["places"] = self.places
        return new


@dataclass(frozen=True)
class Hashed(Compressor):
    """Weights that share a few values in pseudo-random places (Chen et al., "Compressing neural networks with the hashing
    trick", ICML 2015, arXiv 1504.04788), with ``K = max(1, round(ratio * n))`` values for ``n`` weights:

        argmin_a  sum_i (v_i - w_i)^2    subject to  v_i = xi(i) a_h(i),   h(i) in {1, …, K},   xi(i) in {-1, 1}

    Both hash functions are of whole numbers, the same on every machine, so a file holds ``a``, the shape and the seed: no
    indices. The set is a linear space, and its exact projection the mean of ``xi w`` over each bucket. The paper trains such a
    network from the start; here a trained one is projected and recovery goes on training ``a``. After training alone the error
    is large, about ``1 - ratio`` of the weight's squared norm, for no place follows from the weights.

    With as many values as weights each weight has its own: the code is the dense weight itself, as at the full rank of
    :class:`~taut.compressors.low_rank.LowRank`.

    Args:
        ratio: values for each weight, above 0 and at most 1.
        seed: of the hash functions, from 0 to 2**32 - 1.

    Example:
        >>> code = Hashed(ratio=0.25).compress(torch.randn(8, 8))
        >>> code.values.shape, code.decompress().abs().unique().numel()
        (torch.Size([16]), 16)
        >>> [method.ratio for method in Hashed().ladder((16, 16))]
        [0.015625, 0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0]
    """

    ratio: float = 0.125
    seed: int = 0
    optimal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise TautError(f"{self}: the ratio must be above 0 and at most 1")
        if not isinstance(self.seed, int) or not 0 <= self.seed <= LARGEST_SEED:
            raise TautError(f"{self}: the seed must be a whole number from 0 to {LARGEST_SEED:,}")

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        w = check_weight(w, self)
        count = self.values(w.numel())
        if count == w.numel():
            return DenseCode(w.clone())
        # on the CPU, where sums have one order, and so one result
        index, sign = buckets(w.numel(), count, self.seed, torch.device("cpu"))
        sums = torch.zeros(count, dtype=torch.float64).index_add_(0, index, w.reshape(-1).cpu().double() * sign)
        means = sums / torch.bincount(index, minlength=count).clamp(min=1)
        return HashedCode(means.to(w.dtype).to(w.device), tuple(w.shape), self.seed)

    def values(self, count: int) -> int:
        """How many values ``count`` weights share."""
        return max(1, round(self.ratio * count))

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """Ratios 1/64 (in whole values), 1/32, … 1/2, then dense; each splits the buckets of the one before: no error rises."""
        count = prod(shape)
        least = max(1, count // 64)
        doubled = [least << i for i in range(7) if 2 * (least << i) <= count]
        return [dataclasses.replace(self, ratio=values / count) for values in [*doubled, count]]


def buckets(count: int, values: int, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For positions ``0 … count - 1``: the bucket below ``values``, int32, and the sign, int8, by two hashes of the position.

    The bucket is the hash as a fraction of its range, so that twice as many values split every bucket in two.

    Example:
        >>> index, sign = buckets(6, 4, seed=0, device=torch.device("cpu"))
        >>> index.tolist(), sign.tolist()
        ([0, 2, 0, 3, 2, 2], [1, -1, -1, -1, -1, -1])
    """
    if values < 1 or not 0 <= count <= 2**32 or not 0 <= seed <= LARGEST_SEED:
        raise TautError(
            f"hashed weight: {count:,} weights share {values:,} values by seed {seed}; there must be at least one value, at most "
            "2**32 weights, and a seed from 0 to 2**32 - 1"
        )
    start = _mixed(torch.tensor(seed, device=device))
    hashed = _mixed(torch.arange(count, device=device).bitwise_xor_(start))
    index = hashed * values >> 32
    sign = (_mixed(hashed ^ SIGNS) >> 31) * 2 - 1
    return index.to(torch.int32), sign.to(torch.int8)


def _mixed(x: Tensor) -> Tensor:
    """Each whole number below 2**32 to another, one to one, every bit depending on every bit; shifts, products and xor in int64.

    Two rounds of shift and multiply as in MurmurHash3's finaliser, with factors below 2**31, so that no product overflows.
    """
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        x = ((x ^ x >> shift) * factor) & 0xFFFFFFFF
    return x ^ x >> 15
