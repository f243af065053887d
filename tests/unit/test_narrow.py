"""Whole units removed as the first stage of the search."""

import pytest
import torch
from torch import nn

from taut.budget import Budget, Recovery, Shrink, compress
from taut.errors import TautError


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


def test_no_epochs_are_refused():
    with pytest.raises(TautError, match="at least 1"):
        Shrink(epochs=0)
