"""The gradual stage in the search."""

import pytest
import torch
from laws.budget_laws import network
from laws.compress_laws import blobs
from torch import nn

from taut.budget import Budget, Gradual, Recovery, compress
from taut.budget.gradual import shared
from taut.compressors import Quantize
from taut.errors import TautError

LONG = Recovery(epochs=12, lr=0.02, first=0.2)


def test_each_layer_has_a_table_of_its_weights():
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight[:, 2:] = 0
        net[2].weight.copy_(torch.tensor([[1.0, 0, 0, 2.0], [0, 1, 0, 0], [0, 0, 0, 0]]))
        net[3].weight.zero_()
    plan = shared(net, 5)
    assert set(plan) == {"0", "2", "3"} and isinstance(plan["3"], Quantize)
    assert plan["0"].first.density == pytest.approx(8 / 24) and plan["0"].second.k == 5 and plan["2"].second.k == 2


@pytest.mark.parametrize("seed", range(2))
def test_the_search_keeps_the_budget_with_fewer_and_shared_values(seed):
    train, val = blobs(seed), blobs(seed)[:2]
    net = network(seed, train)
    budget = Budget(loss_increase=0.1)
    result = compress(net, train, val, budget, methods=[Gradual(values=4)], recover=LONG, seed=seed, max_steps=4)
    assert result.best.step > 0 and result.best.bytes < 0.5 * result.baseline.bytes
    assert result.best.loss <= result.baseline.loss + 0.1
    for name, module in result.model.named_modules():
        if isinstance(module, nn.Linear):
            values = module.weight.detach().unique()
            assert len(values[values != 0]) <= 4, name


@pytest.mark.parametrize("settings", [{"values": 0}, {"until": 0.05}, {"until": 1.0}])
def test_settings_that_make_no_sense_are_named(settings):
    with pytest.raises(TautError, match="at least 1 value, and until from"):
        Gradual(**settings)
