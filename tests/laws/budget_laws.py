"""The laws of the budgeted search, as functions of what they judge: tests call them on taut, planted tests on broken parts."""

import itertools

import torch
from torch import nn

from taut.budget.options import Option


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
