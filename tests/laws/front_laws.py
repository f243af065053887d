"""What the front of a search must satisfy: for any budget, the network that a look at every candidate would choose."""

import random
from types import SimpleNamespace

import torch
from torch import nn

from taut.budget import Budget
from taut.cost import Ledger
from taut.curve import Curve, Point

BUDGETS = [
    Budget(metric_drop=0.0), Budget(metric_drop=0.1), Budget(metric_drop=0.3), Budget(loss_increase=0.0),
    Budget(loss_increase=0.2), Budget(metric_drop=0.2, loss_increase=0.1), Budget(metric_drop=1.0),
]  # fmt: skip


def candidates(seed):
    """A search's points, with ties, and the network of each, told apart by its bias."""
    rng = random.Random(seed)
    points, trials = [], []
    for step in range(rng.randint(1, 14)):
        cost = 100.0 if step == 0 else float(rng.randint(1, 9) * 10)
        loss, metric = rng.randint(0, 4) / 10, rng.randint(5, 10) / 10
        net = nn.Linear(1, 1)
        nn.init.constant_(net.bias, float(step))
        points.append(Point(step, loss, metric, Ledger(bytes=int(cost))))
        trials.append(SimpleNamespace(cost=cost, shipped=net, evaluation=SimpleNamespace(loss=loss, metric=metric)))
    return points, trials


def check_chosen(make, seed, folder):
    """``make(folder, maximize)`` is a front; what it holds is exactly enough to answer for every budget."""
    points, trials = candidates(seed)
    front = make(folder, True)
    for point, trial in zip(points, trials, strict=True):
        front.add(point.step, trial)
    front = make(folder, True)  # as a resumed search finds it
    for budget in BUDGETS:
        fits = [p for p in points if budget.holds(points[0], p)]
        wanted = min(fits, key=lambda p: (p.bytes, p.step))
        found = front.within(Curve(points), budget)
        assert found.best.step == wanted.step, budget
        kept = [p.bytes for p in found.kept]
        assert kept == sorted(set(kept), reverse=True) and all(budget.holds(points[0], p) for p in found.kept)
        model = front.model(wanted.step, nn.Linear(1, 1) if wanted.step else trials[0].shipped)
        assert torch.equal(model.bias, trials[wanted.step].shipped.bias)
    held = [p for p in points if front.file(p.step).exists()]
    for p in held:
        assert not any(q.bytes < p.bytes and q.metric >= p.metric and q.loss <= p.loss for q in points), "a useless file"


def check_unbeaten(choose, seed):
    """``choose(trials, than, maximize)``: with ``than`` the smallest file of every budget, and none that no budget needs."""
    points, trials = candidates(seed)
    than = trials[seed % len(trials)]
    chosen = choose([trial for trial in trials if trial is not than], than, True)
    left = [than, *chosen]
    for budget in BUDGETS:
        smallest = [
            min((trial.cost for trial in some if budget.holds(points[0], trial.evaluation)), default=None)
            for some in (trials, left)
        ]
        assert smallest[0] == smallest[1], budget
    for one in chosen:
        others = [(t.cost, t.evaluation.loss, -t.evaluation.metric) for t in left if t is not one]
        mine = one.cost, one.evaluation.loss, -one.evaluation.metric
        assert not any(all(a <= b for a, b in zip(other, mine, strict=True)) for other in others), "of no use"
