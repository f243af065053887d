"""What a steering must do, as plain functions; references are a generic solver and trials of every assignment."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from taut.budget import Budget, Recovery
from taut.budget.steering import Steered, Steering
from taut.budget.subproblem import Part, Solved
from taut.compressors import Codebook, Compressor, LowRank, Prune, Quantize

Solve = Callable[[Sequence[Part], float], Solved]
Steer = Callable[..., Steered]


def parts(seed: int, flat: bool = False) -> list[Part]:
    """Two layers of a few weights; ``flat``: without curvature."""
    draw = torch.Generator().manual_seed(seed)

    def numbers(size: int) -> Tensor:
        return torch.randn(size, generator=draw, dtype=torch.float64)

    return [
        Part(numbers(n), numbers(n), torch.zeros(n).double() if flat else numbers(n).square(), radius, weight)
        for n, radius, weight in ((4, 0.5, 1.0), (3, 2.0, 0.2))
    ]


def distance(found: Sequence[Part], steps: Sequence[Tensor]) -> float:
    """The objective of a step."""
    return sum(0.5 * part.weight * float((step - part.gap).square().sum()) for part, step in zip(found, steps, strict=True))


def check_subproblem(solve: Solve, seed: int, room: float, flat: bool = False) -> None:
    """Within the box and the bound, and no generic solver ends nearer to the targets."""
    found = parts(seed, flat)
    solved = solve(found, room)
    for part, step in zip(found, solved.steps, strict=True):
        assert float(step.abs().max()) <= part.radius * (1 + 1e-12), "out of the box"
    change = sum(part.change(step) for part, step in zip(found, solved.steps, strict=True))
    assert abs(change - solved.predicted) < 1e-9
    sizes = [len(part.gap) for part in found]

    def split(x: np.ndarray) -> list[Tensor]:
        return list(torch.as_tensor(x, dtype=torch.float64).split(sizes))

    def loss(x: np.ndarray) -> float:
        return sum(part.change(step) for part, step in zip(found, split(x), strict=True))

    bounds = [(-part.radius, part.radius) for part in found for _ in part.gap]
    least = minimize(loss, np.zeros(sum(sizes)), bounds=bounds, method="L-BFGS-B").fun
    assert solved.feasible == (solved.predicted <= room + 1e-9)
    if least > room:
        assert solved.predicted <= least + 1e-6, "the bound is out of reach: the least loss is wanted"
        return
    assert solved.predicted <= room + 1e-9, f"predicts {solved.predicted}, the room is {room}"
    start = np.clip(np.concatenate([part.gap.numpy() for part in found]), *np.transpose(bounds))
    constraint = {"type": "ineq", "fun": lambda x: room - loss(x)}
    other = minimize(
        lambda x: distance(found, split(x)), start, bounds=bounds, constraints=[constraint], method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )  # fmt: skip
    if loss(other.x) <= room + 1e-6:
        assert distance(found, solved.steps) <= float(other.fun) + 1e-5, "a generic solver ends nearer"


def network(seed: int) -> nn.Module:
    """A small classifier."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def task(seed: int, batches: int = 4) -> list[tuple[Tensor, Tensor]]:
    """Batches with classes that a network can learn."""
    draw = torch.Generator().manual_seed(1000 + seed)
    x = torch.randn(batches, 24, 6, generator=draw)
    return [(part, part[:, :3].argmax(1)) for part in x]


def trained(seed: int, passes: int = 20) -> nn.Module:
    """The classifier after some training on its task."""
    model = network(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for x, y in passes * task(seed, 8):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


PLANS: list[dict[str, Compressor]] = [
    {"*": Codebook(k=3)},
    {"*": Codebook(k=4, by="fisher")},
    {"0": LowRank(rank=2), "2": Quantize(bits=3)},
    {"*": Prune(density=0.3)},
    {"0": Prune(density=0.5, by="fisher")},
]


def check_bound(steer: Steer, seed: int, increase: float) -> None:
    """Every kept network is within the bound by its own measurement, and the radius only ever follows the rule."""
    from taut.measure import evaluate

    model, data, val = network(seed), task(seed), task(seed + 1, 2)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    how = Steering(radius=1.0, steps=4, samples=64, train=Recovery(epochs=1, lr=0.01, steady=True), finish=None)
    found = steer(model, PLANS[seed % len(PLANS)], data, val, Budget(loss_increase=increase), how=how, seed=seed)
    bound = found.baseline.loss + increase + 1e-6
    assert found.baseline.loss == evaluate(model, val).loss
    for step in found.steps:
        assert step.loss <= bound or not step.kept, f"step {step.index} was kept at {step.loss}, the bound is {bound}"
    assert abs(evaluate(found.model, val).loss - found.evaluation.loss) < 1e-6
    assert found.evaluation.loss <= bound
    for n, t in model.state_dict().items():
        assert torch.equal(t, before[n]), "the model given was changed"


def check_metric_bound(steer: Steer, seed: int, drop: float) -> None:
    """With a bound on the metric: every kept network holds it, or, on the way, has a loss within one standard error."""
    model, data, val = trained(seed), task(seed), task(seed + 1, 2)
    how = Steering(radius=1.0, steps=8, samples=64, train=None, finish=None)
    found = steer(model, PLANS[seed % len(PLANS)], data, val, Budget(metric_drop=drop), how=how, seed=seed)
    losses = found.baseline.losses
    loss = found.baseline.loss + float(losses.std()) / len(losses) ** 0.5 + 1e-6
    for step in found.steps:
        holds = step.metric >= found.baseline.metric - drop - 1e-9
        if step.kept:
            assert holds or (step.loss <= loss and not step.coded), f"step {step.index} was kept at {step.metric}, {step.loss}"
        else:
            assert not holds, f"step {step.index} is within the budget and was not kept"


def check_toy(steer: Steer, seed: int) -> None:
    """A linear network with inputs that do not interact: wherever some assignment of its weights to two values is well within the
    bound, steering arrives within it."""
    draw = torch.Generator().manual_seed(seed)
    wanted = torch.randn(1, 6, generator=draw)
    scale = torch.rand(6, generator=draw) + 0.3
    x = torch.eye(6).repeat(4, 1) * scale * 6**0.5
    data = [(x, x @ wanted.T)]
    model = nn.Sequential(nn.Linear(6, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(wanted)
    least = min(_least(wanted[0], scale, assignment) for assignment in itertools.product((0, 1), repeat=6))
    bound = 2.0 * least
    how = Steering(
        radius=0.5, steps=40, train=Recovery(epochs=5, lr=0.02, mix=False), finish=Recovery(epochs=100, lr=0.02, mix=False)
    )
    found = steer(model, {"0": Codebook(k=2, keep_zero=False)}, data, data, Budget(loss_increase=bound), how=how)
    assert found.reached, f"{least} is possible, {bound} was the bound"
    assert len(found.model[0].weight.unique()) <= 2
    assert least - 1e-6 <= found.evaluation.loss <= bound + 1e-6


def _least(wanted: Tensor, scale: Tensor, assignment: tuple[int, ...]) -> float:
    """The least loss with these weights shared: each group at its weighted mean."""
    total, groups, h = 0.0, torch.tensor(assignment), scale.square()
    for group in (0, 1):
        inside = groups == group
        if bool(inside.any()):
            mean = (h[inside] * wanted[inside]).sum() / h[inside].sum()
            total += float((h[inside] * (wanted[inside] - mean).square()).sum())
    return total
