"""Binarized networks, trained: weights of one bit in every forward pass, real-valued copies of them that learn."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from taut.binary import signs
from taut.compressors.base import Code
from taut.compressors.binary import BinaryCode, BinaryKernels, BinaryKernelsCode, check_scale, fitted, unfit
from taut.errors import LayerError, TautError
from taut.parametrizations.base import Latent, Parametrization


@dataclass(frozen=True)
class Binary(Parametrization):
    r"""Signs for weights, from the first step on (Courbariaux et al. 2016, *Binarized neural networks*, arXiv 1602.02830; the
    scales: Rastegari et al. 2016, *XNOR-Net*, arXiv 1603.05279, equations 6 and 12):

    .. math:: \hat w_{oi} = \alpha_o \operatorname{sign}(w_{oi}), \qquad \alpha_o = \frac{1}{n} \sum_i |w_{oi}|, \qquad
              \frac{\partial L}{\partial w} \leftarrow \frac{\partial L}{\partial \hat w} \text{ through the sign as it is}

    with the sign of zero +1. Real-valued copies :math:`w` are trained and thrown away in the end. Gradients that would carry a
    copy further out than :math:`\pm 1` are zero: the papers clip there after each step. A scale has 8 binary digits, so that
    :mod:`taut.xnor` gives the outputs of the trained network bit for bit.

    Put :class:`taut.binary.Sign` before the layers whose inputs are to be signs too, pad such convolutions with 1 instead of 0
    (``nn.ConstantPad2d``), have a batch norm behind each layer, and leave the first and the last layer real, as the papers do.

    With ``kernels`` only so many kernels of a convolution are used, chosen for the weight that is wrapped (a trained one); each
    copy's kernel is then the nearest of them (Wang et al. 2021, *Sub-bit neural networks*, arXiv 2110.09195). What is stored is a
    :class:`~taut.compressors.binary.BinaryCode`, or with ``kernels`` a :class:`~taut.compressors.binary.BinaryKernelsCode`.

    A file codes common kernels in fewer bits than rare ones. With a ``price`` these bits decide too which kernel a copy has:

    .. math:: c_{oi} = \arg\max_{c \in C} \; w_{oi} \cdot c - \text{price} \; \overline{|w|} \; \log_2 \frac{1}{p(c)}

    with :math:`p(c)` the share of the kernel in the step before (entropy-constrained vector quantization: Chou, Lookabaugh and
    Gray 1989, IEEE Trans. ASSP 37(1)). A wrong sign of a mean copy costs as much as ``2 / price`` bits. At equal bits it turns
    fewer and smaller weights over than a small number of ``kernels`` does.

    The penalty is zero.

    Args:
        scale: one for each ``"row"``, one for the ``"tensor"``, or ``"none"``: weights are -1 and 1.
        kernels: how many kernels are used; 0: as many as there are.
        price: of a bit of the file, in means of ``|w|``; needs ``kernels``. 0: bits do not matter; 0.1 is mild, 0.3 much.

    Example:
        >>> weight = torch.tensor([[0.5, -1.0], [3.0, -0.5]])
        >>> latent = Binary().latent(weight)
        >>> latent(weight).tolist()
        [[0.75, -0.75], [1.75, -1.75]]
    """

    scale: str = "row"
    kernels: int = 0
    price: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self, self.scale)
        if not 0 <= self.price < inf or self.price and not self.kernels:
            raise TautError(f"{self}: price must be a number of 0 or more, and needs kernels: how many there may be (3x3: 512)")
        if self.kernels:
            BinaryKernels(self.kernels)  # its errors are ours

    def latent(self, weight: Tensor) -> RealCopy:
        if self.kernels and (reason := unfit(weight.shape)):
            raise LayerError(f"{self}: {reason}")
        return RealCopy(self, weight)


ROWS = 1024
"""Kernels whose scores are in memory at once: few enough to stay in a processor's cache."""


class RealCopy(Latent):
    """One weight's real-valued copy; ``book (kernels, elements)``: the kernels that may be used, as signs; ``bits (kernels,)``:
    of each in the file, where they have a price.
    """

    binary: ClassVar[bool] = True
    book: Tensor | None
    bits: Tensor | None

    def __init__(self, method: Binary, weight: Tensor) -> None:
        super().__init__()
        self.scale, self.price, self.shape = method.scale, method.price, tuple(weight.shape)
        self.register_buffer("book", self._book(weight, method.kernels) if method.kernels else None)
        self.register_buffer("bits", None)
        if method.price:
            self.bits = self._bits(self._index(weight))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        return (weight.detach().clone(),)

    def forward(self, copy: Tensor) -> Tensor:
        b = self._signs(copy, count=self.training)
        scale = fitted(copy.detach(), b, self.scale)
        if scale.dim() and self.scale == "row":
            mean = (copy * b).reshape(len(copy), -1).mean(1)
        else:
            mean = (copy * b).mean() if self.scale == "tensor" else scale
        # the value of few digits, the gradient of the mean: the difference of numbers so near is exact
        scale = mean + (scale - mean).detach()
        return scale.reshape(-1, *[1] * (copy.dim() - 1)) * _Through.apply(copy, b)

    def penalty(self, copy: Tensor) -> Tensor:
        return (0 * copy).sum()

    def code(self, copy: Tensor) -> Code:
        b = self._signs(copy)
        scales = fitted(copy, b, self.scale)
        if self.book is None:
            return BinaryCode(scales, b > 0)
        used, index = torch.unique(self._index(copy), return_inverse=True)
        kernels = (self.book[used] > 0).reshape(-1, *self.shape[2:])
        index = index.reshape(self.shape[:2]).to(torch.uint8 if len(used) <= 256 else torch.int16)
        return BinaryKernelsCode(scales, kernels, index)

    def _book(self, weight: Tensor, count: int) -> Tensor:
        code = BinaryKernels(count, self.scale).compress(weight)
        assert isinstance(code, BinaryKernelsCode)
        book = code.kernels.to(weight.dtype).reshape(len(code.kernels), -1) * 2 - 1
        # always of one size, so that a state fits another network's
        return torch.cat([book, book[:1].expand(count - len(book), -1)])

    def _signs(self, copy: Tensor, count: bool = False) -> Tensor:
        """The signs of a copy; ``count``: from now on its kernels tell what each of them costs."""
        copy = copy.detach()
        if self.book is None:
            return signs(copy)
        index = self._index(copy)
        if count and self.bits is not None:
            self.bits = self._bits(index)
        return self.book[index].reshape(self.shape)

    def _index(self, copy: Tensor) -> Tensor:
        """The nearest kernel of the book for each kernel of the copy, less what its bits cost."""
        assert self.book is not None
        copy, least = copy.detach(), 0.0 if self.bits is None else self.price * copy.detach().abs().mean() * self.bits
        rows = copy.reshape(prod(self.shape[:2]), -1).split(ROWS)
        return torch.cat([(part @ self.book.T).sub_(least).argmax(1) for part in rows])

    def _bits(self, index: Tensor) -> Tensor:
        """What each kernel costs when they are used so often; half a use each keeps those that are not within reach."""
        assert self.book is not None
        uses = torch.bincount(index, minlength=len(self.book)) + 0.5
        return (uses.sum() / uses).log2().to(self.book)


class _Through(torch.autograd.Function):
    """``b`` in the place of the copy; the gradient passes to the copy, unless its step would lead further out than 1."""

    @staticmethod
    def forward(ctx: Any, copy: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(copy)
        return b.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (copy,) = ctx.saved_tensors
        return gradient * ~((copy.abs() >= 1) & (gradient * copy < 0)), None
