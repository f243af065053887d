"""The laws of the budgeted search, as functions of what they judge: tests call them on taut, planted tests on broken parts."""

import copy
import itertools
import math

import pytest
import torch
from laws.compress_laws import blobs, trained
from torch import nn

from taut.budget import Budget, Gradual, Recovery
from taut.budget.grids import attempt
from taut.budget.options import Option
from taut.budget.trial import Setup
from taut.codec.files import file_size
from taut.compressors import Prune
from taut.measure import evaluate as measure
from taut.objective import Objective
from taut.parametrizations import Entropy


class Bowl(nn.Module):
    """A network whose loss is exactly quadratic in its weights: the loss model is exact, so the answer can be enumerated."""

    def __init__(self, shapes, seed=0):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(nn.Linear(cols, rows, bias=False) for rows, cols in shapes)
        for layer in self.layers:
            layer.weight.data = torch.randn(layer.weight.shape, generator=draw)
        self.start = [layer.weight.detach().clone() for layer in self.layers]
        self.curvature = [torch.rand(w.shape, generator=draw) + 0.1 for w in self.start]

    def loss(self, model=None, batch=None):
        model = model or self
        pairs = zip(model.layers, self.start, self.curvature, strict=True)
        return sum(0.5 * (h * (layer.weight - w) ** 2).sum() for layer, w, h in pairs)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def random_fronts(seed, layers=3, rungs=4):
    """Random options: the first of each layer is the present one, at the highest cost and no predicted loss."""
    draw = torch.Generator().manual_seed(seed)
    fronts = {}
    for i in range(layers):
        costs = (torch.rand(rungs, generator=draw) * 90 + 5).tolist()
        losses = (torch.rand(rungs, generator=draw) * 3).tolist()
        fronts[f"layer{i}"] = [Option(None, 100.0, 0.0), *(Option(None, c, p) for c, p in zip(costs, losses, strict=True))]
    return fronts


def check_front(convex_front, seed):
    """For every price of loss in cost, the front holds an option as good as any."""
    for found in random_fronts(seed).values():
        front = convex_front(found)
        assert front[0] is found[0]
        assert all(a.cost > b.cost for a, b in itertools.pairwise(front))
        for price in torch.logspace(-3, 3, 25).tolist():
            best = min(o.cost + price * o.predicted for o in found)
            assert min(o.cost + price * o.predicted for o in front) <= best + 1e-9


def check_allocation(allocate, convex_front, seed):
    """The moves cost no more than any others that are predicted to lose no more, and stay in the radius if more than one."""
    fronts = {name: convex_front(found) for name, found in random_fronts(seed).items()}
    for radius in (0.1, 0.5, 1.0, 2.0, 5.0):
        moves = allocate(fronts, radius)
        assert moves, "a prediction never closes the search"
        chosen = {name: moves.get(name, front[0]) for name, front in fronts.items()}
        lost, cost = sum(o.predicted for o in chosen.values()), sum(o.cost for o in chosen.values())
        assert lost <= radius + 1e-12 or len(moves) == 1
        for rival in itertools.product(*fronts.values()):
            if sum(o.predicted for o in rival) <= lost:
                assert sum(o.cost for o in rival) >= cost - 1e-9


def check_region(region_class):
    """The design's rule, case by case: (predicted, measured, standard error, kept) -> grow, stay or shrink."""
    cases = [
        (1.0, 1.0, 0.0, True, 2.0), (1.0, 1.25, 0.0, True, 2.0), (1.0, 1.3, 0.0, True, 1.0), (1.0, 1.75, 0.0, True, 1.0),
        (1.0, 1.8, 0.0, True, 0.5), (1.0, 1.8, 0.6, True, 2.0), (1.0, 0.0, 0.0, False, 0.5), (-1.0, -1.0, 0.0, True, 2.0),
    ]  # fmt: skip
    for predicted, measured, error, kept, factor in cases:
        found = region_class(4.0).updated(predicted=predicted, measured=measured, error=error, kept=kept)
        assert found.radius == 4.0 * factor, (predicted, measured, error, kept)


def check_path(result, budget):
    """Every kept point is within the budget and cheaper than the one before."""
    kept = result.curve.kept
    assert len(kept) > 1, "the search kept nothing"
    first = kept[0]
    for before, after in itertools.pairwise(kept):
        assert after.bytes < before.bytes
    for point in kept:
        if budget.metric_drop is not None:
            assert point.metric >= first.metric - budget.metric_drop - 1e-12
        if budget.loss_increase is not None:
            assert point.loss <= first.loss + budget.loss_increase + 1e-12


def network(seed, batches, hidden=32):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(12, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 4))
    return trained(net, batches, epochs=30)


def check_probes(compress, seed):
    """A search that is complete has measured, after the last kept point, every layer's next move alone, and refused it."""
    train, val = blobs(seed), blobs(seed)[:2]
    result = compress(network(seed, train), train, val, Budget(loss_increase=0.02), methods=[Prune()], recover=False)
    assert result.complete
    rejected = [p for p in result.curve if p.step > result.best.step]
    moved = {frozenset(name for name, plan in p.plan.items() if plan != result.best.plan.get(name)) for p in rejected}
    for name in ("0", "3"):
        assert frozenset({name}) in moved, f"{name} was never probed alone: {moved}"


RESUMED = {
    "layer by layer": [Prune(by="fisher")],
    "all at once": [Entropy()],
    "one after the other": [Entropy(), Prune(by="fisher")],
    "little by little": [Gradual()],
}


def check_resumed(compress, folder, methods):
    """A search that was cut, at its first step or at the last refused one, goes the same way when resumed; its log is whole."""
    train, val = blobs(1), blobs(1)[:2]
    net, how = network(1, train), Recovery(epochs=6, lr=0.05, first=0.05)
    settings = {"train": train, "val": val, "budget": Budget(loss_increase=0.01), "methods": methods, "recover": how, "seed": 3}
    settings["max_steps"] = 5  # ends two of the cases before they are at their end: steps are counted on
    whole = compress(net, **settings, workdir=folder / "whole")
    seen = [(p.step, p.kept, p.loss, p.metric, p.bytes, p.plan) for p in whole.curve]
    refused = [p.step for p in whole.curve if not p.kept and p.step < len(seen) - 1]
    assert refused, f"nothing was refused, the case tests nothing: {seen}"
    for step in {1, refused[-1]}:
        # the cut comes when the next point is told, so this one's state is on disk
        resumed = _cut_and_resumed(lambda **more: compress(net, **settings, **more), folder / f"cut{step}", step + 1)
        assert [(p.step, p.kept, p.loss, p.metric, p.bytes, p.plan) for p in resumed.curve] == seen
        assert torch.equal(whole.model(val[0][0]), resumed.model(val[0][0]))
        assert len((folder / f"cut{step}" / "curve.jsonl").read_text().splitlines()) == len(seen)


def _cut_and_resumed(compress, folder, step):
    class Cut(Exception):
        pass

    def cut(point):
        if point.step == step:
            raise Cut

    with pytest.raises(Cut):
        compress(workdir=folder, progress=cut)
    return compress(workdir=folder)


def check_aim(control, target, seed):
    """A training that is led to a size ends within a fifth of it, as the file is really written."""
    train = blobs(seed)
    torch.manual_seed(seed)
    model = trained(nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)), train)
    original, objective = copy.deepcopy(model), Objective()
    val = train[:2]
    setup = Setup(
        original, train, val, objective, Budget(1.0), measure(original, val, objective), lambda m: float(file_size(m)),
        Recovery(epochs=40, lr=0.02), seed, math.inf,
    )  # fmt: skip
    size = attempt(setup, Entropy(), model, target, 1, control=control)[0].cost
    assert 0.8 * target < size < 1.2 * target, f"{size:.0f} bytes, aimed at {target:.0f}"
