"""Laws of the budgeted search."""

import itertools

import pytest
import torch
from laws.budget_laws import (
    RESUMED,
    Bowl,
    check_allocation,
    check_front,
    check_path,
    check_probes,
    check_region,
    check_resumed,
    network,
)
from laws.compress_laws import blobs
from torch import nn

from taut.budget import Budget, compress
from taut.budget.loss_model import LossModel
from taut.budget.options import Option, Site, allocate, convex_front, options
from taut.budget.trust_region import TrustRegion
from taut.compressors import Prune
from taut.layers import find_layers

SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_front_is_as_good_as_any_option(seed):
    check_front(convex_front, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_allocation_beats_every_other(seed):
    check_allocation(allocate, convex_front, seed)


def test_radius_rule():
    check_region(TrustRegion)


BUDGETS = [Budget(metric_drop=0.0), Budget(metric_drop=0.02), Budget(loss_increase=0.05), Budget(0.01, 0.1)]


@pytest.mark.parametrize("budget", BUDGETS, ids=Budget.describe)
@pytest.mark.parametrize("recover", [False, 2], ids=["as is", "recovered"])
@pytest.mark.parametrize("seed", range(2))
def test_every_kept_point_is_within_budget_and_cheaper(budget, recover, seed):
    train, val = blobs(seed), blobs(seed)[:2]
    net = network(seed, train)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    result = compress(net, train, val, budget, recover=recover, max_steps=12)
    check_path(result, budget)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("seed", range(3))
def test_with_an_exact_loss_model_the_answer_is_near_brute_force(seed):
    """The loss is quadratic and its curvature known: no assignment within the budget costs much less than the search's."""
    bowl = Bowl([(6, 8), (5, 6), (4, 5)], seed)
    ladder = [Prune(density=d, by="fisher") for d in (0.1, 0.25, 0.5, 0.75, 1.0)]
    exact = LossModel({f"layers.{i}": h for i, h in enumerate(bowl.curvature)})
    layers = find_layers(bowl)
    rungs = {}
    for name, layer in layers.items():
        weight = layer.weight.detach()
        stays = Site(layer, weight, Option(None, float(weight.numel()), 0.0))
        found = [m.compress(weight, exact.stats(name)) for m in ladder]
        rungs[name] = [
            Option(m, float(code.values.numel()), exact.change(name, weight, code.decompress()))
            for m, code in zip(ladder, found, strict=True)
        ]
        rungs[name] = convex_front([stays.stay, *rungs[name]])
    for bound in (0.5, 2.0, 6.0):
        answer = {name: front[0] for name, front in rungs.items()} | allocate(rungs, bound)
        lost, cost = sum(o.predicted for o in answer.values()), sum(o.cost for o in answer.values())
        best = min(
            sum(o.cost for o in rival) for rival in itertools.product(*rungs.values()) if sum(o.predicted for o in rival) <= bound
        )
        # the Lagrangian's answer is off by at most one move of one layer
        step = max(a.cost - b.cost for front in rungs.values() for a, b in itertools.pairwise(front))
        assert lost <= bound and best <= cost <= best + step


@pytest.mark.parametrize("seed", range(2))
def test_the_search_ends_only_after_a_probe_of_every_layer_failed(seed):
    check_probes(compress, seed)


@pytest.mark.parametrize("methods", RESUMED.values(), ids=RESUMED)
def test_a_search_that_was_cut_goes_the_same_way_when_resumed(tmp_path, methods):
    check_resumed(compress, tmp_path, methods)


def test_options_hold_no_rung_dearer_than_the_present_setting():
    weight = torch.randn(20, 20)
    layer = next(iter(find_layers(nn.Sequential(nn.Linear(20, 20))).values()))
    model = LossModel({layer.name: torch.ones(20, 20)})
    site = Site(layer, weight, Option(None, 200.0, 0.0))
    front = options(site, [Prune(by="fisher")], model, lambda code, _: float(code.values.numel()))
    assert front[0].cost == 200.0 and all(o.cost < 200.0 for o in front[1:])
