"""How far the next step may go, by how well the last prediction held."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class TrustRegion:
    """The radius: the largest predicted change of the loss that one step may bring.

    With the measured change ``a``, the predicted one ``p`` and the paired standard error ``s`` of the measurement: grow if
    ``a - p <= |p| / 4 + s``; shrink if ``a - p > 3 |p| / 4 + s`` or if the step was not kept; else stay.

    Example:
        >>> TrustRegion(1.0).updated(predicted=0.5, measured=0.4, error=0.0, kept=True).radius
        2.0
        >>> TrustRegion(1.0).updated(predicted=0.5, measured=0.4, error=0.0, kept=False).radius
        0.5
    """

    radius: float
    factor: float = 2.0

    def updated(self, *, predicted: float, measured: float, error: float, kept: bool) -> TrustRegion:
        """The region for the next step."""
        excess = measured - predicted
        if not kept or excess > 0.75 * abs(predicted) + error:
            return replace(self, radius=self.radius / self.factor)
        if excess <= 0.25 * abs(predicted) + error:
            return replace(self, radius=self.radius * self.factor)
        return self
