"""Pooled inputs: one weight for a block of neighbouring inputs, a layer that reads its image at a lower resolution."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, linear

from taut.compressors.base import Code, Compressor, DenseCode, Stats, check_weight, dense
from taut.compressors.coded import Factored, like_weight
from taut.cost import Cost
from taut.errors import LayerError, TautError

if TYPE_CHECKING:
    from taut.layers import Layer


@dataclass(frozen=True, eq=False)
class PoolCode(Code):
    """``values (out, channels * ceil(side / by)^2)``, each for a block of ``by x by`` inputs (less at the far edges).

    ``shape``: of the weight, ``(out, channels * side^2)``.
    """

    values: Tensor | Code
    shape: tuple[int, int]
    channels: int
    by: int

    @property
    def side(self) -> int:
        """Of the maps that the layer reads, in pixels."""
        return isqrt(self.shape[1] // self.channels)

    def decompress(self) -> Tensor:
        small, side = -(-self.side // self.by), self.side
        maps = dense(self.values).reshape(self.shape[0], self.channels, small, small)
        wide = maps.repeat_interleave(self.by, 3)[..., :side].repeat_interleave(self.by, 2)[:, :, :side]
        return wide.reshape(self.shape)

    def cost(self) -> Cost:
        """As many parameters as values, and MACs a use; the sums of the blocks are additions."""
        count = dense(self.values).numel()
        return Cost(count, count)

    def part_stats(self, stats: Stats | None) -> dict[str, Stats | None]:
        """The gradient of a value is the sum of its block's: with independent ones, so is its mean square."""
        if stats is None or stats.fisher is None:
            return {}
        sums = _blocks(stats.fisher, self.channels, self.by) * _counts(self.side, self.by).to(stats.fisher)
        return {"values": Stats(fisher=sums.reshape(self.shape[0], -1))}

    def module(self, layer: Layer) -> nn.Module | None:
        """A smaller linear layer on the sums of the blocks."""
        if layer.kind != "linear":
            return None
        if tuple(layer.weight.shape) != self.shape:
            raise LayerError(f"{layer.name}: the code is for shape {self.shape}, the weight has {tuple(layer.weight.shape)}")
        count = dense(self.values).shape[1]
        sizes = {"in_features": count, "out_features": self.shape[0]}
        new = like_weight(layer, PooledLinear, layer.module.bias, **sizes, channels=self.channels, side=self.side, by=self.by)
        return Factored(new, template=self)


class PooledLinear(nn.Linear):
    """A linear layer on the sums of ``by x by`` blocks of its inputs, ``channels`` maps of ``side x side``, flattened."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None, *, channels: int,
        side: int, by: int,
    ) -> None:  # fmt: skip
        super().__init__(in_features, out_features, bias, device, dtype)
        self.channels, self.side, self.by = channels, side, by

    def forward(self, input: Tensor) -> Tensor:
        return linear(self.read(input), self.weight, self.bias)

    def read(self, input: Tensor) -> Tensor:
        """What the weight is multiplied with: the sums of the blocks."""
        maps = input.reshape(-1, self.channels, self.side, self.side)
        short = -self.side % self.by
        if short:
            maps = nn.functional.pad(maps, (0, short, 0, short))
        sums = avg_pool2d(maps, self.by) * self.by**2
        return sums.reshape(*input.shape[:-1], self.in_features)


@dataclass(frozen=True)
class Pool(Compressor):
    """The nearest weight that is the same within blocks of neighbouring inputs:

        argmin_v  ||v - w||^2    subject to    v[o, c, i, j] = s[o, c, i // by, j // by]

    for a linear layer whose inputs are ``channels`` square maps, flattened: what an image or the last convolution gives.
    Solved by the means of the blocks. The layer then reads sums of pixels, ``by^2`` times fewer.
    In a chain what is removed or put on a codebook are the blocks' weights.

    Args:
        by: side of a block, in inputs; 1 is the weight itself.
        channels: maps that the layer reads, each of ``inputs / channels`` pixels, a square number.

    Example:
        >>> w = torch.arange(16.0).reshape(1, 16)
        >>> code = Pool(by=2).compress(w)
        >>> code.values
        tensor([[ 2.5000,  4.5000, 10.5000, 12.5000]])
        >>> code.decompress().reshape(4, 4)[0]
        tensor([2.5000, 2.5000, 4.5000, 4.5000])
        >>> [method.by for method in Pool().ladder((300, 784))]
        [16, 8, 4, 2, 1]
    """

    by: int = 2
    channels: int = 1

    def __post_init__(self) -> None:
        if self.by < 1 or self.channels < 1:
            raise TautError(f"{self}: blocks have a side of at least 1 input, and there is at least 1 map")

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        w = check_weight(w, self)
        reason = self._unfit(w.shape)
        if reason:
            raise LayerError(f"{self}: {reason}")
        if self.by == 1:
            return DenseCode(w.clone())
        values = _blocks(w.double(), self.channels, self.by).reshape(len(w), -1).to(w)
        return PoolCode(values, (w.shape[0], w.shape[1]), self.channels, self.by)

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """Blocks of 16, 8, 4 and 2 inputs a side, as far as the maps are larger; then the weight itself."""
        reason = dataclasses.replace(self, by=1)._unfit(shape)
        if reason:
            raise LayerError(f"{self}: {reason}")
        side = isqrt(shape[1] // self.channels)
        return [dataclasses.replace(self, by=by) for by in (16, 8, 4, 2, 1) if by < side or by == 1]

    def refuses(self, layer: Layer) -> str | None:
        if layer.kind != "linear":
            return f"the layer is of kind {layer.kind}; blocks of inputs are those of linear layers"
        return self._unfit(layer.weight.shape)

    def _unfit(self, shape: Sequence[int]) -> str | None:
        if len(shape) != 2:
            return f"a weight of shape {tuple(shape)} is not a linear layer's"
        pixels, rest = divmod(shape[1], self.channels)
        if rest or isqrt(pixels) ** 2 != pixels:
            return f"{shape[1]} inputs are not {self.channels} square maps; say with channels= how many they are"
        if self.by > isqrt(pixels):
            return f"blocks of {self.by} inputs a side are larger than the maps, of {isqrt(pixels)}"
        return None


def _counts(side: int, by: int) -> Tensor:
    """How many inputs each block has."""
    edge = torch.tensor([min(by, side - start) for start in range(0, side, by)], dtype=torch.float64)
    return torch.outer(edge, edge)


def _blocks(w: Tensor, channels: int, by: int) -> Tensor:
    """The means of the blocks, ``(out, channels, blocks, blocks)``."""
    side = isqrt(w.shape[1] // channels)
    maps = w.reshape(len(w), channels, side, side)
    short = -side % by
    padded = nn.functional.pad(maps, (0, short, 0, short))
    return avg_pool2d(padded, by) * by**2 / _counts(side, by).to(w)
