"""Hashed networks, trained from the start: few values, and weights that share them in places a hash function chooses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Size, Tensor

from taut.compressors.base import Code, DenseCode
from taut.compressors.hashed import Hashed, HashedCode, buckets
from taut.parametrizations.base import Latent, Parametrization


@dataclass(frozen=True)
class HashedWeights(Parametrization):
    r"""Weights that share :math:`K` trained values from the first step on (Chen et al. 2015, *Compressing neural networks with
    the hashing trick*, ICML, arXiv 1504.04788):

    .. math:: \min_a\; L(w), \qquad w_i = \xi(i)\, a_{h(i)}, \qquad h(i) \in \{1, …, K\},\; \xi(i) \in \{-1, 1\}

    with the hash functions, the code and the file of :class:`~taut.compressors.Hashed`, ``K = max(1, round(ratio * n))`` for
    ``n`` weights. For networks that are not trained yet: the value of a bucket of :math:`b` weights starts as the sum of
    :math:`\xi(i) w_i` over :math:`\sqrt b`, not over :math:`b`. Of independent first weights that keeps the variance, and a
    last factor makes the sum of squares that of the original weight exactly, so the outputs' variance is that of the usual
    initial values. A *trained* network wants the mean of each bucket instead, the nearest point: ``taut.apply`` with ``Hashed``,
    whose values recovery trains.

    The penalty is zero. Right after wrapping, the weight has the original's norm and none of its other properties; with as many
    values as weights each has its own, and the weight is the original.

    Args:
        ratio: values for each weight, above 0 and at most 1.
        seed: of the hash functions, from 0 to 2**32 - 1.

    Example:
        >>> weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
        >>> latent = HashedWeights(ratio=0.25).latent(weight)
        >>> hashed = latent(*latent.right_inverse(weight))
        >>> hashed.abs().unique().numel(), torch.allclose(hashed.norm(), weight.norm())
        (16, True)
    """

    ratio: float = 0.125
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        Hashed(self.ratio, self.seed)  # its errors are ours

    def latent(self, weight: Tensor) -> Shared:
        return Shared(Hashed(self.ratio, self.seed), weight)


class Shared(Latent):
    """One weight's shared values ``(k,)``."""

    index: Tensor
    sign: Tensor

    def __init__(self, method: Hashed, weight: Tensor) -> None:
        super().__init__()
        self.method, self.shape, self.number = method, tuple(weight.shape), method.values(weight.numel())
        if self.number == weight.numel():
            places = torch.arange(self.number, dtype=torch.int32), torch.ones(self.number, dtype=torch.int8)
        else:
            places = buckets(weight.numel(), self.number, method.seed, torch.device("cpu"))
        # no part of the state: they follow from the shape and the seed
        self.register_buffer("index", places[0].to(weight.device), persistent=False)
        self.register_buffer("sign", places[1].to(weight.device), persistent=False)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        # on the CPU, where sums have one order, and so one result
        flat, index = weight.detach().cpu().double().reshape(-1), self.index.cpu()
        sums = torch.zeros(self.number, dtype=torch.float64).index_add_(0, index, flat * self.sign.cpu())
        values = sums / torch.bincount(index, minlength=self.number).clamp(min=1).sqrt()
        energy = values.index_select(0, index).norm()
        if energy > 0:
            values = values * (flat.norm() / energy)
        return (values.to(weight),)

    def forward(self, values: Tensor) -> Tensor:
        return (values.index_select(0, self.index) * self.sign.to(values.dtype)).reshape(Size(self.shape))

    def penalty(self, values: Tensor) -> Tensor:
        return (0 * values).sum()

    def code(self, values: Tensor) -> Code:
        if self.number == self.index.numel():
            return DenseCode(values.detach().reshape(self.shape).clone())
        return HashedCode(values.detach().clone(), self.shape, self.method.seed)
