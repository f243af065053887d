"""Sparse variational dropout: each weight learns its own noise, and those that are mostly noise are removed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from taut.compressors.base import Code
from taut.compressors.prune import PruneCode
from taut.errors import TautError
from taut.numeric.singular import working
from taut.parametrizations.base import Gaussian, Parametrization

K1, K2, K3 = 0.63576, 1.87320, 1.48695  # Molchanov et al. 2017, equation 14
CLIP = 8.0  # of log alpha; beyond it the penalty is flat
TINY = 1e-8  # a mean of zero has a logarithm


@dataclass(frozen=True)
class SparseVariationalDropout(Parametrization):
    r"""Gaussian noise of its own size on each weight, under a log-uniform prior, which favours weights that are all noise
    (Molchanov, Ashukha and Vetrov 2017, *Variational dropout sparsifies deep neural networks*, ICML, arXiv 1701.05369):

    .. math:: \min_{\theta, \sigma}\; \mathbb{E}_{w \sim N(\theta, \sigma^2)} [-\ln p(D \mid w)] + \sum_i \mathrm{KL}(\alpha_i),
              \qquad \alpha_i = \sigma_i^2 / \theta_i^2

    with :math:`-\mathrm{KL}(\alpha) \approx k_1 s(k_2 + k_3 \ln \alpha) - \tfrac12 \ln(1 + 1/\alpha) - k_1`, where :math:`s` is
    the logistic function (equation 14). The noise is additive: :math:`\theta` and :math:`\ln \sigma` are trained, so the
    gradient of :math:`\theta` has no noise in it; :math:`\ln \alpha` is held between -8 and 8 in the penalty. In
    the end a weight is removed where :math:`\ln \alpha >` ``threshold``; the others are their means.

    The penalty is the KL term in nats of the whole weight: with a loss that is a mean over examples, add
    ``warm * penalty() / examples`` with the number of training examples, and let ``warm`` rise from 0 to 1 over the first
    epochs: with the full term from a random start, all weights may be removed.

    Right after wrapping, the weight in evaluation mode is the original, but zero where
    :math:`|w| <` ``sigma`` :math:`e^{-\text{threshold} / 2}`. To see other thresholds after one training, set
    ``latent.threshold`` on a copy before it is finalized.

    Args:
        threshold: the largest :math:`\ln \alpha` of a weight that is kept.
        sigma: the first standard deviation, above 0: :math:`\ln \sigma^2 = -10` is usual.

    Example:
        >>> latent = SparseVariationalDropout().latent(torch.ones(1, 2)).eval()
        >>> latent(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 2.0]])).tolist()
        [[1.0, 0.0]]
    """

    threshold: float = 3.0
    sigma: float = math.exp(-5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma == 0:
            raise TautError(f"{self}: sigma must be more than 0")

    def latent(self, weight: Tensor) -> Noise:
        return Noise(self.sigma, self.threshold)


class Noise(Gaussian):
    """One weight's means and logarithms of standard deviations; ``threshold`` may be changed at any time."""

    def __init__(self, sigma: float, threshold: float) -> None:
        super().__init__(sigma)
        self.threshold = threshold

    def kept(self, mean: Tensor, log_sigma: Tensor) -> Tensor:
        return log_alpha(mean, log_sigma) <= self.threshold

    def penalty(self, mean: Tensor, log_sigma: Tensor) -> Tensor:
        alpha = log_alpha(working(mean), working(log_sigma)).clamp(-CLIP, CLIP)
        # equation 14 with 1 - s(x) = s(-x), so that nothing cancels
        return (K1 * torch.sigmoid(-K2 - K3 * alpha) + functional.softplus(-alpha) / 2).sum()

    def code(self, mean: Tensor, log_sigma: Tensor) -> Code:
        mask = self.kept(mean, log_sigma)
        return PruneCode(mean.detach()[mask], mask)


def log_alpha(mean: Tensor, log_sigma: Tensor) -> Tensor:
    """The logarithm of the noise's variance over the squared mean, not clipped.

    Example:
        >>> log_alpha(torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.0])).tolist()
        [0.0, 1.3862943649291992]
    """
    return 2 * (log_sigma - (mean.abs() + TINY).log())
