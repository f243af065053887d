"""What may be lost: a bound on the validation metric or on the validation loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from typing import Protocol

from taut.errors import BudgetError


class Figures(Protocol):
    """A network's measured loss and metric."""

    @property
    def loss(self) -> float: ...
    @property
    def metric(self) -> float: ...


@dataclass(frozen=True)
class Budget:
    """What compression may lose, measured on validation data.

    ``metric_drop``: in the metric's own unit (accuracy: a fraction, so 0.005 is half a point); ``maximize=False`` for metrics
    where less is better. ``loss_increase``: absolute. Give one or both; both must then hold.

    Example:
        >>> Budget(metric_drop=0.005).describe()
        'metric drop of at most 0.005'
    """

    metric_drop: float | None = None
    loss_increase: float | None = None
    maximize: bool = True

    def __post_init__(self) -> None:
        if self.metric_drop is None and self.loss_increase is None:
            raise BudgetError("an empty budget: give metric_drop=0.0, loss_increase=0.02, or both")
        for name in ("metric_drop", "loss_increase"):
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and value >= 0):
                raise BudgetError(f"{name}={value}: a budget is a finite number that is not negative")

    def holds(self, baseline: Figures, found: Figures) -> bool:
        """Whether ``found`` is within the budget of ``baseline``; exact but for one part in 10^12."""
        tiny = 1e-12
        if self.metric_drop is not None:
            drop = baseline.metric - found.metric if self.maximize else found.metric - baseline.metric
            if drop > self.metric_drop + tiny * max(1.0, abs(baseline.metric)):
                return False
        return self.loss_increase is None or found.loss - baseline.loss <= self.loss_increase + tiny * max(1.0, baseline.loss)

    def wider(self, metric: float, loss: float) -> Budget:
        """The budget that allows so much more."""
        return replace(
            self, metric_drop=None if self.metric_drop is None else self.metric_drop + metric,
            loss_increase=None if self.loss_increase is None else self.loss_increase + loss,
        )  # fmt: skip

    def describe(self) -> str:
        """The budget in words."""
        parts = []
        if self.metric_drop is not None:
            parts.append(f"metric {'drop' if self.maximize else 'rise'} of at most {self.metric_drop:g}")
        if self.loss_increase is not None:
            parts.append(f"loss increase of at most {self.loss_increase:g}")
        return " and ".join(parts)

    def as_dict(self) -> dict:
        """Plain data for records."""
        kind = "metric_drop" if self.metric_drop is not None else "loss_increase"
        both = {} if None in (self.metric_drop, self.loss_increase) else {"loss_increase": self.loss_increase}
        return {"kind": kind, "value": getattr(self, kind), "maximize": self.maximize, **both}
