"""Signs: the numbers -1 and +1 that a binarized network computes with.

The sign of zero is +1 everywhere in taut, of -0.0 too, so that there are two values and no third. A convolution on signs must not
pad with zeros, which are no signs: put ``nn.ConstantPad2d(1, 1.0)`` before it and leave its own padding at 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def signs(x: Tensor) -> Tensor:
    """+1 where ``x >= 0`` and -1 elsewhere, in the type of ``x``; no gradient flows.

    Example:
        >>> signs(torch.tensor([0.5, -2.0, 0.0, -0.0])).tolist()
        [1.0, -1.0, 1.0, 1.0]
    """
    return (x.detach() >= 0).to(x.dtype) * 2 - 1


class _StraightThrough(torch.autograd.Function):
    """The sign, whose gradient is that of the identity between -1 and 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return signs(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() <= 1)


class Sign(nn.Module):
    """Binary activations: the sign of every element, and in training a gradient that passes straight through where ``|x| <= 1``
    and is zero elsewhere (Hubara et al. 2016, *Binarized neural networks*, NIPS, equation 4).

    Example:
        >>> x = torch.tensor([-3.0, -0.2, 0.0, 0.7, 1.5], requires_grad=True)
        >>> y = Sign()(x)
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist()
        ([-1.0, -1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0, 0.0])
    """

    def forward(self, x: Tensor) -> Tensor:
        """``x`` of any shape to signs of the same shape and type."""
        # without a gradient there is nothing but a comparison, which exporters follow
        return _StraightThrough.apply(x) if torch.is_grad_enabled() and x.requires_grad else signs(x)
