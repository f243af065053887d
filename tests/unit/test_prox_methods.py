"""The ways of shrinking singular values, as a user meets them: in the regularizer and in the optimizer."""

import copy

import pytest
import torch
from torch import nn

from taut.errors import TautError
from taut.layers import find_layers
from taut.numeric import thresholding
from taut.numeric.thresholding import METHODS, choose
from taut.regularizers import Nuclear, NuclearSparseGroup
from taut.train import ProxOptimizer


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("view", ["matrix", "matrix2"])
def test_every_method_shrinks_both_matrices_of_a_convolution(method, view):
    w = normal(12, 5, 3, 2)
    exact, memory = Nuclear(0.5, view).prox(w.double(), 1.0), {}
    shrunk = Nuclear(0.5, view, method).warm_prox(w, 1.0, memory)
    assert shrunk.shape == w.shape and torch.allclose(shrunk.double(), exact, atol=1e-5)
    assert bool(memory) == (method == "subspace")
    both = NuclearSparseGroup(0.5, 0.2, matrix=view, method=method)
    plain = NuclearSparseGroup(0.5, 0.2, matrix=view).prox(w.double(), 1.0)
    assert torch.allclose(both.warm_prox(w, 1.0, {}).double(), plain, atol=1e-5)


def test_names_do_not_change_with_the_method_unless_it_is_chosen():
    assert str(Nuclear(0.5)) == "Nuclear(strength=0.5, view=matrix)"
    assert str(Nuclear(0.5, method="polar")) == "Nuclear(strength=0.5, view=matrix, method=polar)"
    assert Nuclear(0.5).exact() and not Nuclear(0.5, method="polar").exact()
    for cls in (Nuclear, NuclearSparseGroup):
        with pytest.raises(TautError, match="'quick'.*auto, svd, gram, subspace, polar"):
            cls(method="quick")


def test_the_choice():
    large, small = torch.empty(1000, 600, device="meta"), torch.empty(16, 900, device="meta")
    assert choose(small, True) == choose(small, False) == "gram"
    assert choose(large, True) == "subspace" and choose(large, False) == "polar"  # meta stands for an accelerator
    assert choose(large.double(), True) == "svd" and choose(torch.empty(600, 600), False) == "gram"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["subspace", "polar"])
def test_half_precision_is_computed_in_single(method, dtype):
    w = normal(20, 30).to(dtype)
    shrunk = Nuclear(1.0, method=method).prox(w, 1.0)
    assert torch.equal(shrunk, Nuclear(1.0, method=method).prox(w.float(), 1.0).to(dtype))


def training(model, seed=0, every=2):
    """A few steps towards a random target, with a basis kept between the proximal steps."""
    optimizer = ProxOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5), model, {"*": Nuclear(0.05, method="subspace")}, every=every
    )

    def steps(start, count):
        for i in range(start, start + count):
            optimizer.zero_grad()
            (model(normal(8, 24, seed=seed + i)) - 1).square().mean().backward()
            optimizer.step()

    return optimizer, steps


def test_the_memory_resumes_bit_for_bit():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(24, 20), nn.Tanh(), nn.Linear(20, 24))
    optimizer, steps = training(model)
    steps(0, 6)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    assert set(saved[1]["prox"]["memory"]) == {"0", "2"} and saved[1]["prox"]["memory"]["0"]["calls"] == 3
    steps(6, 6)
    again = copy.deepcopy(model)
    again.load_state_dict(saved[0])
    resumed, steps = training(again)
    resumed.load_state_dict(saved[1])
    steps(6, 6)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    # a state that does not fit (another shape) is found anew
    resumed.memory["0"]["basis"] = torch.zeros(3, 3)
    steps(12, 2)
    assert resumed.memory["0"]["basis"].shape[0] == 20


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU])
def test_recurrent_weights_become_low_rank(make):
    model = make(10, 12)
    weights = {name: layer.weight.detach().clone() for name, layer in find_layers(model).items()}
    ProxOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), model, {"*": Nuclear(1.0)}).prox()
    for name, layer in find_layers(model).items():
        exact = Nuclear(1.0, method="svd").prox(weights[name], 1.0)
        assert torch.allclose(layer.weight, exact, atol=1e-6)
        assert torch.linalg.matrix_rank(layer.weight) < min(exact.shape)


def test_separate_projections_of_attention_are_layers_and_a_packed_one_is_not():
    """A packed ``in_proj_weight`` is no layer; the output's projection is."""
    assert set(find_layers(nn.MultiheadAttention(8, 2))) == {"out_proj"}


def test_the_default_threshold_of_size_is_where_the_docs_say():
    assert thresholding.SMALL == 128
