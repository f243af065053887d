"""Every law on every parametrization of taut, on networks of every kind of layer."""

import pytest
import torch
from laws import parametrization_laws as laws
from laws.regularizer_laws import check_registered

from taut.parametrizations import (
    Binary,
    Entropy,
    Gaussian,
    HashedWeights,
    LossAware,
    Parametrization,
    SparseVariationalDropout,
    SvdTraining,
    Variational,
)

METHODS = [
    Entropy(levels=1),
    Entropy(levels=3),
    Variational(),
    Variational(threshold=0.0, noise=0.5),
    Variational(threshold=4.0, noise=0.2),
    SparseVariationalDropout(),
    SparseVariationalDropout(sigma=0.1),
    SvdTraining(),
    SvdTraining(sparsity=0.1, norm="l1", energy=0.6),
    SvdTraining(energy=0.7, scheme=2),
    SvdTraining(energy=1.0),
    HashedWeights(),
    HashedWeights(ratio=0.5, seed=3),
    HashedWeights(ratio=1.0),
    LossAware(),
    LossAware(decay=0.5),
    Binary(),
    Binary(scale="none"),
    Binary(scale="tensor"),
]
METHODS += laws.discovered(METHODS)
ALL = pytest.mark.parametrize("method", METHODS, ids=str)
NETWORKS = pytest.mark.parametrize("name", laws.NETWORKS)
# the entropy's slope is for the values; its step learns from the loss alone, as its page says
FIXED = {Entropy: (1,)}


@ALL
@NETWORKS
def test_the_weight_starts_as_documented(method, name):
    laws.check_start(method, name)


@ALL
@pytest.mark.parametrize("shape", [(5, 3), (3, 2, 2), (4, 1, 3, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.0], ids=["random", "zero"])
def test_the_weight_given_stays(method, shape, scale):
    laws.check_owns(method, scale * torch.randn(shape, dtype=torch.float64))


@ALL
@NETWORKS
def test_everything_trains(method, name):
    laws.check_trains(method, name)


@ALL
@NETWORKS
def test_evaluation_has_no_noise(method, name):
    laws.check_repeats(method, name)


@ALL
@NETWORKS
def test_the_final_network_is_the_wrapped_one(method, name):
    laws.check_finalize(method, name)


@ALL
@pytest.mark.parametrize("name", ["linear", "conv2d", "lstm"])
def test_the_final_network_comes_back_from_its_file(method, name, tmp_path):
    laws.check_file(method, name, tmp_path / "m.taut")


@ALL
@pytest.mark.parametrize("name", ["linear", "conv2d"])
def test_the_penalty_and_its_gradient(method, name):
    laws.check_penalty(method, name, FIXED.get(type(method), ()))


@ALL
@NETWORKS
def test_a_copy_stands_alone(method, name):
    laws.check_copy(method, name)


@ALL
@NETWORKS
def test_a_state_goes_on(method, name):
    laws.check_state_dict(method, name)


@pytest.mark.parametrize("method", [Variational(), SparseVariationalDropout()], ids=str)
@pytest.mark.parametrize("name", ["linear", "conv1d", "conv2d"])
def test_outputs_have_the_mean_and_variance_of_the_weights(method, name):
    laws.check_draws(method, name)


def test_every_gaussian_is_drawn_in_the_law():
    known = {type(m.latent(torch.ones(2, 2))) for m in (Variational(), SparseVariationalDropout())}
    assert {type(m.latent(torch.ones(2, 2))) for m in METHODS if isinstance(m.latent(torch.ones(2, 2)), Gaussian)} == known


def test_the_best_description_length_is_the_evidence():
    laws.check_evidence(Variational())


def test_the_measured_description_length_is_the_evidence_in_bits():
    laws.check_description_length()


@ALL
def test_the_method_is_registered(method):
    check_registered(method, Parametrization.registry)
