"""What compressors, codes, regularizers and parametrizations have in common: found by name, and settings that are numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from taut.errors import TautError


def register(registry: dict[str, type], cls: type) -> None:
    """Enter a class under its name, which records and files hold; another class of that name is an error.

    Example:
        >>> registry = {}
        >>> register(registry, dict)
        >>> registry
        {'dict': <class 'dict'>}
    """
    known = registry.get(cls.__name__)
    # the same class again, as when its module is reloaded, replaces the old one
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise TautError(
            f"two classes are called {cls.__name__}: in {known.__module__} and in {cls.__module__}; rename one, records and "
            "files hold the name"
        )
    registry[cls.__name__] = cls


def check_settings(setting: Any) -> None:
    """Every number among the fields of a dataclass is finite and not negative; an error names the field and the class."""
    for name, value in ((f.name, getattr(setting, f.name)) for f in dataclasses.fields(setting)):
        if isinstance(value, int | float) and not (math.isfinite(value) and value >= 0):
            raise TautError(f"{type(setting).__name__}: {name} must be finite and not negative, got {value}")
