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

from torch import Tensor, nn

from taut.compressors.base import Code
from taut.errors import TautError


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
        known = Parametrization.registry.get(cls.__name__)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TautError(
                f"two parametrizations are called {cls.__name__}: in {known.__module__} and {cls.__module__}; rename one, "
                "records hold the name"
            )
        Parametrization.registry[cls.__name__] = cls

    def __post_init__(self) -> None:
        for name, value in ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self)):  # type: ignore[arg-type]
            if isinstance(value, int | float) and not (math.isfinite(value) and value >= 0):
                raise TautError(f"{type(self).__name__}: {name} must be finite and not negative, got {value}")

    def latent(self, weight: Tensor) -> Latent:
        """What is trained in the place of ``weight`` (output first), made for that weight; ``weight`` is not changed."""
        raise NotImplementedError(f"{type(self).__name__} must define latent()")

    def __str__(self) -> str:
        values = (f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(values)})"
