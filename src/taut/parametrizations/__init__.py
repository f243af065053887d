"""Ways to train a weight other than directly."""

from taut.parametrizations.base import Gaussian, Latent, Parametrization
from taut.parametrizations.binary import Binary
from taut.parametrizations.entropy import Entropy
from taut.parametrizations.hashed_weights import HashedWeights
from taut.parametrizations.loss_aware import LossAware
from taut.parametrizations.sparse_variational_dropout import SparseVariationalDropout
from taut.parametrizations.svd_training import SvdTraining
from taut.parametrizations.variational import DescriptionLength, Variational, description_length

__all__ = [
    "Binary", "DescriptionLength", "Entropy", "Gaussian", "HashedWeights", "Latent", "LossAware", "Parametrization",
    "SparseVariationalDropout", "SvdTraining", "Variational", "description_length",
]  # fmt: skip
