"""Variational inference: a distribution over the weights, and the length of a message that sends them and the labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from taut.compressors.base import Code
from taut.compressors.prune import PruneCode
from taut.errors import TautError
from taut.numeric.singular import working
from taut.parametrizations.base import Gaussian, Parametrization

if TYPE_CHECKING:
    from taut.reparametrize import Wrapped


@dataclass(frozen=True)
class Variational(Parametrization):
    r"""A Gaussian posterior over each weight, under a Gaussian prior that a weight tensor's weights share
    (Graves 2011, *Practical variational inference for neural networks*, NIPS):

    .. math:: \min_{\mu, \sigma}\; \mathbb{E}_{w \sim N(\mu, \sigma^2)} [-\ln p(D \mid w)]
              + \sum_i \mathrm{KL}\bigl(N(\mu_i, \sigma_i^2) \,\|\, N(m, S^2)\bigr)

    which is the length in nats of a message with the labels and the weights. The prior is the best for the posterior,
    :math:`m = \overline{\mu}`, :math:`S^2 = \overline{\sigma^2 + (\mu - m)^2}`, with which the sum is
    :math:`\sum_i \ln (S / \sigma_i)`. In the end a weight is removed where its signal is weak against its noise,
    :math:`|\mu_i| / \sigma_i <` ``threshold``; the others are their means. Differences from the paper: one prior a weight
    tensor, not one a network; the gradient of :math:`\sigma` comes from reparametrized noise, which needs no second
    derivatives, where the paper takes half the mean squared gradient.

    The penalty is the second term, in nats, of the whole weight. It belongs to the *summed* negative log-likelihood of the
    training data: with a loss that is a mean over examples, add ``penalty() / examples``, the number of training examples.
    :func:`description_length` measures both terms, in bits.

    Right after wrapping, the weight in evaluation mode is the original where :math:`|w| \geq` ``threshold * sigma`` and zero
    elsewhere, with ``sigma = noise`` times its root mean square. To see other thresholds after one training, set
    ``latent.threshold`` on a copy before it is finalized.

    Args:
        threshold: the least :math:`|\mu| / \sigma` of a weight that is kept; 0 keeps all.
        noise: the first standard deviation, in units of the weight's root mean square; above 0.

    Example:
        >>> from taut.reparametrize import wrap
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> training, examples = wrap(model, {"*": Variational()}), 1000
        >>> loss = nn.functional.cross_entropy(model(torch.randn(8, 4)), torch.randint(2, (8,)))
        >>> (loss + training.penalty() / examples).backward()
    """

    threshold: float = 1.0
    noise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise == 0:
            raise TautError(f"{self}: noise must be more than 0")

    def latent(self, weight: Tensor) -> Posterior:
        scale = float(weight.detach().double().square().mean().sqrt())
        return Posterior(self.noise * (scale or weight[0].numel() ** -0.5), self.threshold)


class Posterior(Gaussian):
    """One weight's means and logarithms of standard deviations; ``threshold`` may be changed at any time."""

    def __init__(self, sigma: float, threshold: float) -> None:
        super().__init__(sigma)
        self.threshold = threshold

    def kept(self, mean: Tensor, log_sigma: Tensor) -> Tensor:
        return mean.abs() >= self.threshold * log_sigma.exp()

    def penalty(self, mean: Tensor, log_sigma: Tensor) -> Tensor:
        """KL in nats; the prior moves with the posterior, and its own gradient is part of this one."""
        mean, log_sigma = working(mean), working(log_sigma)
        variance = ((2 * log_sigma).exp() + (mean - mean.mean()).square()).mean()
        return mean.numel() / 2 * variance.log() - log_sigma.sum()

    def code(self, mean: Tensor, log_sigma: Tensor) -> Code:
        mask = self.kept(mean, log_sigma)
        return PruneCode(mean.detach()[mask], mask)


@dataclass(frozen=True)
class DescriptionLength:
    """Bits of a message with the training labels, ``error``, and the ``weights``; ``total`` is their sum."""

    error: float
    weights: float

    @property
    def total(self) -> float:
        return self.error + self.weights


def description_length(
    training: Wrapped, batches: Iterable[Any], loss: Callable[[nn.Module, Any], Tensor], samples: int = 16, seed: int = 0
) -> DescriptionLength:
    r"""The two terms that :class:`Variational` minimises, in bits: what a receiver needs who knows the inputs and the network.

    ``error`` is :math:`\mathbb{E}[-\log_2 p(D \mid w)]`, an average over ``samples`` draws of the weights for each batch;
    ``weights`` is the KL divergence. A coder attains the sum with bits back (Hinton and van Camp 1993), not as a plain file;
    the bytes of the pruned network are those of :func:`taut.save`. Not counted: the two numbers of each prior, and
    parameters that are not wrapped, such as biases. The model's other modules are in evaluation mode.

    Args:
        training: from :func:`taut.reparametrize.wrap`, every method in it :class:`Variational`.
        batches: the training data.
        loss: the *summed* negative log-likelihood of a batch, in nats (``reduction="sum"``).
        samples: draws of the weights for each batch.
        seed: of the draws; the caller's random numbers stay as they were.

    Example:
        >>> from taut.reparametrize import wrap
        >>> training = wrap(nn.Sequential(nn.Linear(4, 2)), {"*": Variational()})
        >>> data = [(torch.randn(8, 4), torch.randint(2, (8,)))]
        >>> length = description_length(training, data, lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1], reduction="sum"))
        >>> length.total == length.error + length.weights, length.error > 0, length.weights > 0
        (True, True, True)
    """
    latents = training.latents()
    if samples < 1 or not latents:
        raise TautError(f"description_length: {samples} samples of {len(latents)} weights; wrap a weight and draw at least once")
    for name, (latent, _) in latents.items():
        if not isinstance(latent, Posterior):
            raise TautError(f"{name}: trained by {type(latent).__name__}; only Variational has a description length")
    modes = [(module, module.training) for module in training.model.modules()]
    devices = [t.device for _, trained in latents.values() for t in trained if t.device.type == "cuda"]
    try:
        training.model.eval()
        for latent, _ in latents.values():
            latent.train()  # weights are drawn, not outputs; all else computes as it will be used
        with torch.no_grad(), torch.random.fork_rng(sorted({d.index for d in devices})):
            torch.manual_seed(seed)
            error = sum(float(loss(training.model, batch)) / samples for batch in batches for _ in range(samples))
            nats = float(training.penalty())
    finally:
        for module, mode in modes:
            module.training = mode
    return DescriptionLength(error / math.log(2), nats / math.log(2))
