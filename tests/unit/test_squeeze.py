"""Entropy-penalised training inside the search."""

import pytest
import torch
from laws.budget_laws import blobs, check_aim, trained
from torch import nn

from taut.budget import Budget, Recovery, compress
from taut.budget.rate import RateControl
from taut.budget.squeeze import setting
from taut.compressors import Chain, Codebook, Prune
from taut.compressors.coded import free_parameters
from taut.errors import TautError
from taut.layers import find_layers
from taut.parametrizations import Entropy

FAST = Recovery(epochs=6, lr=0.05, first=0.2)


@pytest.mark.parametrize("target", [500.0, 700.0])
@pytest.mark.parametrize("seed", range(2))
def test_the_file_comes_out_near_the_size_aimed_at(target, seed):
    check_aim(RateControl, target, seed)


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(3, 4),
        torch.ones(2, 2),
        torch.tensor([[0.0, -2.0, 1.0], [0.0, 0.0, 3.0]]),
        torch.eye(7) - 0.5 * torch.eye(7).flip(0),
    ],
    ids=["zeros", "ones", "grid", "two values"],
)
def test_a_grid_is_stored_exactly(weight):
    assert torch.equal(setting(weight).compress(weight).decompress(), weight)


@pytest.mark.parametrize(
    ("settings", "fix"),
    [({"minimize": "params"}, "minimize='bytes'"), ({"train": None}, "train="), ({"recover": False}, "recover=")],
)
def test_training_towards_a_size_needs_data_and_bytes(settings, fix):
    train, val = blobs(0), blobs(0)[:2]
    with pytest.raises(TautError, match=fix):
        compress(trained(0, train), **{"train": train, "val": val, "methods": [Entropy()], **settings})


class Tied(nn.Module):
    """Two layers that share a weight, and one of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.out = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.out(self.second(self.first(x).relu()).relu())


def test_a_shared_weight_is_left_to_the_search_by_layers():
    train, val = blobs(0), blobs(0)[:2]
    chain = Chain(Prune(by="fisher"), Codebook(k=8, keep_zero=False))
    net = Tied()
    result = compress(net, train, val, Budget(loss_increase=0.5), methods=[Entropy(), chain], recover=FAST, max_steps=8)
    plans = [point.plan for point in result.curve if point.step]
    assert "first" not in plans[0] and "out" in plans[0]
    assert any("first" in plan for plan in plans)
    assert result.model.first.weight is not None and torch.equal(result.model.first.weight, result.model.second.weight)


def test_frozen_weights_stay_frozen():
    train, val = blobs(0), blobs(0)[:2]
    net = trained(0, train)
    net[0].weight.requires_grad_(False)
    result = compress(net, train, val, Budget(loss_increase=0.5), methods=[Entropy()], recover=FAST, max_steps=3)
    assert len(result.curve) > 1
    for name, layer in find_layers(result.model).items():
        trained_on = free_parameters(layer.module, layer.parameter)
        assert trained_on and all(p.requires_grad == (name != "0") for p in trained_on), name
