"""A distance that is tightened while the network trains: the learning-compression algorithm, as a step that remembers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from taut.errors import TautError
from taut.numeric.singular import working
from taut.regularizers.base import check_step


class Annealed:
    """What ``Distance`` and ``LearnedRank`` share: a pull towards a compressed weight that is renewed now and then.

    Learning and compression take turns (Carreira-Perpinan, *Model compression as constrained optimization*, 2017):

        L step   w  <-  argmin_w  loss(w) + mu/2 ||w - c - b/mu||^2          ``period`` proximal steps between gradient steps
        C step   c  <-  the compressed weight for  w - b/mu
                 b  <-  b - mu (w - c)                                        with ``multipliers`` (augmented Lagrangian)
                 mu <-  growth * mu

    from c of the first weight, b = 0 and mu = ``strength``. All this is in the ``memory`` that an optimizer keeps for the weight
    (:meth:`~taut.regularizers.Regularizer.warm_prox`), so it resumes with the optimizer. A class that takes part has the fields
    ``period``, ``growth`` and ``multipliers`` and a method ``c_step(w, tightening)``, where ``tightening`` is mu / strength.
    """

    strength: float
    growth: float
    period: int
    multipliers: bool

    def c_step(self, w: Tensor, tightening: float = 1.0) -> Tensor:
        """The compressed weight that is nearest to ``w``, at ``tightening`` times the first strength."""
        raise NotImplementedError(f"{type(self).__name__} must define c_step()")

    def check_schedule(self) -> None:
        """An error unless the schedule can be followed."""
        if self.growth < 1:
            raise TautError(f"{type(self).__name__}: growth is the factor of the strength and at least 1, got {self.growth}")
        if not isinstance(self.period, int):
            raise TautError(f"{type(self).__name__}: period counts proximal steps and must be an integer, got {self.period!r}")
        if self.period == 0 and (self.growth != 1 or self.multipliers):
            raise TautError(
                f"{type(self).__name__}: growth and multipliers change after every period; set period to the number of proximal "
                "steps between, such as those of an epoch"
            )

    def warm_prox(self, w: Tensor, step: float, memory: dict[str, Any]) -> Tensor:
        """One proximal step of the L step, and after the last of a period the C step; without a period the plain prox.

        A step of zero is none, and is not counted.
        """
        if self.period == 0 or step == 0:
            return self.prox(w, step)  # type: ignore[attr-defined]
        if not memory:
            memory.update(calls=0, tightening=1.0, target=self.c_step(working(w)), multipliers=torch.zeros_like(working(w)))
        tightening, target, multipliers = (memory[name] for name in ("tightening", "target", "multipliers"))
        mu = self.strength * tightening
        pull = check_step(step) * mu
        offset = multipliers / mu if self.multipliers and mu > 0 else torch.zeros_like(target)
        z = w.clone() if pull == 0 else torch.lerp(working(w), target + offset, pull / (1 + pull)).to(w.dtype)
        memory["calls"] += 1
        if memory["calls"] % self.period == 0:
            target = self.c_step(working(z) - offset, tightening)
            if self.multipliers:
                memory["multipliers"] = multipliers - mu * (working(z) - target)
            memory.update(target=target, tightening=tightening * self.growth)
        return z
