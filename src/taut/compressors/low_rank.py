"""Low rank: a weight as the product of two thin ones, a layer as two small layers in a row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from taut.compressors.base import Code, Compressor, DenseCode, Stats, check_weight, dense, moments_of
from taut.compressors.coded import Factored, bare_linear, like_weight
from taut.cost import Cost
from taut.errors import LayerError, TautError
from taut.numeric.truncation import nice_ranks, truncate, truncate_products
from taut.views import view

if TYPE_CHECKING:
    from taut.layers import Layer

CONVOLUTIONS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}


@dataclass(frozen=True, eq=False)
class LowRankCode(Code):
    """Two factors in the layouts of the two real layers they become, narrow one first.

    Linear: ``first (r, in)``, ``second (out, r)``. Convolution, scheme 1: ``first (r, in, *kernel)``, ``second (out, r, 1, …)``.
    Scheme 2, two dimensions: ``first (r, in, 1, width)``, ``second (out, r, height, 1)``.
    """

    first: Tensor | Code
    second: Tensor | Code
    shape: tuple[int, ...]
    scheme: int = 1

    @classmethod
    def blank(cls, shape: Sequence[int], rank: int, scheme: int = 1) -> LowRankCode:
        """Factors of zeros: what a weight of this shape would cost at this rank, before any decomposition.

        Example:
            >>> LowRankCode.blank((64, 32, 3, 3), rank=8, scheme=2).cost().parameters
            2304
        """
        scheme = scheme if len(shape) == 4 else 1
        m, n = matrix_shape(shape, scheme)
        first, second = _layouts(torch.zeros(m, rank), torch.zeros(rank, n), torch.Size(shape), scheme)
        return cls(first, second, tuple(shape), scheme)

    def decompress(self) -> Tensor:
        first, second = dense(self.first), dense(self.second)
        rank = second.shape[1]
        if self.scheme == 2:
            left = second.squeeze(-1).transpose(1, 2).reshape(-1, rank)
        else:
            left = second.reshape(-1, rank)
        product = left @ first.reshape(rank, -1)
        return view(_view_name(self.scheme)).back(product, torch.Size(self.shape))

    def cost(self) -> Cost:
        """``r (m + n)`` parameters for an ``(m, n)`` matrix, and as many MACs per output position.

        With scheme 2 and a stride in height, the first convolution runs at more positions than the second; the ledger, which
        counts the real modules, shows it.
        """
        rank = dense(self.second).shape[1]
        count = rank * sum(matrix_shape(self.shape, self.scheme))
        return Cost(count, count)

    def module(self, layer: Layer) -> nn.Module | None:
        """Two layers in a row, or ``None`` where there are none: grouped convolutions, embeddings, recurrent weights."""
        if layer.groups != 1 or layer.kind not in ("linear", "conv", "hf_conv1d"):
            return None
        if tuple(layer.weight.shape) != self.shape:
            raise LayerError(f"{layer.name}: the code is for shape {self.shape}, the weight has {tuple(layer.weight.shape)}")
        rank, bias = dense(self.second).shape[1], layer.module.bias
        if layer.kind == "conv":
            layers = _two_convolutions(layer, rank, self.scheme)
        else:
            out, inp = self.shape
            layers = bare_linear(layer, inp, rank, None), bare_linear(layer, rank, out, bias)
        return Factored(*layers, template=self, transposed=layer.kind == "hf_conv1d")


@dataclass(frozen=True)
class LowRank(Compressor):
    """The best approximation of a given rank:

        argmin_v  ||v - w||^2    subject to  rank(M(v)) <= rank

    where ``M`` shows a weight as a matrix ``(m, n)``. Scheme 1: ``(out, in * kernel)``, for a convolution one with ``rank``
    filters of the full kernel, then a 1 x 1. Scheme 2, for 2-D convolutions (other weights take scheme 1): ``(out * height,
    in * width)``, a row of width, then a column of height. Solved by the singular value decomposition (Eckart and Young 1936);
    the schemes are those of Idelbayev and Carreira-Perpinan, "Low-rank compression of neural nets: learning the rank of each
    layer", CVPR 2020. The square roots of the singular values go to both factors, so that both train alike.

    By activation it is the layer's *outputs* on data that are to stay what they are:

        argmin_v  E ||(M(v) - M(w)) x||^2    subject to  rank(M(v)) <= rank

    with the second moments ``E x x^T`` of the inputs (of the unfolded patches of a convolution), which takes scheme 1: truncate
    the decomposition of ``M(w) S`` with ``S S^T = E x x^T`` and take ``S`` out again (SVD-LLM, Wang et al. 2024, arXiv
    2403.07378; :func:`taut.numeric.truncation.truncate_products`). :func:`taut.apply` measures the moments on its ``data``.

    At full rank, ``min(m, n)``, the set holds every weight: the code is then the dense weight itself, without error, at
    ``m n`` parameters.

    Args:
        rank: at least 1, at most ``min(m, n)``.
        scheme: 1 or 2.
        by: ``"weight"`` or ``"activation"`` (needs ``stats.inputs``).

    Example:
        >>> w = torch.outer(torch.arange(1.0, 6), torch.arange(1.0, 5))
        >>> code = LowRank(rank=1).compress(w)
        >>> code.first.shape, code.second.shape, code.cost().parameters
        (torch.Size([1, 4]), torch.Size([5, 1]), 9)
        >>> torch.allclose(code.decompress(), w)
        True
        >>> [method.rank for method in LowRank().ladder((300, 100))]
        [1, 2, 3, 4, 6, 8, 16, 24, 32, 48, 64, 100]
    """

    rank: int = 8
    scheme: int = 1
    by: str = "weight"
    optimal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise TautError(f"{self}: the rank must be at least 1")
        if self.scheme not in (1, 2):
            raise TautError(f"{self}: the scheme must be 1 or 2")
        if self.by not in ("weight", "activation"):
            raise TautError(f"{self}: by must be 'weight' or 'activation'")
        if self.by == "activation" and self.scheme == 2:
            raise TautError(f"{self}: outputs are products with the matrix of scheme 1; use scheme=1, or by='weight'")

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        w = check_weight(w, self)
        reason = self._unfit(w.shape)
        if reason:
            raise LayerError(f"{self}: {reason}")
        scheme = self._scheme(w.shape)
        matrix = view(_view_name(scheme)).see(w)
        if self.rank == min(matrix.shape):
            return DenseCode(w.clone())
        if self.by == "activation":
            left, right = truncate_products(matrix, moments_of(stats, w, self), self.rank)
        else:
            left, right = truncate(matrix, self.rank)
        first, second = _layouts(left, right, w.shape, scheme)
        return LowRankCode(first.to(w), second.to(w), tuple(w.shape), scheme)

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """Ranks 1, 2, 3, 4, 6, 8, then multiples of 8 (runtimes want those), as far as they save parameters; then full rank."""
        if len(shape) < 2:
            raise LayerError(f"{self}: {self._unfit(shape)}")
        m, n = matrix_shape(shape, self._scheme(shape))
        ranks = [r for r in nice_ranks(min(m, n)) if r * (m + n) < m * n]
        return [dataclasses.replace(self, rank=r) for r in [*ranks, min(m, n)]]

    def refuses(self, layer: Layer) -> str | None:
        shape = layer.weight.shape
        if layer.groups != 1:
            return f"the convolution has {layer.groups} groups; low rank needs one"
        if self.by == "activation" and layer.kind in ("embedding", "recurrent"):
            return f"the inputs of {layer.kind} weights are not measured; use by='weight'"
        reason = self._unfit(shape)
        if reason:
            return reason
        m, n = matrix_shape(shape, self._scheme(shape))
        if self.rank * (m + n) >= m * n:
            return f"rank {self.rank} would hold {self.rank * (m + n):,} parameters, the dense layer has {m * n:,}"
        return None

    def needs_inputs(self) -> bool:
        return self.by == "activation"

    def _scheme(self, shape: Sequence[int]) -> int:
        return self.scheme if len(shape) == 4 else 1

    def _unfit(self, shape: Sequence[int]) -> str | None:
        if len(shape) < 2:
            return f"a weight of shape {tuple(shape)} is not a matrix; use Codebook or Quantize for it"
        limit = min(matrix_shape(shape, self._scheme(shape)))
        if self.rank > limit:
            return f"rank {self.rank} is above {limit}, the full rank of a weight of shape {tuple(shape)}"
        return None


def matrix_shape(shape: Sequence[int], scheme: int) -> tuple[int, int]:
    """The shape of the matrix that a scheme sees.

    Example:
        >>> matrix_shape((64, 32, 3, 5), 1), matrix_shape((64, 32, 3, 5), 2)
        ((64, 480), (192, 160))
    """
    if scheme == 2:
        return shape[0] * shape[2], shape[1] * shape[3]
    return shape[0], prod(shape[1:])


def _view_name(scheme: int) -> str:
    return "matrix2" if scheme == 2 else "matrix"


def _layouts(left: Tensor, right: Tensor, shape: torch.Size, scheme: int) -> tuple[Tensor, Tensor]:
    """The factors as the weights of the two layers."""
    rank = right.shape[0]
    if scheme == 2:
        out, inp, height, width = shape
        first = right.reshape(rank, inp, 1, width)
        return first.contiguous(), left.reshape(out, height, rank).transpose(1, 2).unsqueeze(-1).contiguous()
    first = right.reshape(rank, *shape[1:])
    return first.contiguous(), left.reshape(shape[0], rank, *[1] * (len(shape) - 2)).contiguous()


def _two_convolutions(layer: Layer, rank: int, scheme: int) -> tuple[nn.Module, nn.Module]:
    """Where the stride, the padding and the dilation go: all to the first (scheme 1), or width first, height second."""
    conv: Any = layer.module
    settings = {name: getattr(conv, name) for name in ("kernel_size", "stride", "padding", "dilation")}
    if scheme == 2:
        first = {name: _along(name, value, axis=1) for name, value in settings.items()}
        second = {name: _along(name, value, axis=0) for name, value in settings.items()}
    else:
        first, second = settings, {"kernel_size": 1}
    make = CONVOLUTIONS[len(settings["kernel_size"]) + 2]
    mode = {"padding_mode": conv.padding_mode}
    return (
        like_weight(layer, make, None, in_channels=conv.in_channels, out_channels=rank, **first, **mode),
        like_weight(layer, make, conv.bias, in_channels=rank, out_channels=conv.out_channels, **second, **mode),
    )


def _along(name: str, value: Any, axis: int) -> Any:
    """A 2-D setting for one axis alone; ``"same"`` and ``"valid"`` hold for both."""
    if isinstance(value, str):
        return value
    neutral = 0 if name == "padding" else 1
    return (value[0], neutral) if axis == 0 else (neutral, value[1])
