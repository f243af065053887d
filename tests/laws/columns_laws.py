"""What reading fewer inputs must do, as plain functions; the references are regressions and trials of every column."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from taut.apply import apply
from taut.layers import find_layers
from taut.moments import input_moments

Eliminate = Callable[..., object]


def inputs(size: int, seed: int = 0, rows: int = 400) -> Tensor:
    """Inputs that go together, each of its own strength, the last two of them always zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    x = (x + 0.8 * x.roll(1, 1)) * torch.linspace(0.2, 1.0, size, dtype=torch.float64)
    x[:, -2:] = 0
    return x


def weight(rows: int, size: int, seed: int = 0) -> Tensor:
    """A matrix."""
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(100 + seed), dtype=torch.float64)


def lost_without(w: Tensor, x: Tensor, kept: Tensor) -> float:
    """The least loss of the products that any values in the kept columns give: a regression."""
    target = x @ w.T
    found = torch.linalg.lstsq(x[:, kept], target, driver="gelsd").solution
    return float((target - x[:, kept] @ found).square().sum() / len(x))


def check_regression(eliminate: Eliminate, size: int, seed: int) -> None:
    """For the columns that stay, no values do better, and the loss is what it says."""
    w, x = weight(5, size, seed), inputs(size, seed)
    for stays, values, lost in eliminate(w, x.T @ x / len(x), range(size - 1, 0, -2)):
        real = float((x @ w.T - x[:, stays] @ values.T).square().sum() / len(x))
        least = lost_without(w, x, stays)
        scale = float((x @ w.T).square().sum() / len(x))
        assert real <= least + 1e-3 * scale, f"{real}, where a regression on the same inputs loses {least}"
        assert abs(lost - real) <= 1e-3 * scale, f"says {lost}, loses {real}"


def check_next_to_go(eliminate: Eliminate, size: int, seed: int) -> None:
    """Each column that goes is the one that, of all that are left, loses the least."""
    w, x = weight(5, size, seed), inputs(size, seed)
    before = torch.ones(size, dtype=torch.bool)
    scale = float((x @ w.T).square().sum() / len(x))
    for stays, _, _ in eliminate(w, x.T @ x / len(x), range(size - 1, 0, -1)):
        assert int(before.sum() - stays.sum()) == 1
        trials = []
        for column in before.nonzero().flatten():
            kept = before.clone()
            kept[column] = False
            trials.append(lost_without(w, x, kept))
        assert lost_without(w, x, stays) <= min(trials) + 1e-3 * scale
        before = stays


def check_choices(choices: Callable[..., dict], seed: int) -> None:
    """Applied, every choice has the parameters that it says and loses the share of the outputs' energy that it says."""
    model = nn.Sequential(nn.Linear(24, 10), nn.ReLU(), nn.Linear(10, 6)).double()
    with torch.no_grad():
        model[0].weight.copy_(weight(10, 24, seed))
        model[2].weight.copy_(weight(6, 10, seed))
    data = [inputs(24, seed)]
    layers = find_layers(model)
    moments = input_moments(model, data, layers)
    found = choices(model, layers, data)
    assert set(found) == {"0", "2"} and all(len(options) > 3 for options in found.values())
    for name, options in found.items():
        w = layers[name].weight.detach()
        energy = float((w @ moments[name] * w).sum())
        for method, parameters, loss in itertools.islice(options, 0, None, 3):
            layer = apply(model, {name: method}, data=data).get_submodule(name)
            assert sum(p.numel() for p in layer.parameters()) == parameters + len(w), method
            off = w - layer.weight.detach()
            assert abs(float((off @ moments[name] * off).sum()) / energy - loss) < 2e-3, method
