"""Each law of parametrizations turns red on a method that breaks it."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from laws import parametrization_laws as laws
from torch import nn

from taut.parametrizations import HashedWeights, SparseVariationalDropout, Variational, description_length
from taut.parametrizations.hashed_weights import Shared
from taut.parametrizations.variational import DescriptionLength, Posterior


def planted(method, latent):
    """The method, with latents of the class ``latent``."""

    @dataclass(frozen=True)
    class Planted(method):
        def latent(self, weight):
            made = super().latent(weight)
            made.__class__ = latent
            return made

    return Planted


class LargerStart(Posterior):
    def right_inverse(self, weight):
        mean, log_sigma = super().right_inverse(weight)
        return 1.001 * mean, log_sigma


class SameMemory(Posterior):
    def right_inverse(self, weight):
        return weight, super().right_inverse(weight)[1]


class NoSlope(Posterior):
    def forward(self, mean, log_sigma):
        return super().forward(mean.detach(), log_sigma)

    def penalty(self, mean, log_sigma):
        return super().penalty(mean.detach(), log_sigma)

    def output(self, module, inputs, *latents):
        return None


class NoiseInEvaluation(Posterior):
    def forward(self, mean, log_sigma):
        return mean + 1e-9 * torch.randn_like(mean)


class UnprunedInEvaluation(Posterior):
    def forward(self, mean, log_sigma):
        return super().forward(mean, log_sigma) if self.training else mean


class HalfGradient(Posterior):
    def penalty(self, mean, log_sigma):
        return super().penalty(mean, 0.5 * log_sigma + 0.5 * log_sigma.detach())


class PenaltyOfAState(Posterior):
    """What it learned is in no tensor of its state."""

    steps = 0

    def forward(self, mean, log_sigma):
        self.steps += self.training
        return super().forward(mean, log_sigma) + self.steps

    def code(self, mean, log_sigma):
        code = super().code(mean, log_sigma)
        return replace(code, values=code.values + self.steps)

    def output(self, module, inputs, *latents):
        return None


class SharedByCopies(Shared):
    def __deepcopy__(self, memo):
        return self

    def forward(self, values):
        if self.training:
            self.sign.neg_()
        return super().forward(values)


class StandardDeviationForVariance(Posterior):
    def output(self, module, inputs, *latents):
        return super().output(module, inputs, latents[0], latents[1] / 2)


class OneDrawForAll(Posterior):
    """The layer's noise has the right size and no sign of its own."""

    def output(self, module, inputs, *latents):
        center = super().output(module, inputs, latents[0], latents[1] - 100)
        return center + (super().output(module, inputs, *latents) - center).abs()


class PriorWithoutNoise(Posterior):
    """The prior's variance forgets the posterior's own."""

    def penalty(self, mean, log_sigma):
        spread = (mean - mean.mean()).square().mean()
        variance = (2 * log_sigma).exp()
        return (0.5 * spread.log() - log_sigma + (variance + (mean - mean.mean()).square()) / (2 * spread) - 0.5).sum()


class PriorAtZero(Posterior):
    def penalty(self, mean, log_sigma):
        variance = ((2 * log_sigma).exp() + mean.square()).mean()
        return mean.numel() / 2 * variance.log() - log_sigma.sum()


CHECKS = {
    "a start that is not the weight": (LargerStart, lambda m: laws.check_start(m, "linear")),
    "trains in the weight's memory": (SameMemory, lambda m: laws.check_owns(m, torch.randn(3, 2, dtype=torch.float64))),
    "a tensor without a slope": (NoSlope, lambda m: laws.check_trains(m, "linear")),
    "noise in evaluation": (NoiseInEvaluation, lambda m: laws.check_repeats(m, "linear")),
    "evaluation is not what is stored": (UnprunedInEvaluation, lambda m: laws.check_finalize(m, "linear")),
    "half a gradient": (HalfGradient, lambda m: laws.check_penalty(m, "linear")),
    "a state that is not saved": (PenaltyOfAState, lambda m: laws.check_state_dict(m, "linear")),
    "a wrong variance": (StandardDeviationForVariance, lambda m: laws.check_draws(m, "linear")),
    "a wrong variance in convolutions": (StandardDeviationForVariance, lambda m: laws.check_draws(m, "conv2d")),
    "a wrong mean": (OneDrawForAll, lambda m: laws.check_draws(m, "linear")),
    "a prior without the noise": (PriorWithoutNoise, laws.check_evidence),
    "a prior with a mean of zero": (PriorAtZero, laws.check_evidence),
}


@pytest.mark.parametrize("fault", CHECKS)
def test_a_planted_latent_turns_its_law_red(fault):
    latent, check = CHECKS[fault]
    method = planted(Variational, latent)
    method.__name__ = f"Planted{latent.__name__}"
    with pytest.raises(AssertionError):
        check(method(threshold=1.0, noise=0.5))
    check(Variational(threshold=1.0, noise=0.5))


def test_copies_that_share_are_seen():
    with pytest.raises(AssertionError, match="copy"):
        laws.check_copy(planted(HashedWeights, SharedByCopies)(ratio=0.5), "linear")


def test_a_wrong_number_of_values_is_seen():
    class MoreValues(Shared):
        def forward(self, values):
            return super().forward(values) * torch.linspace(0.9, 1.1, self.index.numel()).to(values).reshape(self.shape)

    with pytest.raises(AssertionError):
        laws.check_start(planted(HashedWeights, MoreValues)(ratio=0.5), "linear")
    with pytest.raises(AssertionError):
        laws.check_finalize(planted(HashedWeights, MoreValues)(ratio=0.5), "linear")


def test_a_gradient_that_is_said_to_be_none_is_seen():
    with pytest.raises(AssertionError, match="not fixed"):
        laws.check_penalty(SparseVariationalDropout(), "linear", fixed=(1,))


@pytest.mark.parametrize("wrong", [lambda d: (d.error, 2 * d.weights), lambda d: (d.error * math.log(2), d.weights)])
def test_a_wrong_description_length_is_seen(wrong):
    def measure(*args, **kwargs):
        return DescriptionLength(*wrong(description_length(*args, **kwargs)))

    with pytest.raises(AssertionError, match="bits"):
        laws.check_description_length(measure)


def test_a_code_that_another_file_gives_is_seen(tmp_path, monkeypatch):
    original = laws.load

    def wrong(path, into):
        model = original(path, into=into)
        with torch.no_grad():
            next(p for m in model.modules() if isinstance(m, nn.Linear) for p in m.parameters()).add_(1e-9)
        return model

    monkeypatch.setattr(laws, "load", wrong)
    with pytest.raises(AssertionError, match="file"):
        laws.check_file(Variational(), "linear", tmp_path / "m.taut")
