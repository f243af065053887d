"""How weights are removed gradually: how many are left when, which go first, and that what is gone stays gone."""

import pytest
import torch
from torch import nn

from taut.budget.gradual import EVERY, MEMORY
from taut.numeric.significance import log_odds


def two(seed: int = 0) -> list[nn.Parameter]:
    torch.manual_seed(seed)
    return [nn.Parameter(torch.randn(30, 20)), nn.Parameter(torch.randn(12, 30))]


def feed(remover, gradients, done: float) -> None:
    for w, gradient in zip(remover.weights, gradients, strict=True):
        w.grad = gradient
    remover(done)


def check_count(make, count: int) -> None:
    """The number falls geometrically to ``count``, and no weight comes back, whatever the optimizer does."""
    weights = two()
    remover, total = make(weights, count, until=0.5, bits=4.0), 960
    gone = [torch.zeros_like(w, dtype=torch.bool) for w in weights]
    for step in range(101):
        feed(remover, [torch.randn_like(w) for w in weights], step / 100)
        left = sum(int((w != 0).sum()) for w in weights)
        if step:
            assert left == pytest.approx(total * (count / total) ** min(1.0, step / 50), abs=1)
        for w, before in zip(weights, gone, strict=True):
            assert not (before & (w != 0)).any(), "a weight came back"
            before |= w == 0
            with torch.no_grad():
                w += 0.1 * torch.randn_like(w)  # as an optimizer with momentum would
    assert left == count


def check_worth(make) -> None:
    """What goes is worth least, over all layers, by ``w^2 E[g^2]`` for each bit."""
    weights = two(1)
    with torch.no_grad():  # places that differ in what they cost
        weights[0][:, 8:] *= (torch.rand(30, 12) < 0.2).float()
    start, gradients = [w.detach().clone() for w in weights], [torch.randn_like(w) for w in weights]
    remover = make(weights, 300, until=0.5, bits=4.0)
    feed(remover, gradients, 0.5)
    left, worth = [w != 0 for w in weights], []
    for w, g, near in zip(start, gradients, remover.near, strict=True):
        bits = 4.0 - log_odds(w != 0, near)[0]
        worth.append(w.square() * (1 - MEMORY) * g.square() / bits.clamp(min=1.0))
    kept = torch.cat([v[mask] for v, mask in zip(worth, left, strict=True)])
    removed = torch.cat([v[~mask & (w != 0)] for v, mask, w in zip(worth, left, start, strict=True)])
    assert len(removed) > 0 and float(removed.max()) <= float(kept.min())


def check_memory(make) -> None:
    """One large gradient long ago does not outweigh a steady one."""
    weights = two(2)
    with torch.no_grad():
        for w in weights:
            w.copy_(w.sign() * (1 + 0.1 * torch.rand_like(w)))
    remover = make(weights, 360, until=1e-3, bits=4.0)
    feed(remover, [torch.full_like(weights[0], 200.0), torch.zeros_like(weights[1])], 0.0)
    for step in range(3000):
        feed(remover, [torch.zeros_like(weights[0]), torch.ones_like(weights[1])], step * EVERY / 3000)
    feed(remover, [torch.zeros_like(weights[0]), torch.ones_like(weights[1])], 0.5)
    assert int((weights[1] != 0).sum()) > 300


def check_floor(make) -> None:
    """A layer that is worth little, or nothing, keeps a weight: without it the network is cut."""
    for worth in (1e-9, 0.0):
        weights = two()
        remover = make(weights, 10, until=0.2, bits=4.0)
        for step in range(1, 60):
            feed(remover, [torch.randn_like(weights[0]), worth * torch.randn_like(weights[1])], step / 60)
        assert int((weights[1] != 0).sum()) >= 1 and int((weights[0] != 0).sum()) >= 8


def check_start(make) -> None:
    """Zeros of the start stay zero, and a count above what there is removes nothing."""
    weights = two()
    with torch.no_grad():
        weights[0][:, :10] = 0
    remover = make(weights, 5000, until=0.5, bits=4.0)
    for step in range(1, 20):
        with torch.no_grad():
            weights[0] += 0.01
        feed(remover, [torch.randn_like(w) for w in weights], step / 20)
    assert int((weights[0] != 0).sum()) == 300 and int((weights[1] != 0).sum()) == 360
