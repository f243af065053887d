"""Whole units removed as the first stage of the search."""

import pytest
import torch
from torch import nn

from taut.budget import Budget, Recovery, Shrink, compress, narrow
from taut.errors import TautError


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
    """Whether so small a network is faster depends on what else the processor does."""
    monkeypatch.setattr(narrow, "narrower_but_slower", lambda *networks: None)


class Counted:
    """Batches of a linearly separable problem that count how often they are gone through."""

    def __init__(self):
        torch.manual_seed(0)
        x = torch.randn(64, 8)
        self.batches, self.times = [(x, (x[:, 0] > 0).long())], 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.times += 1
        return iter(self.batches)


def passes(how, epochs):
    """Times that one narrowing within a loose budget goes through the training data."""
    torch.manual_seed(0)
    net, train = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)), Counted()
    result = compress(
        net, train, Counted().batches, Budget(loss_increase=9.0), methods=[how], recover=Recovery(epochs=epochs), max_steps=1
    )
    assert result.best.step == 1 and result.best.bytes < result.baseline.bytes
    return train.times


def test_narrowing_trains_for_its_own_epochs():
    usual = [passes(Shrink(keep=0.5, step=0.5), epochs) for epochs in (2, 7)]
    own = [passes(Shrink(keep=0.5, step=0.5, epochs=7), epochs) for epochs in (2, 4)]
    assert usual[1] - usual[0] == 5 and own == [usual[1], usual[1]]


def widths(scope):
    """The hidden layers, at half of the width, of a network of which three quarters of the second's units do little."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    with torch.no_grad():
        net[2].weight[8:].mul_(0.01)
        net[4].weight[:, 8:].mul_(0.01)
    how = Shrink(keep=0.5, step=0.5, scope=scope)
    loose = Budget(loss_increase=1e6)
    result = compress(net, val=Counted().batches, budget=loose, methods=[how], recover=False, minimize="params", max_steps=1)
    return result.model[0].out_features, result.model[2].out_features


def test_the_same_part_of_each_layer_or_one_ranking():
    assert widths("layer") == (16, 16)
    assert widths("global") == (24, 8)


@pytest.mark.parametrize(("mistake", "fix"), [({"epochs": 0}, "at least 1"), ({"scope": "all"}, "global, layer")])
def test_mistakes_are_named(mistake, fix):
    with pytest.raises(TautError, match=fix):
        Shrink(**mistake)
