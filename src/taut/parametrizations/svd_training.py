"""SVD training: a weight is trained as the three factors of its decomposition, and loses singular values in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.nn import functional

from taut.compressors.base import Code, DenseCode
from taut.compressors.low_rank import LowRankCode, _layouts
from taut.errors import LayerError, TautError
from taut.numeric.singular import rank_for_energy, svd, working
from taut.parametrizations.base import Latent, Parametrization
from taut.views import view


@dataclass(frozen=True)
class SvdTraining(Parametrization):
    r"""The factors of the singular value decomposition, trained directly, without a decomposition in any step (Yang et al. 2020,
    *Learning low-rank deep neural networks via singular vector orthogonality regularization and singular value
    sparsification*, CVPR workshops, arXiv 2004.09031):

    .. math:: \min_{U, s, V}\; L(U \operatorname{diag}(s) V^T)
              + \lambda_o \frac{\|U^T U - I\|_F^2 + \|V^T V - I\|_F^2}{r^2} + \lambda_s R(s), \qquad
              R(s) = \|s\|_1 / \|s\|_2 \;\text{or}\; \|s\|_1

    of a weight seen as a matrix ``(m, n)``, ``r = min(m, n)``: for a convolution ``(out, in * kernel)``, scheme 1, or ``(out *
    height, in * width)``, scheme 2, as :class:`~taut.compressors.LowRank` has them. In the end the smallest singular values are
    removed, as many as leave the share ``energy`` of the sum of their squares, and two thin factors are stored; recovery goes on
    training those. Where two factors would hold no fewer numbers than the weight, their product is stored. Since ``U`` and ``V``
    are orthonormal only as far as the penalty made them so, the share is one of the ``s``, not exactly of the weight.

    The penalty is in the unit of the loss, strengths included.

    Right after wrapping, the weight in evaluation mode is the original less at most ``sqrt(1 - energy)`` of its norm (to
    rounding). To see other ranks after one training, set ``latent.energy`` on a copy before it is finalized.

    Args:
        sparsity: :math:`\lambda_s`.
        norm: ``"hoyer"`` (the ratio) or ``"l1"``.
        orthogonality: :math:`\lambda_o`.
        energy: the share of the squared singular values that is kept, above 0 and at most 1.
        scheme: 1 or 2.

    Example:
        >>> weight = torch.outer(torch.arange(1.0, 6), torch.arange(1.0, 5))
        >>> latent = SvdTraining(energy=0.99).latent(weight)
        >>> code = latent.code(*latent.right_inverse(weight))
        >>> code.first.shape, code.second.shape, torch.allclose(code.decompress(), weight, atol=1e-4)
        (torch.Size([1, 4]), torch.Size([5, 1]), True)
    """

    sparsity: float = 1e-3
    norm: str = "hoyer"
    orthogonality: float = 1.0
    energy: float = 0.99
    scheme: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in ("hoyer", "l1"):
            raise TautError(f"{self}: the norm must be 'hoyer' or 'l1'")
        if not 0 < self.energy <= 1:
            raise TautError(f"{self}: the energy must be above 0 and at most 1")
        if self.scheme not in (1, 2):
            raise TautError(f"{self}: the scheme must be 1 or 2")

    def latent(self, weight: Tensor) -> Factors:
        if weight.dim() < 2:
            raise LayerError(f"{self}: a weight of shape {tuple(weight.shape)} is not a matrix; leave the layer out")
        return Factors(self, weight.shape)


class Factors(Latent):
    """One weight's ``U (m, r)``, ``s (r,)`` and ``V^T (r, n)``; ``energy`` may be changed at any time."""

    def __init__(self, method: SvdTraining, shape: Size) -> None:
        super().__init__()
        self.method, self.shape, self.energy = method, tuple(shape), method.energy
        self.scheme = method.scheme if len(shape) == 4 else 1
        self.view = "matrix2" if self.scheme == 2 else "matrix"

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        left, values, right = svd(view(self.view).see(weight.detach()))
        return left.to(weight).contiguous(), values.to(weight), right.to(weight).contiguous()

    def forward(self, left: Tensor, values: Tensor, right: Tensor) -> Tensor:
        if self.training:
            return view(self.view).back((left * values) @ right, Size(self.shape))
        return self._truncated(left, values, right).decompress()

    def output(self, module: Any, inputs: Tensor, *latents: Tensor) -> Tensor | None:
        """A linear layer multiplies by the factors in turn where that is less work than making the weight first."""
        left, values, right = latents
        (m, r), n = left.shape, right.shape[1]
        positions = inputs.numel() // max(1, inputs.shape[-1])
        if not self.training or not isinstance(module, nn.Linear) or positions * r * (m + n) > r * m * n + positions * m * n:
            return None
        return functional.linear(functional.linear(inputs, right) * values, left, module.bias)

    def penalty(self, left: Tensor, values: Tensor, right: Tensor) -> Tensor:
        left, values, right = working(left), working(values), working(right)
        eye = torch.eye(len(values), dtype=values.dtype, device=values.device)
        apart = (left.T @ left - eye).square().sum() + (right @ right.T - eye).square().sum()
        size = values.abs().sum()
        if self.method.norm == "hoyer":
            size = size / values.norm().clamp_min(torch.finfo(values.dtype).tiny)
        return self.method.orthogonality * apart / len(values) ** 2 + self.method.sparsity * size

    def code(self, left: Tensor, values: Tensor, right: Tensor) -> Code:
        return self._truncated(left.detach(), values.detach(), right.detach())

    def _truncated(self, left: Tensor, values: Tensor, right: Tensor) -> Code:
        """What is left of the weight, with the roots of the singular values on both sides, as in a code of low rank."""
        rank = max(1, rank_for_energy(values.abs(), self.energy))
        order = values.detach().abs().argsort(descending=True, stable=True)[:rank]
        root = values[order].abs().sqrt()
        left, right = left[:, order] * (root * values[order].sign()), root[:, None] * right[order]
        first, second = _layouts(left, right, Size(self.shape), self.scheme)
        code = LowRankCode(first, second, self.shape, self.scheme)
        if rank * (len(left) + right.shape[1]) < len(left) * right.shape[1]:
            return code
        return DenseCode(code.decompress())
