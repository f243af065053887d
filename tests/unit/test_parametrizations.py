"""Each parametrization's own promises: closed forms, settings, errors, and the layers they are used in."""

import copy
import math

import numpy as np
import pytest
import torch
from laws import parametrization_laws as laws
from torch import nn
from torch.nn.utils import parametrize

from taut.codec.files import load, save
from taut.compressors import LowRank
from taut.compressors.base import DenseCode
from taut.compressors.low_rank import LowRankCode
from taut.compressors.prune import PruneCode
from taut.errors import LayerError, TautError
from taut.parametrizations import (
    Entropy,
    HashedWeights,
    SparseVariationalDropout,
    SvdTraining,
    Variational,
    description_length,
)
from taut.reparametrize import wrap


def only(training):
    ((latent, tensors),) = training.latents().values()
    return latent, tensors


# variational inference


def test_training_by_draws_finds_the_exact_posterior():
    x, y, noise = laws.regression()
    mean, variance, _ = laws.exact_posterior(x, y, noise)
    training = wrap(nn.Sequential(nn.Linear(x.shape[1], 1, bias=False).double()), {"*": Variational()})
    _, (means, log_sigmas) = only(training)
    optimizer = torch.optim.Adam(training.model.parameters(), lr=0.1)
    steps, tail = 800, []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps) + 1e-3
        optimizer.zero_grad()
        error = (y - training.model(x)[:, 0]).square().sum() / (2 * noise**2)
        ((error + training.penalty()) / len(y)).backward()  # as a loss that is a mean, with the penalty over the examples
        optimizer.step()
        tail.append(torch.stack([means.detach()[0], log_sigmas.detach()[0]]))
    found = torch.stack(tail[-200:]).mean(0)
    assert float(((found[0] - mean).abs() / variance.sqrt()).max()) < 0.25
    assert float((found[1] - variance.sqrt().log()).abs().max()) < 0.2


def test_the_prior_is_the_best_one():
    latent = Variational().latent(torch.ones(3, 4))
    mean, log_sigma = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)

    def divergence(m, s):
        posterior = torch.distributions.Normal(mean, log_sigma.exp())
        return float(torch.distributions.kl_divergence(posterior, torch.distributions.Normal(m, s)).sum())

    m = float(mean.mean())
    s = math.sqrt(float(((2 * log_sigma).exp() + (mean - m).square()).mean()))
    least = float(latent.penalty(mean, log_sigma))
    assert math.isclose(least, divergence(m, s), rel_tol=1e-12)
    assert all(divergence(m + dm, s * ds) > least for dm, ds in ((0.01, 1), (-0.01, 1), (0, 1.01), (0, 0.99)))


def test_the_threshold_may_change_after_training():
    training, _ = laws.trained(Variational(threshold=0.0, noise=0.5), "linear")
    kept = []
    for threshold in (0.0, 1.0, 2.0, 1e6):
        other = copy.deepcopy(training)
        for latent, _ in other.latents().values():
            latent.threshold = threshold
        kept.append(sum(int((w != 0).sum()) for w in laws.weights(other.finalize()).values()))
    assert kept == sorted(kept, reverse=True) and kept[0] > kept[2] > kept[3] == 0


def test_a_network_without_weights_has_a_file(tmp_path):
    training, x = laws.trained(Variational(threshold=1e6), "linear")
    model = training.finalize()
    save(model, tmp_path / "m.taut")
    opened = load(tmp_path / "m.taut", into=laws.network("linear", seed=1)[0])
    assert torch.equal(laws.evaluate(opened, x), laws.evaluate(model, x))
    assert not any(bool(w.any()) for w in laws.weights(opened).values())


def test_a_description_length_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 2))
    training = wrap(model.train(), {"*": Variational()})
    model[1].eval()
    modes = [m.training for m in model.modules()]
    batches = [(torch.randn(5, 4), torch.randint(2, (5,)))]

    def loss(m, batch):
        return nn.functional.cross_entropy(m(batch[0]), batch[1], reduction="sum")

    state = torch.get_rng_state()
    first = description_length(training, batches, loss)
    assert torch.equal(torch.get_rng_state(), state) and [m.training for m in model.modules()] == modes
    assert description_length(training, batches, loss) == first != description_length(training, batches, loss, seed=1)
    with pytest.raises(ZeroDivisionError):
        description_length(training, batches, lambda m, batch: 1 / 0)
    assert [m.training for m in model.modules()] == modes


def test_a_description_length_needs_variational_weights():
    def loss(model, batch):
        return model(batch).sum()

    training = wrap(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), {"0": Variational(), "1": Entropy()})
    with pytest.raises(TautError, match="1: .*Grid"):
        description_length(training, [torch.ones(1, 4)], loss)
    training = wrap(nn.Sequential(nn.Linear(4, 3)), {"*": Variational()})
    with pytest.raises(TautError, match="0 samples"):
        description_length(training, [torch.ones(1, 4)], loss, samples=0)


# sparse variational dropout


@pytest.mark.parametrize("log_alpha", [-7.5, -4.0, -2.0, 0.0, 1.0, 3.0, 7.5])
def test_the_divergence_is_near_the_integral(log_alpha):
    """KL = E ln|1 + sqrt(alpha) e| - ln(alpha) / 2 + constant, with the constant that makes it vanish for large alpha."""
    root = math.exp(log_alpha / 2)
    # e runs through equal shares of the normal distribution's mass
    shares = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    noise = torch.special.ndtri(shares)
    integral = float((1 + root * noise).abs().log().mean()) - log_alpha / 2 + (np.euler_gamma + math.log(2)) / 2
    latent = SparseVariationalDropout().latent(torch.ones(1))
    value = float(latent.penalty(torch.ones(1, dtype=torch.float64), torch.full((1,), log_alpha / 2, dtype=torch.float64)))
    assert abs(value - integral) < 0.02


def test_the_penalty_pulls_towards_noise_and_is_clipped():
    latent = SparseVariationalDropout().latent(torch.ones(1))
    log_sigma = torch.linspace(-10, 10, 201, dtype=torch.float64, requires_grad=True)
    values = [float(latent.penalty(torch.ones(1, dtype=torch.float64), s.reshape(1))) for s in log_sigma.detach()]
    assert all(a >= b for a, b in zip(values, values[1:]))
    assert values[0] == values[50] and values[-1] == values[-51] and abs(values[-1]) < 1e-3


def test_weights_that_are_mostly_noise_are_removed():
    latent = SparseVariationalDropout(threshold=3.0).latent(torch.ones(2, 2)).eval()
    mean = torch.tensor([[1.0, -1.0], [1.0, 0.0]])
    log_alpha = torch.tensor([[2.9, 3.1], [-5.0, 0.0]])
    code = latent.code(mean, log_alpha / 2)
    assert isinstance(code, PruneCode) and code.mask.tolist() == [[True, False], [True, False]]
    latent.threshold = 3.2
    assert latent.code(mean, log_alpha / 2).mask.tolist() == [[True, True], [True, False]]


def test_sparse_variational_dropout_removes_inputs_that_tell_nothing():
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(200, 10, generator=generator)
    y = x[:, :2] @ torch.tensor([1.5, -2.0])
    model = nn.Sequential(nn.Linear(10, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(0.3 * torch.randn(1, 10, generator=generator))
    training = wrap(model, {"*": SparseVariationalDropout()})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for step in range(500):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 500)
        optimizer.zero_grad()
        warm = min(1.0, step / 100)
        loss = (model(x)[:, 0] - y).square().mean() / (2 * 0.3**2) + warm * training.penalty() / len(x)
        loss.backward()
        optimizer.step()
    weight = training.finalize()[0].weight
    assert (weight != 0).tolist() == [[True] * 2 + [False] * 8]


# SVD training


def test_at_the_start_the_penalty_is_only_that_of_the_singular_values():
    w = torch.randn(6, 4, dtype=torch.float64)
    s = torch.linalg.svdvals(w)
    for norm, expected in (("l1", s.sum()), ("hoyer", s.sum() / s.norm())):
        latent = SvdTraining(sparsity=0.5, norm=norm, orthogonality=10.0).latent(w)
        assert math.isclose(float(latent.penalty(*latent.right_inverse(w))), 0.5 * float(expected), rel_tol=1e-10)
    left, values, right = latent.right_inverse(w)
    bent = float(latent.penalty(2 * left, values, right)) - 0.5 * float(s.sum() / s.norm())
    assert math.isclose(bent, 10.0 * 4 * 9 / 16, rel_tol=1e-10)  # ||4 I - I||^2 / r^2 with r = 4


@pytest.mark.parametrize("scheme", [1, 2])
def test_its_code_is_the_best_of_its_rank_before_training(scheme):
    w = torch.randn(8, 6, 3, 3, dtype=torch.float64)
    latent = SvdTraining(scheme=scheme).latent(w)
    tensors = latent.right_inverse(w)
    ranks = []
    for latent.energy in (0.2, 0.4, 0.6, 1.0):
        code = latent.code(*tensors)
        if isinstance(code, DenseCode):
            assert torch.allclose(code.value, w)
            continue
        rank = code.second.shape[1]
        best = LowRank(rank=rank, scheme=scheme).compress(w)
        assert [code.first.shape, code.second.shape] == [best.first.shape, best.second.shape]
        assert torch.allclose(code.decompress(), best.decompress())
        ranks.append(rank)
    assert ranks == sorted(ranks) and len(ranks) >= 2


def test_two_factors_that_save_nothing_are_multiplied_out():
    model = nn.Sequential(nn.Linear(6, 5))
    wrap(model, {"*": SvdTraining(energy=1.0)}).finalize()
    assert type(model[0]) is nn.Linear and not parametrize.is_parametrized(model[0])


def test_a_linear_layer_multiplies_by_the_factors_in_turn():
    model = nn.Sequential(nn.Linear(60, 50)).double()
    training = wrap(model, {"*": SvdTraining()})
    latent, tensors = only(training)
    few, many = torch.randn(3, 60, dtype=torch.float64), torch.randn(20, 30, 60, dtype=torch.float64)
    assert latent.output(model[0], many, *tensors) is None
    assert torch.allclose(latent.output(model[0], few, *tensors), nn.functional.linear(few, model[0].weight, model[0].bias))
    assert torch.allclose(model(few), model(few.expand(500, 3, 60))[0])


def test_finalized_layers_are_two_small_ones():
    model = nn.Sequential(nn.Linear(40, 30), nn.Conv2d(8, 8, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(30, 2) @ torch.randn(2, 40))
    training = wrap(model, {"0": SvdTraining()})
    assert isinstance(only(training)[0].code(*only(training)[1]), LowRankCode)
    training.finalize()
    assert sum(p.numel() for p in model[0].parameters()) == 2 * (30 + 40) + 30


# hashed networks


def test_hashed_outputs_start_with_the_variance_of_dense_ones():
    x = torch.randn(200, 400)
    for ratio in (1 / 64, 1 / 8, 0.5):
        dense, hashed = nn.Linear(400, 300, bias=False), nn.Linear(400, 300, bias=False)
        hashed.load_state_dict(dense.state_dict())
        wrap(nn.Sequential(hashed), {"*": HashedWeights(ratio=ratio)})
        assert abs(float((hashed(x).var() / dense(x).var()).detach()) - 1) < 0.1


def test_a_value_gets_the_signed_sum_of_its_weights_gradients():
    w = torch.randn(6, 5)
    latent = HashedWeights(ratio=0.2).latent(w)
    (values,) = latent.right_inverse(w)
    slope = torch.randn(6, 5)
    values.requires_grad_()
    (latent(values) * slope).sum().backward()
    expected = torch.zeros(6)
    for place, index, sign in zip(range(30), latent.index.tolist(), latent.sign.tolist()):
        expected[index] += sign * slope.reshape(-1)[place]
    assert torch.allclose(values.grad, expected, atol=1e-6)


# in a model


def test_other_parametrizations_of_a_layer_stay():
    class Double(nn.Module):
        def forward(self, bias):
            return 2 * bias

    layer = nn.Linear(4, 3)
    parametrize.register_parametrization(layer, "bias", Double())
    model = nn.Sequential(layer)
    training = wrap(model.train(), {"*": Variational(threshold=0.0)})
    x = torch.randn(2, 4)
    assert not torch.equal(model(x), model(x))
    before = laws.evaluate(model, x)
    training.finalize()
    model.train()
    assert torch.equal(model(x), before) and torch.equal(model(x), before)
    assert parametrize.is_parametrized(layer, "bias")


def test_a_layer_with_its_own_way_of_computing_keeps_it():
    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(Twice(4, 3))
    plain = copy.deepcopy(model)
    wrap(model, {"*": SvdTraining(energy=1.0)})
    x = torch.randn(2, 4)
    assert torch.allclose(model.train()(x), plain(x), atol=1e-6)


def test_attention_draws_its_output_layer():
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    training = wrap(model.train(), {"self_attn.out_proj": Variational(threshold=0.0)})
    x = torch.randn(2, 5, 8)
    assert not torch.equal(model(x), model(x))
    before = laws.evaluate(model, x)
    training.finalize()
    assert torch.allclose(laws.evaluate(model, x), before, atol=1e-6)


@pytest.mark.parametrize("method", [Variational(), SparseVariationalDropout(), SvdTraining(), HashedWeights()], ids=str)
def test_half_precision_trains(method):
    model = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)).bfloat16()
    x = torch.randn(8, 16, dtype=torch.bfloat16)
    training = wrap(model, {"*": method})
    loss = model(x).float().square().mean() + 1e-3 * training.penalty().float()
    loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    assert training.finalize()(x).dtype == torch.bfloat16


def test_inputs_of_zero_give_no_nan():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    training = wrap(model.train(), {"*": SparseVariationalDropout()})
    (model(torch.zeros(2, 4)).sum() + training.penalty()).backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Variational(noise=0.0), "noise must be more than 0"),
        (lambda: Variational(threshold=-1.0), "threshold must be finite"),
        (lambda: SparseVariationalDropout(sigma=0.0), "sigma must be more than 0"),
        (lambda: SvdTraining(norm="l2"), "'hoyer' or 'l1'"),
        (lambda: SvdTraining(energy=0.0), "energy must be above 0"),
        (lambda: SvdTraining(energy=1.5), "energy must be above 0"),
        (lambda: SvdTraining(scheme=3), "scheme must be 1 or 2"),
        (lambda: HashedWeights(ratio=0.0), "ratio must be above 0"),
        (lambda: HashedWeights(seed=-1), "HashedWeights: seed must be finite"),
    ],
)
def test_settings_that_make_no_sense(make, text):
    with pytest.raises(TautError, match=text):
        make()


def test_a_vector_has_no_factors():
    with pytest.raises(LayerError, match="not a matrix"):
        SvdTraining().latent(torch.ones(3))
