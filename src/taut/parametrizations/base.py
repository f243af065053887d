"""A weight that is computed from other tensors while it is trained.

Some rivals of a penalty do not train the weight at all: they train the mean and the variance of a distribution over it, its
factors, or the whole numbers it will be stored as. A :class:`Parametrization` is such a method at one setting; for each weight it
makes a :class:`Latent`, which holds what belongs to that one weight:

    w = latent(t_1, t_2, ...)                  what the network computes with; t_i are the tensors that are trained
    loss + latent.penalty(t_1, t_2, ...)       what is minimised
    latent.code(t_1, t_2, ...)                 what is stored in the end

:func:`taut.reparametrize.wrap` puts it into a model, and takes it out again.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from taut.compressors.base import Code
from taut.compressors.coded import free_parameters
from taut.registry import check_settings, register

FORWARDS = (nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)


class Latent(nn.Module):
    """How one weight is computed from the tensors that are trained in its place: a torch parametrization."""

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The tensors to train, at the start: those that give ``weight``, or come near it."""
        raise NotImplementedError(f"{type(self).__name__} must define right_inverse()")

    def forward(self, *latents: Tensor) -> Tensor:
        """The weight that the network computes with; may be random while ``self.training``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward()")

    def penalty(self, *latents: Tensor) -> Tensor:
        """What the loss grows by, a scalar; its unit is the parametrization's."""
        raise NotImplementedError(f"{type(self).__name__} must define penalty()")

    def code(self, *latents: Tensor) -> Code:
        """What is stored, of the same values as the weight in evaluation mode."""
        raise NotImplementedError(f"{type(self).__name__} must define code()")

    def output(self, module: Any, inputs: Tensor, *latents: Tensor) -> Tensor | None:
        """What a linear or convolution layer gives for ``inputs``; ``None`` where computing with the weight is as good."""
        return None


class Gaussian(Latent):
    """Independent Gaussians in the place of a weight: trained are their means and the logarithms of their standard deviations.

    In training mode the weight is a sample. A linear or convolution layer draws its outputs instead, each with the mean and the
    variance that the weights give it: far less noise in the gradients than one weight for a whole batch (*local
    reparametrization*, Kingma, Salimans and Welling 2015, arXiv 1506.02557; positions of a convolution are drawn
    independently, as in Molchanov et al. 2017). In evaluation mode the weight is the mean where :meth:`kept`, else zero. A latent
    in training mode in a layer in evaluation mode gives exact samples of the weight.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        return weight.detach().clone(), torch.full_like(weight, math.log(self.sigma), requires_grad=False)

    def forward(self, mean: Tensor, log_sigma: Tensor) -> Tensor:
        if self.training:
            return mean + log_sigma.exp() * torch.randn_like(mean)
        return torch.where(self.kept(mean, log_sigma), mean, 0.0)

    def kept(self, mean: Tensor, log_sigma: Tensor) -> Tensor:
        """Which weights are worth keeping, a boolean mask."""
        raise NotImplementedError(f"{type(self).__name__} must define kept()")

    def output(self, module: Any, inputs: Tensor, *latents: Tensor) -> Tensor | None:
        if not (self.training and module.training):
            return None
        mean, log_sigma = latents
        center = _product(module, inputs, mean, module.bias)
        variance = _product(module, inputs.square(), (2 * log_sigma).exp(), None)
        # where all inputs are zero there is no noise, and the root has no slope
        return center + variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt() * torch.randn_like(center)


def _product(module: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the layer computes, with this weight and bias."""
    if isinstance(module, nn.Linear):
        return functional.linear(inputs, weight, bias)
    return module._conv_forward(inputs, weight, bias)


def ask_for_output(module: nn.Module) -> None:
    """Let a layer take its output from its weight's latent (:meth:`Latent.output`) before it computes with the weight.

    Only linear and convolution layers that compute as torch's own do. The method goes on the class that torch makes for a
    parametrized module, so that it leaves with the parametrization.
    """
    own, plain = type(module), type(module).forward
    latent = module.parametrizations["weight"][0] if parametrize.is_parametrized(module, "weight") else None
    if plain not in FORWARDS or not isinstance(latent, Latent) or type(latent).output is Latent.output:
        return

    def forward(self: Any, inputs: Tensor) -> Tensor:
        how = self.parametrizations["weight"][0] if parametrize.is_parametrized(self, "weight") else None
        given = how.output(self, inputs, *free_parameters(self, "weight")) if isinstance(how, Latent) else None
        return plain(self, inputs) if given is None else given

    own.forward = forward


class Parametrization:
    """A method at one setting. Subclasses are frozen dataclasses; subclassing registers the class by its name.

    Example:
        >>> import torch
        >>> from dataclasses import dataclass
        >>> from taut.compressors.base import DenseCode
        >>> class Positive(Latent):
        ...     def right_inverse(self, weight):
        ...         return (weight.clamp_min(1e-6).log(),)
        ...     def forward(self, log):
        ...         return log.exp()
        ...     def penalty(self, log):
        ...         return log.sum() * 0
        ...     def code(self, log):
        ...         return DenseCode(log.exp())
        >>> @dataclass(frozen=True)
        ... class Exponential(Parametrization):
        ...     def latent(self, weight):
        ...         return Positive()
        >>> latent = Exponential().latent(torch.ones(2, 2))
        >>> latent(*latent.right_inverse(torch.ones(2, 2))).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
        >>> Parametrization.registry.pop("Exponential") is Exponential
        True
    """

    registry: ClassVar[dict[str, type[Parametrization]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register(Parametrization.registry, cls)

    def __post_init__(self) -> None:
        check_settings(self)

    def latent(self, weight: Tensor) -> Latent:
        """What is trained in the place of ``weight`` (output first), made for that weight; ``weight`` is not changed."""
        raise NotImplementedError(f"{type(self).__name__} must define latent()")

    def __str__(self) -> str:
        values = (f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(values)})"
