"""Ways to train a weight other than directly."""

from taut.parametrizations.base import Latent, Parametrization
from taut.parametrizations.entropy import Entropy

__all__ = ["Entropy", "Latent", "Parametrization"]
