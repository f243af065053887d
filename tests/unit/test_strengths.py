"""Strengths: one number for all layers, warm-up, and how weight decay stands beside the proximal step."""

import pytest
import torch
from torch import nn

from taut.errors import LayerError, TautError
from taut.layers import find_layers
from taut.regularizers import L1, L2, GroupLasso, Nuclear, NuclearSparseGroup, SparseGroupLasso
from taut.regularizers.hoyer_square import HoyerSquare
from taut.regularizers.learned_rank import LearnedRank
from taut.strengths import even
from taut.train import ProxOptimizer


def network(scale=1.0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 3))
    with torch.no_grad():
        model[3].weight.mul_(scale)
    return model


PENALTIES = [L1(0.2), L2(0.2), GroupLasso(0.2), SparseGroupLasso(0.2), Nuclear(0.2), HoyerSquare(0.2)]


@pytest.mark.parametrize("regularizer", PENALTIES, ids=str)
def test_every_layer_pays_the_same_per_weight(regularizer):
    model = network()
    layers = find_layers(model, torch.zeros(1, 1, 6, 6))
    for name, own in even(model, {"*": regularizer}).items():
        assert float(own.value(layers[name].weight)) == pytest.approx(0.2 * layers[name].weight.numel(), rel=1e-5)
    by_macs = even(model, {"*": regularizer, "5": None}, per="macs", example_input=torch.zeros(1, 1, 6, 6))
    assert set(by_macs) == {"0", "3"}
    assert float(by_macs["0"].value(layers["0"].weight)) == pytest.approx(0.2 * 36 * 16, rel=1e-5)


def test_both_strengths_of_a_sum_are_scaled_apart():
    model = network()
    own = even(model, {"3": NuclearSparseGroup(0.2, 0.1)})["3"]
    weight = model[3].weight
    assert float(Nuclear(own.nuclear).value(weight)) == pytest.approx(0.2 * 640, rel=1e-5)
    assert float(SparseGroupLasso(own.sparse_group).value(weight)) == pytest.approx(0.1 * 640, rel=1e-5)


@pytest.mark.parametrize("regularizer", [L1(0.2), GroupLasso(0.2), Nuclear(0.2)], ids=str)
def test_the_scale_of_a_layer_drops_out(regularizer):
    """With weights c times as large, a step of c^2 (what the gradient asks for there) gives c times the weight."""
    small, large = network(), network(8.0)
    one, two = (even(model, {"3": regularizer})["3"] for model in (small, large))
    assert torch.allclose(8 * one.prox(small[3].weight, 1e-4), two.prox(large[3].weight, 64e-4), atol=1e-5)


def test_errors():
    model = network()
    with pytest.raises(TautError, match="per 'params'"):
        even(model, {"*": L1()}, per="bytes")
    with pytest.raises(TautError, match="example_input"):
        even(model, {"*": L1()}, per="macs")
    with pytest.raises(LayerError, match="5: .* no scale"):
        nn.init.zeros_(model[5].weight)
        even(model, {"*": L1()})
    with pytest.raises(LayerError, match="no scale"):
        even(model, {"3": LearnedRank()})


def shrunk(steps, **options):
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    optimizer = ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, {"*": L1(0.2)}, **options)
    for _ in range(steps):
        model.weight.grad = torch.zeros(1, 1)
        optimizer.step()
    return model.weight.item()


def test_warmup_raises_the_strength_in_proportion():
    assert shrunk(3) == pytest.approx(1 - 3 * 0.02)
    assert shrunk(3, warmup=4) == pytest.approx(1 - 0.02 * (1 + 2 + 3) / 4)
    assert shrunk(7, warmup=4) == pytest.approx(1 - 0.02 * ((1 + 2 + 3) / 4 + 4))
    model = nn.Linear(1, 1)
    with pytest.raises(TautError, match="warmup"):
        ProxOptimizer(torch.optim.SGD(model.parameters()), model, {"*": L1()}, warmup=-1)


def test_warmup_goes_on_after_a_restart():
    model = nn.Linear(1, 1, bias=False)
    optimizer = ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, {"*": L1(0.2)}, warmup=4)
    for _ in range(2):
        model.weight.grad = torch.zeros(1, 1)
        optimizer.step()
    again = ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, {"*": L1(0.2)}, warmup=4)
    again.load_state_dict(optimizer.state_dict())
    nn.init.constant_(model.weight, 1.0)
    model.weight.grad = torch.zeros(1, 1)
    again.step()
    assert model.weight.item() == pytest.approx(1 - 0.02 * 3 / 4)


def fixed_point(optimizer, model):
    for _ in range(600):
        optimizer.zero_grad()
        (model.weight - 1).square().sum().div(2).backward()
        optimizer.step()
    return model.weight.item()


def test_weight_decay_beside_the_prox_is_as_documented():
    def run(inner, regularizer):
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, 0.5)
        return fixed_point(ProxOptimizer(inner(model.parameters()), model, {"*": regularizer}), model)

    # SGD: the decay of 0.5 is part of the gradient, w - 1 + 0.5 w + 0.1 (1 - b) = 0 with momentum b
    assert run(lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.5), L1(0.1)) == pytest.approx(0.6, abs=1e-3)
    momentum = run(lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.5), L1(0.1))
    assert momentum == pytest.approx((1 - 0.01) / 1.5, abs=1e-3)
    # against L2(d / (1 - b)) as a penalty of its own
    plain = run(lambda p: torch.optim.SGD(p, lr=0.001, momentum=0.9), L2(5.0))
    assert plain == pytest.approx(1 / 1.5, abs=1e-2)


def test_decoupled_decay_is_l2_of_the_same_number():
    def step(weight_decay, regularizer):
        torch.manual_seed(0)
        model = nn.Linear(6, 4)
        regularizers = {} if regularizer is None else {"*": regularizer}
        inner = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=weight_decay)
        optimizer = ProxOptimizer(inner, model, regularizers)
        before = model.weight.detach().clone()
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 6)).square().sum().backward()
            optimizer.step()
        return model.weight.detach() - before

    decay, l2, none = step(0.5, None), step(0.0, L2(0.5)), step(0.0, None)
    assert (decay - l2).norm() < 0.02 * (l2 - none).norm()
