"""What is taken out of a bias does nothing: checked against setting every entry to zero by itself."""

import copy

import pytest
import torch
from torch import nn

from taut.binary import Sign
from taut.budget.silence import silence
from taut.objective import Objective


def sparse(seed: int, norm: bool) -> nn.Sequential:
    """A network most of whose weights are gone."""
    torch.manual_seed(seed)
    norms = [nn.BatchNorm1d(12), nn.BatchNorm1d(9)] if norm else [nn.Identity(), nn.Identity()]
    parts = (nn.Linear(5, 12), norms[0], nn.ReLU(), nn.Linear(12, 9), norms[1], nn.ReLU(), nn.Linear(9, 3))
    net = nn.Sequential(*parts).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.randn_like(parameter).abs() + 0.5)  # no unit is silent
            else:
                parameter.abs_().mul_(torch.rand_like(parameter) < 0.2)
    return net


def batches(seed: int) -> list:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.rand(16, 5, generator=generator), torch.randint(0, 3, (16,), generator=generator)) for _ in range(6)]


def idle(net: nn.Sequential, x: torch.Tensor) -> dict[tuple[str, int], bool]:
    """Slow and obvious: whether the outputs stay when one entry is zero."""
    told, before = {}, net(x)
    for name, vector in net.named_parameters():
        for i in range(len(vector) if vector.dim() == 1 else 0):
            changed = copy.deepcopy(net)
            with torch.no_grad():
                changed.get_parameter(name)[i] = 0
            told[name, i] = torch.equal(changed(x), before)
    return told


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_entries_that_do_nothing_are_zero_and_no_others(seed, norm):
    net, data = sparse(seed, norm), batches(seed)
    before, asked = copy.deepcopy(net.state_dict()), [p.requires_grad for p in net.parameters()]
    quiet = silence(net, data, Objective())
    x = torch.cat([x for x, _ in data])
    expected = idle(net, x)
    assert any(expected.values()) and torch.equal(quiet(x), net(x))
    for (name, i), nothing in expected.items():
        assert (float(quiet.get_parameter(name).detach()[i]) == 0.0) == nothing, (name, i)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [p.requires_grad for p in quiet.parameters()] == asked and not quiet.training


def test_a_unit_that_would_speak_without_its_bias_keeps_it():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))
        net[0].bias.copy_(torch.tensor([-5.0, 0.3]))  # the first is silent on inputs below 5
    assert silence(net, [(torch.rand(8, 2), torch.arange(8) % 2)], Objective()) is net


def test_signs_have_no_gradient_and_keep_their_biases():
    net = nn.Sequential(nn.Linear(5, 8), Sign(), nn.Linear(8, 3))
    quiet = silence(net, batches(0), Objective())
    assert torch.equal(quiet[0].bias, net[0].bias)


def test_a_frozen_network_or_one_without_vectors_is_left_alone():
    frozen = sparse(0, norm=False).requires_grad_(False)
    assert not any(p.requires_grad for p in silence(frozen, batches(0), Objective()).parameters())
    bare = nn.Linear(5, 3, bias=False)
    assert silence(bare, batches(0), Objective()) is bare
