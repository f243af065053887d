"""Binary weights: each row is one scale times signs, one bit a weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from taut.binary import signs
from taut.compressors.base import Code, Compressor, Stats, check_weight, dense
from taut.cost import Cost
from taut.errors import LayerError, TautError
from taut.numeric.patterns import codebook

if TYPE_CHECKING:
    from taut.layers import Layer

SCALES = ("none", "tensor", "row")
DIGITS = 8  # binary digits of a scale


@dataclass(frozen=True, eq=False)
class BinaryCode(Code):
    """Whether each weight is ``positive``, boolean of its shape, and the ``scales``: one a row ``(rows,)``, or ``()``."""

    scales: Tensor | Code
    positive: Tensor

    @property
    def binary(self) -> bool:
        return True

    def decompress(self) -> Tensor:
        return scaled(dense(self.scales), self.positive)

    def cost(self) -> Cost:
        """Dense: the layer computes with decoded weights. What signs save is bytes, and time in :mod:`taut.xnor`."""
        return Cost(self.positive.numel(), self.positive.numel())

    def cut(self, dim: int, keep: Tensor) -> Code | None:
        scales = cut_scales(self.scales, dim, keep)
        return None if scales is None else BinaryCode(scales, self.positive.index_select(dim, keep.to(self.positive.device)))


@dataclass(frozen=True)
class Binary(Compressor):
    """Signs, and one scale for each row (filter):

        argmin_{a, s}  sum_i (a_row(i) s_i - w_i)^2    subject to  s_i in {-1, 1},  a_row >= 0 of 8 binary digits

    Solved by ``s = sign(w)`` and ``a`` the mean of ``|w|`` over the row, rounded (Rastegari et al. 2016, *XNOR-Net*, ECCV,
    arXiv 1603.05279, equation 6; the sign of zero is +1). With so few digits in a scale, all sums of up to 65,536 products with
    signs are exact in single precision, in any order: a kernel that counts bits gives the float network's outputs bit for bit
    (:mod:`taut.xnor`). And a scale takes two bytes.

    After training alone the error is large; networks are trained to be binary: :class:`taut.parametrizations.Binary`. A layer
    that has these weights takes no method that would leave the set.

    Args:
        scale: one for each ``"row"``, one for the ``"tensor"``, or ``"none"``: 1, which only a batch norm behind the layer mends.

    Example:
        >>> code = Binary().compress(torch.tensor([[0.5, -1.0, 1.5], [0.25, 0.25, 0.0]]))
        >>> code.scales, code.positive.tolist()
        (tensor([1.0000, 0.1670]), [[True, False, True], [True, True, True]])
    """

    scale: str = "row"
    optimal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_scale(self, self.scale)

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        w = check_weight(w, self)
        return BinaryCode(fitted(w, signs(w), self.scale), w >= 0)

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """One scale, then one a row."""
        return [dataclasses.replace(self, scale=scale) for scale in SCALES[1:]]

    def relaxed(self) -> Compressor | None:
        return None


@dataclass(frozen=True, eq=False)
class BinaryKernelsCode(Code):
    """The kernels that occur, ``kernels (k, *kernel)``, boolean (true: +1), for each filter and channel which of them it has,
    ``indices (out, in)``, and the ``scales``: one a filter ``(out,)``, or ``()``.
    """

    scales: Tensor | Code
    kernels: Tensor
    indices: Tensor

    @property
    def binary(self) -> bool:
        return True

    def decompress(self) -> Tensor:
        positive = self.kernels.index_select(0, self.indices.reshape(-1).int())
        return scaled(dense(self.scales), positive.reshape(*self.indices.shape, *self.kernels.shape[1:]))

    def cost(self) -> Cost:
        """Dense: the layer computes with decoded weights. What shared kernels save is bytes."""
        count = self.indices.numel() * prod(self.kernels.shape[1:])
        return Cost(count, count)

    def cut(self, dim: int, keep: Tensor) -> Code | None:
        scales = cut_scales(self.scales, dim, keep)
        if scales is None or dim > 1:
            return None
        return BinaryKernelsCode(scales, self.kernels, self.indices.index_select(dim, keep.to(self.indices.device)))


@dataclass(frozen=True)
class BinaryKernels(Compressor):
    """Binary kernels of a convolution that repeat: of the 512 there are of 3x3 signs, only ``k`` are used.

        argmin_{a, c, C}  sum_oi ||a_o c_oi - w_oi||^2    subject to  c_oi in C,  C a set of at most k kernels of signs

    over filters ``o`` and channels ``i`` (Wang et al. 2021, *Sub-bit neural networks*, ICCV, arXiv 2110.09195). The indices are
    entropy-coded, so a weight costs at most ``log2(k) / 9`` bits, and weights stay binary. Approximate: the codebook grows by
    the kernels that gain most, then nearest kernels and weighted majorities take turns (:mod:`taut.numeric.patterns`); for
    weights that are binary already, the error is the Hamming distance weighted by the squared scales. With ``k`` no less than the
    kernels that occur, binary weights stay what they are.

    Args:
        k: how many kernels, 1 to 32,768.
        scale: as for :class:`Binary`.

    Example:
        >>> w = torch.tensor([[1.0, 1.0, 1.0], [0.5, 1.0, -0.1], [-1.0, -1.0, -1.0]]).reshape(3, 1, 3)
        >>> code = BinaryKernels(k=2, scale="none").compress(w)
        >>> code.kernels.tolist(), code.indices.flatten().tolist()
        ([[True, True, True], [False, False, False]], [0, 0, 1])
    """

    k: int = 32
    scale: str = "row"

    # more kernels fit binary weights no worse; of real weights the scales are fitted last
    monotone: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_scale(self, self.scale)
        if not 1 <= self.k <= 2**15:
            raise TautError(f"{self}: k must be from 1 to {2**15:,}")

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        w = check_weight(w, self)
        if reason := unfit(w.shape):
            raise LayerError(f"{self}: {reason}")
        wide = w.cpu().double()
        # near one: products of tiny weights are no numbers
        wide = wide / wide.abs().max().clamp(min=torch.finfo(w.dtype).tiny)
        weight = wide.abs().reshape(len(w), -1).mean(1) if self.scale == "row" else wide.new_ones(len(w))
        kernels = (wide * weight.reshape(-1, *[1] * (w.dim() - 1))).reshape(prod(w.shape[:2]), -1)
        book, index = codebook(kernels.numpy(), self.k)
        positive = torch.from_numpy(book > 0).reshape(-1, *w.shape[2:])
        indices = torch.from_numpy(index).reshape(w.shape[:2]).to(torch.uint8 if len(book) <= 256 else torch.int16)
        code = BinaryKernelsCode(torch.ones((), dtype=torch.float64), positive, indices)
        scales = fitted(w, code.decompress(), self.scale)
        return BinaryKernelsCode(scales, positive.to(w.device), indices.to(w.device))

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """2, 4, 8, … kernels, as many as there can be of this size, at most the number of kernels of the weight."""
        if reason := unfit(shape):
            raise LayerError(f"{self}: {reason}")
        most = min(prod(shape[:2]), 2 ** min(prod(shape[2:]), 15))
        doubled = [2**i for i in range(1, 16) if 2**i < most]
        return [dataclasses.replace(self, k=k) for k in (*doubled, most)]

    def relaxed(self) -> Compressor | None:
        return None

    def refuses(self, layer: Layer) -> str | None:
        return unfit(layer.weight.shape)


def shared(code: BinaryCode) -> BinaryKernelsCode | None:
    """The same weights as kernels that repeat, or ``None`` where there are none, or too many to tell apart by 15 bits.

    Nothing is lost. Some networks use their kernels so unequally that an index takes fewer bits than the signs.

    Example:
        >>> code = Binary().compress(torch.tensor([[[0.5, -1.0], [0.5, -2.0], [1.0, 1.0]]]))
        >>> shared(code).kernels.tolist(), torch.equal(shared(code).decompress(), code.decompress())
        ([[True, False], [True, True]], True)
    """
    positive = code.positive
    if unfit(positive.shape):
        return None
    rows = positive.reshape(prod(positive.shape[:2]), -1).cpu().numpy()
    kernels, index, uses = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    if len(kernels) > 2**15:
        return None
    order = np.argsort(-uses, kind="stable")
    place = torch.from_numpy(np.argsort(order)[index.reshape(-1)]).reshape(positive.shape[:2])
    book = torch.from_numpy(kernels[order]).reshape(-1, *positive.shape[2:]).to(positive.device)
    return BinaryKernelsCode(code.scales, book, place.to(positive.device, torch.uint8 if len(book) <= 256 else torch.int16))


def unfit(shape: Sequence[int]) -> str | None:
    """Why a weight of this shape has no kernels to share."""
    if len(shape) > 2 and prod(shape[2:]) > 1:
        return None
    return f"a weight of shape {tuple(shape)} has no kernels of several elements; use Binary"


def check_scale(method: object, scale: str) -> None:
    """Raise unless ``scale`` is one of the three kinds."""
    if scale not in SCALES:
        raise TautError(f"{method}: scale must be 'none', 'tensor' or 'row'")


def fitted(w: Tensor, b: Tensor, scale: str) -> Tensor:
    """The best scales for the signs ``b`` of ``w``, of few digits and the type of ``w``: the mean of ``w b``, not below 0."""
    if scale == "none":
        return w.new_ones(())
    # in double precision, where the mean of equal numbers is that number
    products = w.detach().cpu().double() * b.cpu().double()
    means = products.reshape(len(w), -1).mean(1) if scale == "row" else products.mean()
    return few_digits(means.clamp(min=0)).clamp(max=torch.finfo(w.dtype).max).to(w)


def few_digits(scales: Tensor) -> Tensor:
    """Each number, on the CPU, rounded to 8 binary digits.

    Example:
        >>> few_digits(torch.tensor([1.0, 0.1, 1000.0])).tolist()
        [1.0, 0.10009765625, 1000.0]
    """
    # numpy's are exact for every exponent
    mantissa, exponent = np.frexp(scales.numpy())
    return torch.from_numpy(np.asarray(np.ldexp(np.round(np.ldexp(mantissa, DIGITS)), exponent - DIGITS)))


def scaled(scales: Tensor, positive: Tensor) -> Tensor:
    """The weight of these signs, ``scales`` one a row or one for all; differentiable in the scales."""
    return scales.reshape(-1, *[1] * (positive.dim() - 1)) * (positive.to(scales.dtype) * 2 - 1)


def cut_scales(scales: Tensor | Code, dim: int, keep: Tensor) -> Tensor | Code | None:
    """The scales when only the places ``keep`` along ``dim`` of the weight stay; ``None`` if they are a code of their own."""
    if dim != 0:
        return scales
    if isinstance(scales, Code):
        return None
    return scales if scales.dim() == 0 else scales.index_select(0, keep.to(scales.device))
