"""Factoring while training: every optimizer, both kinds of layers, and the helper that decides when."""

import copy

import pytest
import torch
from laws.factor_laws import OPTIMIZERS, case, check_carries_on, check_momentum, check_same_function, exactly, train
from torch import nn

from taut.compressors import LowRank
from taut.compressors.coded import Factored
from taut.errors import LayerError, TautError
from taut.factor import FactorEarly, factor_layer
from taut.layers import find_layers
from taut.regularizers import Nuclear
from taut.train import ProxOptimizer


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_the_function_stays(kind):
    check_same_function(factor_layer, kind)


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_optimizer_goes_on(optimizer, kind):
    check_carries_on(factor_layer, optimizer, kind)


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "rmsprop", "adagrad"])
def test_momentum_is_carried(optimizer):
    check_momentum(factor_layer, optimizer)


def test_the_momentum_is_that_of_the_factors_trained_from_the_start():
    """With a step of zero length the factors stand still: the mapped momentum is then theirs, to rounding."""
    model, x, layer = case("conv")
    late, early = copy.deepcopy(model), model
    opts = [torch.optim.SGD(m.parameters(), lr=0.0, momentum=0.9) for m in (late, early)]
    factor_layer(early, opts[1], layer, LowRank(3))
    for m, opt in zip((late, early), opts, strict=True):
        train(m, opt, x, 5)
    factor_layer(late, opts[0], find_layers(late)["0"], LowRank(3))
    for a, b in zip(late[0], early[0], strict=True):
        buffers = opts[0].state[a.weight]["momentum_buffer"], opts[1].state[b.weight]["momentum_buffer"]
        assert torch.allclose(*buffers, rtol=1e-3, atol=1e-6)


def prox(model, strength=0.4):
    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return ProxOptimizer(inner, model, {"*": Nuclear(strength)}, every=3)


def test_a_layer_is_replaced_once_its_rank_stays():
    model, x, _ = case()
    optimizer = prox(model)
    early = FactorEarly(model, optimizer, patience=2)
    found = []
    for _ in range(30):
        train(model, optimizer, x, 4)
        found.append(early.step())
    assert sum(found, []).count("0") == 1 and isinstance(model[0], Factored)
    at = next(i for i, names in enumerate(found) if "0" in names)
    assert len(set(early.ranks["0"][at - 2 : at + 1])) == 1, "the rank had not settled"
    assert early.factored["0"] == early.ranks["0"][-1]
    assert all(layer.name not in early.factored for layer, _ in optimizer.chosen)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    train(model, optimizer, x, 4)


def test_a_rank_that_saves_nothing_or_moves_is_left():
    model, x, _ = case()
    early = FactorEarly(model, torch.optim.SGD(model.parameters(), lr=0.0), layers="3", patience=1)
    assert [early.step() for _ in range(4)] == [[]] * 4  # full rank
    early = FactorEarly(model, torch.optim.SGD(model.parameters(), lr=0.0), layers="0", patience=1)
    for rank in (9, 8, 7, 6, 5):
        exactly(rank, model[0].requires_grad_(True))
        nn.init.orthogonal_(model[0].weight)
        exactly(rank, model[0])
        assert early.step() == []
    assert early.step() == ["0"]
    assert early.factored == {"0": 5}


def test_the_tolerance_lets_a_rank_move():
    model, _, _ = case()
    early = FactorEarly(model, torch.optim.SGD(model.parameters(), lr=0.0), layers="0", patience=2, tolerance=0.25)
    results = []
    for rank in (8, 7, 6, 6):
        nn.init.orthogonal_(model[0].weight)
        exactly(rank, model[0])
        results.append(early.step())
    assert results == [[], [], ["0"], []]


def test_frozen_and_foreign_weights_are_named():
    model, _, layer = case()
    with pytest.raises(LayerError, match="does not hold"):
        factor_layer(model, torch.optim.SGD(model[3].parameters(), lr=0.1), layer, LowRank(3))
    assert isinstance(model[0], nn.Linear)
    for wrong in ({"energy": 0.0}, {"energy": 1.5}, {"patience": 0}, {"tolerance": -1.0}):
        with pytest.raises(TautError, match="FactorEarly"):
            FactorEarly(model, torch.optim.SGD(model.parameters(), lr=0.1), **wrong)
