"""Distance to any compressible set: training towards what a compressor can represent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from taut.compressors.base import Compressor
from taut.errors import TautError
from taut.numeric.singular import working
from taut.regularizers.annealed import Annealed
from taut.regularizers.base import Regularizer, check_step


@dataclass(frozen=True)
class Distance(Annealed, Regularizer):
    """Half the squared distance to the weights that a compressor represents exactly.

        r(w)           =  strength / 2 * ||w - P(w)||^2,             P(w) = compressor.compress(w).decompress()
        prox(w, step)  =  (w + step * strength * P(w)) / (1 + step * strength)

    A larger step or strength moves the weight closer to its compressed form, and the limit is the compressed form itself. The
    prox is exact where ``P`` is the exact projection (the compressor says ``optimal``), for convex sets and others: minimised
    over z first, each member c of the set costs ``||w - c||^2`` up to a factor. Otherwise it is the same step towards an
    approximate projection. Beck, *First-order methods in optimization*, 2017, example 6.65; as a penalty that is tightened in
    training: Carreira-Perpinan and Idelbayev, *"Learning-compression" algorithms for neural net pruning*, CVPR 2018.

    With a ``period`` that is their algorithm (:class:`~taut.regularizers.annealed.Annealed`): the projection is renewed after
    every ``period`` proximal steps only, and the strength, their mu, grows by ``growth`` each time.

    Args:
        compressor: any compressor, also a chain of several; its set need not be convex.
        strength: the factor, in units of the loss per squared unit of weight; with a schedule the first one.
        growth: the factor of the strength after every period (1.1 to 1.25 are usual).
        period: proximal steps from one projection to the next; 0: at every proximal step, no schedule.
        multipliers: keep Lagrange multipliers (the augmented Lagrangian), which meets the constraint at a finite strength.

    Example:
        >>> from taut.compressors.base import DenseCode
        >>> @dataclass(frozen=True)
        ... class Whole(Compressor):
        ...     def compress(self, w, stats=None):
        ...         return DenseCode(w.round())
        >>> w = torch.tensor([[0.5, 1.75]])
        >>> Distance(Whole(), strength=1.0).value(w).item()  # (0.5^2 + 0.25^2) / 2
        0.15625
        >>> Distance(Whole(), strength=1.0).prox(w, step=1.0).tolist()
        [[0.25, 1.875]]
        >>> Compressor.registry.pop("Whole") is Whole
        True
    """

    exact_prox: ClassVar[bool] = False  # in general; see exact()
    convex: ClassVar[bool] = False

    compressor: Compressor
    strength: float = 1e-3
    growth: float = field(default=1.0, repr=False)
    period: int = field(default=0, repr=False)
    multipliers: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_schedule()
        if not isinstance(self.compressor, Compressor):
            raise TautError(f"Distance takes a compressor such as LowRank(rank=8), got {self.compressor!r}")

    def exact(self) -> bool:
        return self.compressor.optimal

    def value(self, w: Tensor) -> Tensor:
        wide = working(w)
        return 0.5 * self.strength * (wide - self._projection(wide)).square().sum()

    def prox(self, w: Tensor, step: float) -> Tensor:
        pull = check_step(step) * self.strength
        if pull == 0:
            return w.clone()
        wide = working(w)
        # as a convex combination: no overflow at large pulls
        return torch.lerp(wide, self._projection(wide), pull / (1 + pull)).to(w.dtype)

    def c_step(self, w: Tensor, tightening: float = 1.0) -> Tensor:
        return self._projection(w)

    def _projection(self, w: Tensor) -> Tensor:
        if w.numel() == 0:
            return w
        with torch.no_grad():
            return self.compressor.compress(w.detach()).decompress().to(w)
