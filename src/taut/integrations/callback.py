"""What the callbacks share: a class that joins its framework's own when it is used, and layers shared out to optimizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import nn
from torch.optim import Optimizer

from taut.errors import TautError
from taut.regularizers.base import Regularizer
from taut.train import ProxOptimizer, assign, check_held


class Prox:
    """A callback with the arguments of :class:`taut.train.ProxOptimizer`, less the optimizer and the model.

    The framework's base class is not known before the framework is imported, so it joins when an instance is made: an instance
    is one of both classes.
    """

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return object.__new__(_joined(cls))  # type: ignore[arg-type]  # mypy takes a class for unhashable

    def __init__(self, regularizers: Mapping[str, Regularizer | None], every: int = 1, warmup: int = 0) -> None:
        if not isinstance(regularizers, Mapping):
            raise TautError(f"regularizers is a mapping from layer patterns, as in {{'*': Nuclear(1e-3)}}; got {regularizers!r}")
        self.regularizers = dict(regularizers)
        self.every, self.warmup = every, warmup

    def __reduce__(self) -> tuple[Any, ...]:
        # the joined class has no name to be pickled by (spawned processes unpickle callbacks)
        return self._written(), (self.regularizers, self.every, self.warmup)

    @classmethod
    def base(cls) -> type:
        """The framework's callback class; without the framework an error that names the extra."""
        raise NotImplementedError(f"{cls.__name__} must define base()")

    @classmethod
    def _written(cls) -> type:
        return next(kind for kind in cls.__mro__ if not kind.__dict__.get("_is_joined", False))


@cache
def _joined(cls: type[Prox]) -> type:
    """The class together with its framework's base."""
    base = cls.base()
    if issubclass(cls, base):
        return cls
    space = {"_is_joined": True, "__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls, base), space)


def wrap(
    optimizers: Iterable[Optimizer], model: nn.Module, regularizers: Mapping[str, Regularizer | None], **when: int
) -> list[Optimizer]:
    """Each optimizer with the proximal steps for the weights that it holds; one that holds no chosen weight stays as it is.

    ``when``: ``every`` and ``warmup``, as :class:`taut.train.ProxOptimizer` takes them.

    Example:
        >>> import torch
        >>> from taut.regularizers import L1
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        >>> two = [torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.Adam(model[1].parameters())]
        >>> first, second = wrap(two, model, {"1": L1(0.1)}, every=10)
        >>> first is two[0], second.inner is two[1]
        (True, True)
    """
    optimizers = list(optimizers)
    chosen = assign(model, regularizers)
    everywhere = {id(p): group for o in optimizers for group in o.param_groups for p in group["params"]}
    for layer, _ in chosen:
        check_held(layer, everywhere)
    wrapped: list[Optimizer] = []
    for optimizer in optimizers:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        mine: dict[str, Regularizer | None]
        mine = {layer.name: r for layer, r in chosen if id(getattr(layer.module, layer.parameter)) in held}
        wrapped.append(ProxOptimizer(optimizer, model, mine, **when) if mine else optimizer)
    return wrapped


def finish(optimizers: Iterable[Optimizer]) -> None:
    """The proximal steps that are still due at the end of training."""
    for optimizer in optimizers:
        if isinstance(optimizer, ProxOptimizer):
            optimizer.flush()
