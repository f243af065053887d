"""The errors a user can cause: every one is a :class:`TautError` that names the place, the setting and the fix."""


class TautError(Exception):
    """Something the caller can mend: the message names the layer, the shape or the setting, and the fix."""


class LayerError(TautError):
    """A layer name or pattern that matches nothing, or a weight that a method cannot take."""


class FormatError(TautError):
    """A ``.taut`` file that is cut, flipped, hostile, or from a newer version."""


class BudgetError(TautError):
    """A budget that cannot hold, or data on which it cannot be measured."""


class ExtraError(TautError):
    """An optional dependency is missing; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: pip install 'taut[{extra}]'")


class ParityError(TautError):
    """An exported artifact does not compute what the model computes."""
