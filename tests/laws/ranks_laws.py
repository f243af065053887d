"""What a choice of ranks must do, as plain functions; the reference tries every combination."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import nn

from taut.apply import apply
from taut.measure import ledger
from taut.ranks import Plan
from taut.sensitivity import Sensitivity, matrix_of

Share = Callable[..., Plan]


def small(seed: int = 0) -> nn.Module:
    """Three layers of different shapes whose energies fall at different rates."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 14), nn.ReLU(), nn.Linear(14, 12))
    with torch.no_grad():
        for layer, fall in ((model[0], 0.5), (model[3], 0.8), (model[5], 0.95)):
            u, s, vt = torch.linalg.svd(layer.weight.flatten(1), full_matrices=False)
            layer.weight.copy_((u * s * fall ** torch.arange(len(s)) @ vt).reshape(layer.weight.shape))
    return model


INPUT = torch.zeros(1, 3, 5, 5)


def check_budget(share: Share, budget: float, unit: str, seed: int = 0) -> None:
    """The network that the plan makes costs no more than the budget, by the ledger's count, and no rung more would fit."""
    model = small(seed)
    plan = share(model, budget, Sensitivity("energy"), unit=unit, example_input=INPUT)
    cost = ledger(apply(model, plan, INPUT), INPUT).totals()[unit]
    assert cost <= budget, f"{cost} {unit} for a budget of {budget}"
    for name, method in plan.items():
        layer = dict(model.named_modules())[name]
        m, n = layer.weight.flatten(1).shape
        uses = 9 if name == "0" and unit == "macs" else 1
        assert cost + uses * (m + n) > budget or (method.rank + 1) * (m + n) >= m * n, f"room for one more rank of {name}"


def check_strides(share: Share, level: float, scheme: int) -> None:
    """The multiply-adds of a network that strides, as they are counted in it, come up to the budget and no further."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.Conv2d(12, 24, 3, stride=(1, 2))
    third, x = nn.Conv2d(24, 30, 5, stride=2, padding=2), torch.zeros(1, 3, 18, 17)
    model = nn.Sequential(first, second, third, nn.Flatten(), nn.LazyLinear(10))
    model(x)
    budget = ledger(model, x).totals()["macs"] / level
    plan = share(model, budget, Sensitivity("energy"), unit="macs", example_input=x, scheme=scheme)
    cost = ledger(apply(model, plan, x), x).totals()["macs"]
    assert 0.95 * budget < cost <= budget, f"{cost} MACs for a budget of {budget}"


def check_near_best(share: Share, budget: float, seed: int) -> None:
    """The sum of the layers' lost shares of energy is within a quarter of the least of all combinations of ranks."""
    model = small(seed)
    plan = share(model, budget, Sensitivity("energy"))
    layers = {n: m for n, m in model.named_modules() if hasattr(m, "weight")}
    tails, costs = {}, {}
    for name, layer in layers.items():
        w = layer.weight.detach().flatten(1)
        squares = torch.linalg.svdvals(w.double()).square()
        m, n = w.shape
        ranks = [r for r in range(1, min(m, n)) if r * (m + n) < m * n]
        tails[name] = [0.0, *(float(squares[r:].sum() / squares.sum()) for r in ranks)]
        costs[name] = [m * n, *(r * (m + n) for r in ranks)]
    free = budget - sum(layer.bias.numel() for layer in layers.values())
    combinations = itertools.product(*(range(len(t)) for t in tails.values()))
    least = min(
        sum(tails[n][i] for n, i in zip(layers, c, strict=True))
        for c in combinations
        if sum(costs[n][i] for n, i in zip(layers, c, strict=True)) <= free
    )
    found = sum(tails[n][plan[n].rank if n in plan else 0] for n in layers)
    assert found <= 1.25 * least + 1e-6, f"{found} where {least} was possible"


def check_energy(choose: Callable[[nn.Module, float], Plan], energy: float) -> None:
    """Every layer keeps its share of energy, and a rank less would not."""
    model = small()
    from taut.layers import find_layers

    plan = choose(model, energy)
    assert plan
    for name, method in plan.items():
        squares = torch.linalg.svdvals(matrix_of(find_layers(model)[name]).double()).square()
        share = squares.cumsum(0) / squares.sum()
        assert share[method.rank - 1] >= energy - 1e-6
        assert method.rank == 1 or share[method.rank - 2] < energy
