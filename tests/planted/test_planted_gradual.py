import math

import pytest
import torch
from laws.gradual_laws import check_count, check_floor, check_memory, check_start, check_worth

from taut.budget import gradual
from taut.budget.gradual import Remover


class Linear(Remover):
    def _remove(self, count):
        share = math.log(count / self.first) / math.log(self.count / self.first)
        super()._remove(round(self.first + share * (self.count - self.first)))


class Forgets(Remover):
    def _remove(self, count):
        for mask in self.left:
            mask.fill_(1.0)
        super()._remove(count)


class ByMagnitude(Remover):
    def _remove(self, count):
        for square in self.squares:
            square.fill_(1.0)
        super()._remove(count)


class WithoutBits(Remover):
    def _places(self, left, near):
        return torch.ones_like(left, dtype=torch.float32)


class Layerwise(Remover):
    def _remove(self, count):
        parts = list(zip(self.weights, self.squares, self.left, strict=True))
        for w, square, mask in parts:
            share = max(1, round(count * w.numel() / sum(p[0].numel() for p in parts)))
            worth = (w.square() * square * mask).reshape(-1)
            mask.copy_((worth >= worth.topk(share).values[-1]).reshape(mask.shape) & (mask > 0))


class NoFloor(Remover):
    def _remove(self, count):
        super()._remove(count)
        self.left[1].zero_()


class Fills(Remover):
    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.left = [torch.ones_like(mask) for mask in self.left]


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Linear, lambda made: check_count(made, 40)),
        (Forgets, lambda made: check_count(made, 40)),
        (ByMagnitude, check_worth),
        (WithoutBits, check_worth),
        (Layerwise, check_worth),
        (NoFloor, check_floor),
        (Fills, check_start),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_removals_are_caught(broken, check):
    with pytest.raises(AssertionError):
        check(broken)


def test_a_remover_that_never_forgets_is_caught(monkeypatch):
    monkeypatch.setattr(gradual, "MEMORY", 0.99999)
    with pytest.raises(AssertionError):
        check_memory(Remover)
