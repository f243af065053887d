"""The two nouns every compression method is made of: a frozen ``Compressor`` and the ``Code`` it returns.

A :class:`Code` is what is stored instead of a weight. Its floating-point tensors are *free*: recovery trains them. Its integer
and boolean tensors are *structure*: they stay. A field may itself be a code (low rank, then a codebook on the factors), so a
code is a tree, and everything that works on codes (codec, training, export) walks that tree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from taut.cost import Cost
from taut.errors import LayerError
from taut.registry import register

if TYPE_CHECKING:
    from taut.layers import Layer

Part = "Tensor | Code"


@dataclass(frozen=True)
class Stats:
    """What is known of a weight besides its values.

    ``fisher``: mean squared gradient per element, of the weight's shape; ``inputs``: second moments of the layer's inputs,
    ``(in, in)``, for a convolution of its unfolded patches, ``(in * kernel, in * kernel)``.
    """

    fisher: Tensor | None = None
    inputs: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Code:
    """What is stored instead of a weight. Subclasses are frozen dataclasses; subclassing registers the class by its name."""

    registry: ClassVar[dict[str, type[Code]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register(Code.registry, cls)

    def decompress(self) -> Tensor:
        """The dense weight; differentiable in the free tensors."""
        raise NotImplementedError(f"{type(self).__name__} must define decompress()")

    def like(self) -> tuple[tuple[int, ...], torch.dtype] | None:
        """Shape and dtype of the dense weight, where those of the fields tell; ``None``: where it has to be worked out.

        A reader of files asks before it decodes. Working it out takes torch a few seconds, the first time.
        """
        return None

    def cost(self) -> Cost:
        """Parameters the module holds and MACs per use; dense unless a subclass has a cheaper :meth:`module`."""
        count = self.decompress().numel()
        return Cost(count, count)

    def module(self, layer: Layer) -> nn.Module | None:
        """A cheaper module that computes the same product, or ``None``: the layer stays, its weight is decoded."""
        return None

    @property
    def binary(self) -> bool:
        """Whether each row of the weight is one scale times signs: a layer with such a code takes no other."""
        return False

    def cut(self, dim: int, keep: Tensor) -> Code | None:
        """The code of the weight with only the places ``keep`` (indices) along ``dim``; ``None`` where it has to be made anew."""
        return None

    def part_stats(self, stats: Stats | None) -> dict[str, Stats | None]:
        """The statistics of each part, where they follow from the weight's; used by chains."""
        return {}

    def fields(self) -> dict[str, Any]:
        """The dataclass fields in order: all that a file has to hold."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def parts(self) -> dict[str, Tensor | Code]:
        """The fields that are free tensors or codes: what a chain may compress further."""
        return {name: value for name, value in self.fields().items() if isinstance(value, Code) or is_free(value)}

    def free(self) -> Iterator[Tensor]:
        """All free (floating-point) tensors of the tree, depth first."""
        for value in self.parts().values():
            if isinstance(value, Code):
                yield from value.free()
            else:
                yield value

    def with_free(self, tensors: Sequence[Tensor]) -> Code:
        """The same structure around other free tensors, in the order of :meth:`free`."""
        return self._rebuild(iter(tensors))

    def _rebuild(self, tensors: Iterator[Tensor]) -> Code:
        changes = {
            name: value._rebuild(tensors) if isinstance(value, Code) else next(tensors) for name, value in self.parts().items()
        }
        return dataclasses.replace(self, **changes)

    def equals(self, other: Any) -> bool:
        """Bitwise equality of two code trees: class, structure, dtypes, shapes and every bit of every tensor."""
        if type(self) is not type(other):
            return False
        return all(_same(a, b) for a, b in zip(self.fields().values(), other.fields().values(), strict=True))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Code):
        return a.equals(b)
    if isinstance(a, Tensor):
        if not isinstance(b, Tensor) or a.dtype != b.dtype or a.shape != b.shape:
            return False
        # as bytes, so that NaN equals itself and 0.0 differs from -0.0
        return a.numel() == 0 or torch.equal(_bytes(a), _bytes(b))
    return type(a) is type(b) and a == b


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def is_free(value: Any) -> bool:
    """Whether a field is a floating-point tensor, which recovery trains."""
    return isinstance(value, Tensor) and value.is_floating_point()


def dense(part: Tensor | Code) -> Tensor:
    """A part as a dense tensor."""
    return part.decompress() if isinstance(part, Code) else part


@dataclass(frozen=True, eq=False)
class Compressor:
    """A method at one setting. Subclasses are frozen dataclasses whose fields all have defaults.

    Class flags say where a law holds only approximately; the docs show them. ``idempotent``: compressing the decompressed
    weight gives it back; ``monotone``: along :meth:`ladder` the error never rises; ``optimal``: no rival on the same rung
    has a smaller squared error.
    """

    registry: ClassVar[dict[str, type[Compressor]]] = {}
    idempotent: ClassVar[bool] = True
    monotone: ClassVar[bool] = True
    optimal: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register(Compressor.registry, cls)

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        """The code of ``w`` in this set; ``w`` is not changed."""
        raise NotImplementedError(f"{type(self).__name__} must define compress()")

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """Settings for a weight of this shape, from cheapest to dense."""
        raise NotImplementedError(f"{type(self).__name__} must define ladder()")

    def relaxed(self) -> Compressor | None:
        """The larger set that recovery trains in before the weight is put into this one; ``None``: all weights.

        A chain's is its first step: pruned weights are trained as they are, and only then put onto a codebook.
        """
        return self

    def refuses(self, layer: Layer) -> str | None:
        """Why this layer cannot take the method, in words for the user; ``None`` when it can."""
        return None

    def needs_stats(self) -> bool:
        """Whether :meth:`compress` wants the Fisher information (so that data must be given)."""
        return False

    def needs_inputs(self) -> bool:
        """Whether :meth:`compress` wants the second moments of the layer's inputs (so that data must be given)."""
        return False

    def __str__(self) -> str:
        values = ", ".join(f"{f.name}={_short(getattr(self, f.name))}" for f in dataclasses.fields(self))
        return f"{type(self).__name__}({values})"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def check_weight(w: Tensor, method: Compressor) -> Tensor:
    """``w`` detached, after the checks every method needs: floating point, not empty, finite."""
    if not w.is_floating_point():
        raise LayerError(f"{method}: the weight has dtype {w.dtype}; convert it to a floating-point type first")
    if w.numel() == 0:
        raise LayerError(f"{method}: the weight of shape {tuple(w.shape)} is empty")
    if not bool(torch.isfinite(w).all()):
        bad = int((~torch.isfinite(w)).sum())
        raise LayerError(f"{method}: {bad} of {w.numel()} weights are NaN or infinite; check the checkpoint or the training run")
    return w.detach()


def fisher_of(stats: Stats | None, w: Tensor, method: Compressor) -> Tensor:
    """The Fisher information of ``w``, after the checks a method that weights by it needs."""
    if stats is None or stats.fisher is None:
        raise LayerError(f"{method}: needs the Fisher information of the weight; give data to estimate it, or use by='magnitude'")
    if stats.fisher.shape != w.shape:
        raise LayerError(f"{method}: the Fisher information has shape {tuple(stats.fisher.shape)}, the weight {tuple(w.shape)}")
    fisher = stats.fisher.detach().to(w.device)
    if not bool((torch.isfinite(fisher) & (fisher >= 0)).all()):
        raise LayerError(f"{method}: the Fisher information holds NaN, infinite or negative values; estimate it on finite data")
    return fisher


def moments_of(stats: Stats | None, w: Tensor, method: Compressor) -> Tensor:
    """The second moments of the inputs that ``w`` is multiplied with, after the checks a method that weights by them needs."""
    if stats is None or stats.inputs is None:
        raise LayerError(f"{method}: needs the second moments of the layer's inputs; give data to measure them on")
    size = w[0].numel()
    if stats.inputs.shape != (size, size):
        shapes = f"{tuple(stats.inputs.shape)}, a weight {tuple(w.shape)} needs {(size, size)}"
        raise LayerError(f"{method}: the inputs' second moments have shape {shapes}")
    moments = stats.inputs.detach().to(w.device)
    if not bool(torch.isfinite(moments).all() & (moments.diagonal() >= 0).all()):
        raise LayerError(f"{method}: the inputs' second moments are NaN, infinite or negative; measure them on finite data")
    return moments


@dataclass(frozen=True, eq=False)
class DenseCode(Code):
    """A tensor stored as it is."""

    value: Tensor | Code

    def decompress(self) -> Tensor:
        return dense(self.value)

    def part_stats(self, stats: Stats | None) -> dict[str, Stats | None]:
        return {"value": stats}


@dataclass(frozen=True, eq=False)
class TransposedCode(Code):
    """The code of a weight that its layer keeps input first (Hugging Face's ``Conv1D``)."""

    part: Tensor | Code

    @property
    def binary(self) -> bool:
        return isinstance(self.part, Code) and self.part.binary

    def decompress(self) -> Tensor:
        return dense(self.part).t()

    def cost(self) -> Cost:
        return self.part.cost() if isinstance(self.part, Code) else super().cost()

    def module(self, layer: Layer) -> nn.Module | None:
        return self.part.module(layer) if isinstance(self.part, Code) else None
