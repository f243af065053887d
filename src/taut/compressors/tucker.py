"""Tucker-2: a convolution as three, the channels narrowed before and widened after a small core."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from taut.compressors.base import Code, Compressor, DenseCode, Stats, check_weight, dense
from taut.compressors.coded import Factored, like_weight
from taut.cost import Cost
from taut.errors import LayerError, TautError
from taut.numeric.truncation import leading_vectors, nice_ranks
from taut.numeric.vbmf import evbmf

if TYPE_CHECKING:
    from taut.layers import Layer

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
SWEEPS = 30
"""Alternations at most; a few are enough."""


@dataclass(frozen=True, eq=False)
class TuckerCode(Code):
    """The weights of three convolutions: ``first (s, in, 1, …)``, ``core (t, s, *kernel)``, ``last (out, t, 1, …)``."""

    first: Tensor | Code
    core: Tensor | Code
    last: Tensor | Code

    def decompress(self) -> Tensor:
        first, core, last = dense(self.first), dense(self.core), dense(self.last)
        widened = (last.flatten(1) @ core.flatten(1)).reshape(last.shape[0], core.shape[1], -1)
        return (first.flatten(1).t() @ widened).reshape(last.shape[0], first.shape[1], *core.shape[2:])

    def cost(self) -> Cost:
        """``in s + s t k + t out`` parameters, and as many MACs per output position.

        With a stride the first convolution runs at more positions than the others; the ledger, which counts the real modules,
        shows it.
        """
        count = sum(dense(part).numel() for part in (self.first, self.core, self.last))
        return Cost(count, count)

    def module(self, layer: Layer) -> nn.Module | None:
        """Three convolutions in a row, the original's stride, padding and dilation on the core; ``None`` for grouped ones."""
        if layer.kind != "conv" or layer.groups != 1:
            return None
        core, conv = dense(self.core), layer.module
        wanted = (dense(self.last).shape[0], dense(self.first).shape[1], *core.shape[2:])
        if tuple(layer.weight.shape) != wanted:
            raise LayerError(f"{layer.name}: the code is for shape {wanted}, the weight has {tuple(layer.weight.shape)}")
        make = CONVOLUTIONS[core.dim() - 2]
        names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        settings: dict[str, Any] = {name: getattr(conv, name) for name in names}
        channels = (wanted[1], core.shape[1], core.shape[0], wanted[0])
        ways = [{"in_channels": a, "out_channels": b} for a, b in zip(channels, channels[1:], strict=False)]
        return Factored(
            like_weight(layer, make, None, **ways[0], kernel_size=1),
            like_weight(layer, make, None, **ways[1], **settings),
            like_weight(layer, make, conv.bias, **ways[2], kernel_size=1),
            template=self,
        )


@dataclass(frozen=True)
class Tucker(Compressor):
    """The approximation of a convolution's weight by a core with fewer channels on both sides (Tucker-2):

        argmin_v  ||v - w||^2    subject to    v = core x_in first x_out last,   core (rank_out, rank_in, *kernel)

    which is a 1 x 1 convolution to ``rank_in`` channels, one with the kernel to ``rank_out``, and a 1 x 1 to all outputs (Kim et
    al., *Compression of deep convolutional neural networks for fast and low power mobile applications*, ICLR 2016, arXiv
    1511.06530). Solved by alternation (higher-order orthogonal iteration) from the truncated higher-order singular value
    decomposition: never worse than that, yet a local optimum, so neither surely the best nor surely monotone along the ladder.
    ``first`` and ``last`` have orthonormal rows and columns. At full ranks the code is the dense weight itself.

    Args:
        rank_in: channels that enter the core, at most the input channels.
        rank_out: channels that leave it, at most the output channels.

    Example:
        >>> w = torch.randn(64, 32, 3, 3)
        >>> code = Tucker(rank_in=8, rank_out=16).compress(w)
        >>> code.first.shape, code.core.shape, code.last.shape, code.cost().parameters
        (torch.Size([8, 32, 1, 1]), torch.Size([16, 8, 3, 3]), torch.Size([64, 16, 1, 1]), 2432)
        >>> [(method.rank_in, method.rank_out) for method in Tucker().ladder((12, 6, 3, 3))]
        [(1, 1), (1, 2), (2, 3), (2, 4), (3, 6), (4, 8), (6, 12)]
    """

    rank_in: int = 8
    rank_out: int = 8
    monotone: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if min(self.rank_in, self.rank_out) < 1:
            raise TautError(f"{self}: the ranks must be at least 1")

    @classmethod
    def by_vbmf(cls, w: Tensor) -> Tucker:
        """The ranks that Kim et al. choose: those of the weight's two unfoldings by variational Bayes, at least 1.

        Example:
            >>> draw = torch.Generator().manual_seed(0)
            >>> w = Tucker(3, 5).compress(torch.randn(40, 30, 3, 3, generator=draw)).decompress()
            >>> Tucker.by_vbmf(w + 0.02 * torch.randn(w.shape, generator=draw))
            Tucker(rank_in=3, rank_out=5)
        """
        reason = _unfit(w.shape)
        if reason:
            raise LayerError(f"Tucker: {reason}")
        tensor = w.detach().flatten(2)
        ranks = [evbmf(tensor.movedim(axis, 0).flatten(1)).rank for axis in (1, 0)]
        return cls(*(max(1, rank) for rank in ranks))

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        w = check_weight(w, self)
        reason = self._unfit(w.shape)
        if reason:
            raise LayerError(f"{self}: {reason}")
        if (self.rank_out, self.rank_in) == tuple(w.shape[:2]):
            return DenseCode(w.clone())
        device = "cpu" if w.device.type == "mps" else w.device  # the one device without double precision
        scale = w.abs().max().to(device, torch.float64).clamp(min=torch.finfo(torch.float64).tiny)
        inner, core, outer = hooi(w.to(device, torch.float64).flatten(2) / scale, self.rank_in, self.rank_out)
        ones = [1] * (w.dim() - 2)
        core = (core * scale).reshape(*core.shape[:2], *w.shape[2:])
        first, last = inner.t().reshape(*inner.t().shape, *ones), outer.reshape(*outer.shape, *ones)
        return TuckerCode(*(part.to(w).contiguous() for part in (first, core, last)))

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """Both ranks in the proportion of the channels, as far as they save parameters; then full ranks."""
        reason = _unfit(shape)
        if reason:
            raise LayerError(f"{self}: {reason}")
        out, inp = shape[:2]
        large = max(out, inp)
        pairs = [(ceil(inp * r / large), ceil(out * r / large)) for r in nice_ranks(large)]
        pairs = [pair for pair in pairs if _count(shape, *pair) < prod(shape)]
        return [dataclasses.replace(self, rank_in=a, rank_out=b) for a, b in [*pairs, (inp, out)]]

    def refuses(self, layer: Layer) -> str | None:
        shape = layer.weight.shape
        if layer.kind != "conv" or layer.groups != 1:
            kind = layer.kind if layer.kind != "conv" else f"convolution with {layer.groups} groups"
            return f"Tucker-2 is for convolutions without groups, this is a {kind}; use LowRank or Codebook"
        count = _count(shape, self.rank_in, self.rank_out)
        if reason := self._unfit(shape):
            return reason
        if count >= prod(shape):
            return f"{self} would hold {count:,} parameters, the dense layer has {prod(shape):,}"
        return None

    def _unfit(self, shape: Sequence[int]) -> str | None:
        if reason := _unfit(shape):
            return reason
        if self.rank_out > shape[0] or self.rank_in > shape[1]:
            return f"its ranks are above the {shape[1]} inputs and {shape[0]} outputs of the weight"
        return None


def _unfit(shape: Sequence[int]) -> str | None:
    if not 3 <= len(shape) <= 5:
        return f"a weight of shape {tuple(shape)} is not a convolution's; use LowRank or Codebook for it"
    return None


def _count(shape: Sequence[int], rank_in: int, rank_out: int) -> int:
    return shape[1] * rank_in + rank_in * rank_out * prod(shape[2:]) + rank_out * shape[0]


def hooi(tensor: Tensor, rank_in: int, rank_out: int) -> tuple[Tensor, Tensor, Tensor]:
    """Orthonormal ``(in, rank_in)``, the core ``(rank_out, rank_in, k)`` and orthonormal ``(out, rank_out)`` of ``(out, in, k)``.

    Each step takes the best basis of one side given the other, so that the energy of the core never falls.
    """
    inner = leading_vectors(tensor.movedim(1, 0).flatten(1), rank_in)
    outer = leading_vectors(tensor.flatten(1), rank_out)
    energy = torch.zeros((), dtype=tensor.dtype, device=tensor.device)
    for _ in range(SWEEPS):
        outer = leading_vectors((inner.t() @ tensor).flatten(1), rank_out)
        narrowed = torch.einsum("ot,oik->itk", outer, tensor)
        inner = leading_vectors(narrowed.flatten(1), rank_in)
        core = torch.einsum("is,itk->tsk", inner, narrowed)
        before, energy = energy, core.square().sum()
        if energy <= before * (1 + 1e-12):
            break
    return inner, core, outer
