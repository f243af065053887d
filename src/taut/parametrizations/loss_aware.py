"""Loss-aware binarization, from the first step on: signs, and a scale that follows the curvature as it is seen in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from taut.compressors.base import Code
from taut.compressors.loss_aware import LossAwareBinaryCode, loss_aware_scale, signed
from taut.errors import TautError
from taut.parametrizations.base import Latent, Parametrization


@dataclass(frozen=True)
class LossAware(Parametrization):
    r"""Weights that are binary, up to a scale, in every forward pass (Hou, Yao and Kwok 2017, *Loss-aware binarization of deep
    networks*, ICLR, arXiv 1611.01600, algorithm 1):

    .. math:: \hat w = \alpha \operatorname{sign}(w), \qquad \alpha = \frac{\|d \odot w\|_1}{\|d\|_1}, \qquad
              w \leftarrow w - \eta\, D^{-1} \nabla L(\hat w)

    The first is the projection in the metric of the curvature (a proximal Newton step), with :math:`d = \sqrt v`, ``v`` the
    moving average of the squared gradients at :math:`\hat w`, as Adam has it; before the first gradient all weights count alike.
    The last is what Adam does with a gradient that passes the projection as it is: train with ``torch.optim.Adam``. The gradient
    passes every weight, also those far from the scale.

    The penalty is zero. What is stored is a :class:`~taut.compressors.loss_aware.LossAwareBinaryCode`, at most one bit a weight.
    Activations stay as they are; :class:`~taut.parametrizations.Binary` is for networks that are binary throughout. The average
    advances with every backward pass, so batches that accumulate count each.

    Args:
        decay: of the moving average, Adam's second beta; at least 0, below 1.

    Example:
        >>> weight = torch.tensor([[0.5, -1.0], [3.0, -0.5]])
        >>> latent = LossAware().latent(weight)
        >>> latent(weight).tolist()
        [[1.25, -1.25], [1.25, -1.25]]
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decay >= 1:
            raise TautError(f"{self}: decay is that of a moving average and below 1")

    def latent(self, weight: Tensor) -> SignedScale:
        return SignedScale(weight, self.decay)


class SignedScale(Latent):
    """One weight in training: its real values, and the moving average of the squared gradients."""

    squares: Tensor

    def __init__(self, weight: Tensor, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("squares", torch.zeros_like(weight, requires_grad=False))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        return (weight.detach().clone(),)

    def forward(self, values: Tensor) -> Tensor:
        return _Project.apply(values, self._scale(values), self)

    def penalty(self, values: Tensor) -> Tensor:
        return (0 * values).sum()

    def code(self, values: Tensor) -> Code:
        return LossAwareBinaryCode(self._scale(values), values.detach() >= 0)

    def see(self, gradient: Tensor) -> None:
        """Take one more gradient into the average."""
        self.squares.mul_(self.decay).add_((1 - self.decay) * gradient.detach().square())

    def _scale(self, values: Tensor) -> Tensor:
        with torch.no_grad():
            return loss_aware_scale(values.reshape(1, -1), self.squares.reshape(1, -1).sqrt()).squeeze(0)


class _Project(Function):
    """The nearest weight of two values; the gradient passes as it is, and is seen on its way."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, latent: SignedScale) -> Tensor:
        ctx.latent = latent
        return signed(scale, values >= 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        ctx.latent.see(grad)
        return grad, None, None
