"""The penalty a weight is trained under: its value and its proximal operator.

A :class:`Regularizer` is a frozen dataclass at one setting. Its two methods belong to one function ``r``:

    value(w)       =  r(w)
    prox(w, step)  =  argmin_z  r(z) + ||z - w||^2 / (2 step)

Gradient steps on the loss with a proximal step after each minimise loss + r (Combettes and Pesquet, *Proximal splitting methods
in signal processing*, 2011), and unlike steps along a subgradient of ``r`` they reach exact zeros and exact low rank.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

from torch import Tensor

from taut.errors import LayerError, TautError
from taut.numeric.singular import working
from taut.registry import check_settings, register
from taut.views import view as find_view


class Regularizer:
    """A penalty at one setting. Subclasses are frozen dataclasses; subclassing registers the class by its name.

    Class flags: ``exact_prox``: :meth:`prox` is the exact minimiser, not an approximation; ``convex``: the penalty is convex, so
    that the exact prox is unique and never moves two weights apart; ``proximal``: :meth:`prox` is that minimiser or near it;
    where it is False it is a published step of another kind (a force, a projection), which lowers the value and need not lower
    value and distance together; ``strengths``: the fields that the penalty is linear in.

    Example:
        >>> import torch
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class NonNegative(Regularizer):
        ...     def value(self, w):
        ...         return torch.where((w < 0).any(), math.inf, 0.0)
        ...     def prox(self, w, step):
        ...         return w.clamp_min(0)
        >>> NonNegative().prox(torch.tensor([-1.0, 2.0]), step=0.1).tolist()
        [0.0, 2.0]
        >>> Regularizer.registry.pop("NonNegative") is NonNegative
        True
    """

    registry: ClassVar[dict[str, type[Regularizer]]] = {}
    exact_prox: ClassVar[bool] = True
    convex: ClassVar[bool] = True
    proximal: ClassVar[bool] = True
    strengths: ClassVar[tuple[str, ...]] = ("strength",)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register(Regularizer.registry, cls)

    def __post_init__(self) -> None:
        check_settings(self)

    def value(self, w: Tensor) -> Tensor:
        """The penalty of the weight ``w`` (output first), a scalar in fp32 or better, differentiable almost everywhere."""
        raise NotImplementedError(f"{type(self).__name__} must define value()")

    def prox(self, w: Tensor, step: float) -> Tensor:
        """The proximal operator at ``w``: a new tensor of its shape and dtype; ``step`` is in units of the learning rate."""
        raise NotImplementedError(f"{type(self).__name__} must define prox()")

    def warm_prox(self, w: Tensor, step: float, memory: dict[str, Any]) -> Tensor:
        """:meth:`prox` for one of many calls on the same weight as it changes in training.

        ``memory`` is a dict that the caller keeps for this weight, empty at first. A method that is cheaper with what its last
        call found (a basis, say) reads and replaces it; it holds tensors and plain numbers only, goes into state dicts, and
        its tensors are never changed in place. By default the memory is left alone.
        """
        return self.prox(w, step)

    def exact(self) -> bool:
        """Whether :meth:`prox` is exact at this setting; the class flag unless a subclass knows better."""
        return self.exact_prox

    def __str__(self) -> str:
        fields = [(f, getattr(self, f.name)) for f in dataclasses.fields(self)]  # type: ignore[arg-type]
        # how something is computed (repr=False) is told where it was chosen: names in records stay short and comparable
        values = (f"{f.name}={value}" for f, value in fields if f.repr or value != f.default)
        return f"{type(self).__name__}({', '.join(values)})"


def check_share(regularizer: Regularizer, alpha: float) -> None:
    """An error unless ``alpha``, the share of single weights beside groups, is at most 1 (below 0 is refused for every field)."""
    if alpha > 1:
        raise TautError(f"{type(regularizer).__name__}: alpha is a share between 0 (groups) and 1 (single weights), got {alpha}")


def check_step(step: float) -> float:
    """The step, if it can be one: finite and not negative."""
    if not (math.isfinite(step) and step >= 0):
        raise TautError(f"the step of a proximal operator must be finite and not negative, got {step}")
    return step


def see(w: Tensor, view: str) -> Tensor:
    """The weight as a matrix with one group a row, in fp32 or better; a weight without elements has no groups.

    Example:
        >>> import torch
        >>> see(torch.zeros(4, 3, 2, 2, dtype=torch.float16), "columns").shape
        torch.Size([3, 16])
        >>> see(torch.zeros(4, 0), "rows").shape
        torch.Size([0, 1])
    """
    seen = find_view(view).see
    if w.dim() < 2:
        raise LayerError(f"the view {view!r} needs a weight of at least 2 dimensions, got shape {tuple(w.shape)}")
    return working(w).reshape(0, 1) if w.numel() == 0 else seen(working(w))


def back(matrix: Tensor, w: Tensor, view: str) -> Tensor:
    """The matrix as a weight again, with the shape and the dtype of ``w``."""
    return w.clone() if w.numel() == 0 else find_view(view).back(matrix, w.shape).to(w.dtype)
