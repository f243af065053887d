"""Weights removed gradually: how many are left when, which, and what comes out."""

import pytest
import torch
from laws.budget_laws import network
from laws.compress_laws import blobs
from torch import nn

from taut.budget import Budget, Gradual, Recovery, compress
from taut.budget.gradual import EVERY, MEMORY, Remover, shared
from taut.compressors import Quantize
from taut.errors import TautError
from taut.numeric.significance import log_odds

LONG = Recovery(epochs=12, lr=0.02, first=0.2)


def two(seed: int = 0) -> list[nn.Parameter]:
    torch.manual_seed(seed)
    return [nn.Parameter(torch.randn(30, 20)), nn.Parameter(torch.randn(12, 30))]


def feed(remover: Remover, gradients, done: float) -> None:
    for w, gradient in zip(remover.weights, gradients, strict=True):
        w.grad = gradient
    remover(done)


@pytest.mark.parametrize("count", [300, 40])
def test_the_number_falls_geometrically_and_what_is_gone_stays_gone(count):
    weights = two()
    remover, total = Remover(weights, count, until=0.5, bits=4.0), 960
    gone = [torch.zeros_like(w, dtype=torch.bool) for w in weights]
    for step in range(101):
        feed(remover, [torch.randn_like(w) for w in weights], step / 100)
        left = sum(int((w != 0).sum()) for w in weights)
        if step:
            assert left == pytest.approx(total * (count / total) ** min(1.0, step / 50), abs=1)
        for w, before in zip(weights, gone, strict=True):
            assert not (before & (w != 0)).any()
            before |= w == 0
            with torch.no_grad():
                w += 0.1 * torch.randn_like(w)  # as an optimizer with momentum would
    assert left == count


def test_what_goes_is_worth_least_for_its_bits():
    weights = two(1)
    start = [w.detach().clone() for w in weights]
    gradients = [torch.randn_like(w) for w in weights]
    remover = Remover(weights, 500, until=0.5, bits=4.0)
    feed(remover, gradients, EVERY)
    left = [w != 0 for w in weights]
    worth = []
    for w, g, near in zip(start, gradients, remover.near, strict=True):
        bits = 4.0 - log_odds(torch.ones_like(w, dtype=torch.bool), near)[0]
        worth.append(w.square() * (1 - MEMORY) * g.square() / bits.clamp(min=1.0))
    kept = torch.cat([v[mask] for v, mask in zip(worth, left, strict=True)])
    removed = torch.cat([v[~mask] for v, mask in zip(worth, left, strict=True)])
    assert len(removed) > 0 and float(removed.max()) <= float(kept.min())


def test_a_layer_that_is_worth_little_keeps_a_weight():
    weights = two()
    remover = Remover(weights, 10, until=0.2, bits=4.0)
    for step in range(1, 60):
        feed(remover, [torch.randn_like(weights[0]), 1e-9 * torch.randn_like(weights[1])], step / 60)
    assert 1 <= int((weights[1] != 0).sum()) <= 3 and int((weights[0] != 0).sum()) >= 8


def test_zeros_of_the_start_stay_zero_and_a_looser_count_removes_nothing():
    weights = two()
    with torch.no_grad():
        weights[0][:, :10] = 0
    remover = Remover(weights, 5000, until=0.5, bits=4.0)
    for step in range(1, 20):
        with torch.no_grad():
            weights[0] += 0.01
        feed(remover, [torch.randn_like(w) for w in weights], step / 20)
    assert int((weights[0] != 0).sum()) == 300 and int((weights[1] != 0).sum()) == 360


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
