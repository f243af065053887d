"""Columns: a layer that reads only some of its inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from taut.compressors.base import Code, Compressor, DenseCode, Stats, check_weight, dense, moments_of
from taut.compressors.coded import Factored, bare_linear
from taut.cost import Cost
from taut.errors import LayerError, TautError
from taut.numeric.elimination import fewer_columns
from taut.numeric.truncation import nice_ranks

if TYPE_CHECKING:
    from taut.layers import Layer


class Narrow(Factored):
    """A layer behind a choice of its inputs."""

    def __init__(self, layer: nn.Module, template: ColumnsCode, transposed: bool = False) -> None:
        super().__init__(layer, template=template, transposed=transposed)
        # no part of the state: the code holds it
        self.register_buffer("chosen", template.read.nonzero().flatten(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for the inputs it reads, ``x (..., in)``."""
        return super().forward(x.index_select(-1, self.chosen))


@dataclass(frozen=True, eq=False)
class ColumnsCode(Code):
    """``value (out, k)``, the columns that are kept, and which inputs they ``read``, boolean ``(in,)``."""

    value: Tensor | Code
    read: Tensor

    def decompress(self) -> Tensor:
        value = dense(self.value)
        places = self.read.nonzero().flatten().to(value.device)
        return value.new_zeros(value.shape[0], len(self.read)).index_copy(1, places, value)

    def cost(self) -> Cost:
        """Those of the kept columns, or of the code they have."""
        if isinstance(self.value, Code):
            return self.value.cost()
        return Cost(self.value.numel(), self.value.numel())

    def part_stats(self, stats: Stats | None) -> dict[str, Stats | None]:
        if stats is None:
            return {}
        fisher = None if stats.fisher is None else stats.fisher[:, self.read]
        inputs = None if stats.inputs is None else stats.inputs[self.read][:, self.read]
        return {"value": Stats(fisher, inputs)}

    def module(self, layer: Layer) -> nn.Module | None:
        """A choice of the inputs and a smaller layer, itself in factors where its code is; ``None`` for embeddings and such."""
        if layer.kind not in ("linear", "hf_conv1d"):
            return None
        value = dense(self.value)
        shape = (value.shape[0], len(self.read))
        if tuple(layer.weight.shape) != shape:
            raise LayerError(f"{layer.name}: the code is for shape {shape}, the weight has {tuple(layer.weight.shape)}")
        inner = bare_linear(layer, value.shape[1], value.shape[0], layer.module.bias)
        part = self.value
        cheaper = part.module(dataclasses.replace(layer, module=inner, kind="linear")) if isinstance(part, Code) else None
        return Narrow(cheaper or inner, self, transposed=layer.kind == "hf_conv1d")


@dataclass(frozen=True)
class Columns(Compressor):
    """Some of a layer's inputs are not read at all: the nearest weight with few columns that are not zero.

        argmin_v  ||v - w||^2    subject to    at most  inputs * n  columns of v (m, n) are not zero

    Solved by keeping the columns of largest norm. By activation it is the layer's outputs on data that are to stay,
    ``argmin_v E ||(v - w) x||^2``: the columns that are kept then take over what the others did, as far as the inputs go
    together (pixels next to one another). Which columns go is then decided greedily, so neither surely the best
    (:func:`taut.numeric.elimination.fewer_columns`).

    It is what low rank lacks at high ratios: factors of rank ``r`` hold ``r (m + n)`` numbers, and a network whose first layer
    reads 784 pixels spends most of them on pixels that hardly say anything. ``Chain(Columns(0.4), LowRank(18))`` is both. For
    inputs that other layers make, and for channels of convolutions, :func:`taut.shrink` removes the units themselves.

    Args:
        inputs: the share of the inputs that is read, above 0 and at most 1; 1 is the dense weight itself.
        by: ``"magnitude"`` or ``"activation"`` (needs ``stats.inputs``).

    Example:
        >>> w = torch.tensor([[3.0, 0.1, 0.0, 2.0], [1.0, 0.2, 0.3, 2.0]])
        >>> code = Columns(inputs=0.5).compress(w)
        >>> code.read.tolist(), code.value.shape, code.cost().parameters
        ([True, False, False, True], torch.Size([2, 2]), 4)
    """

    inputs: float = 0.5
    by: str = "magnitude"

    # by magnitude it is the best; by activation it is found greedily
    optimal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.inputs <= 1:
            raise TautError(f"{self}: inputs is the share that is read, above 0 and at most 1")
        if self.by not in ("magnitude", "activation"):
            raise TautError(f"{self}: by must be 'magnitude' or 'activation'")

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        w = check_weight(w, self)
        if w.dim() != 2:
            raise LayerError(f"{self}: {_unfit(w.shape)}")
        count = self._count(w.shape[1])
        if count == w.shape[1]:
            return DenseCode(w.clone())
        if self.by == "activation":
            read, value, _ = next(fewer_columns(w, moments_of(stats, w, self), [count]))
            return ColumnsCode(value.to(w), read)
        # in double precision, of values near one: squares of tiny weights are no numbers
        norms = (w.double() / w.abs().max().double().clamp(min=torch.finfo(torch.float64).tiny)).norm(dim=0)
        read = torch.zeros(w.shape[1], dtype=torch.bool, device=w.device)
        read[norms.argsort(descending=True, stable=True)[:count]] = True
        return ColumnsCode(w[:, read].contiguous(), read)

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """One input, two, three, four, six, … about two rungs for each factor 2, then all."""
        if len(shape) != 2:
            raise LayerError(f"{self}: {_unfit(shape)}")
        return [dataclasses.replace(self, inputs=k / shape[1]) for k in (*nice_ranks(shape[1]), shape[1])]

    def refuses(self, layer: Layer) -> str | None:
        if layer.weight.dim() != 2:
            return _unfit(layer.weight.shape)
        if self.by == "activation" and layer.kind not in ("linear", "hf_conv1d"):
            return f"the inputs of {layer.kind} weights are not measured; use by='magnitude'"
        return None

    def needs_inputs(self) -> bool:
        return self.by == "activation"

    def _count(self, size: int) -> int:
        return max(1, round(self.inputs * size))


def _unfit(shape: Sequence[int]) -> str:
    return f"a weight of shape {tuple(shape)} is not a matrix; remove channels with taut.shrink, or use LowRank"
