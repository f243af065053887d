"""Compression under a budget: what may be lost, and the search that spends it."""

from taut.budget.budget import Budget
from taut.budget.compress import compress, default_methods
from taut.budget.gradual import Gradual
from taut.budget.narrow import Shrink
from taut.budget.recover import Recovery
from taut.budget.run import Result

__all__ = ["Budget", "Gradual", "Recovery", "Result", "Shrink", "compress", "default_methods"]
