"""Faults planted in the choice of ranks, in variational Bayes and in early factoring: each must turn a law red."""

import dataclasses

import pytest
import torch
from laws.factor_laws import check_carries_on, check_momentum, check_same_function
from laws.ranks_laws import check_budget, check_energy, check_near_best, check_strides
from laws.vbmf_laws import check_estimated_noise, check_known_noise, check_scale_and_turn

from taut.compressors import LowRank
from taut.factor import factor_layer
from taut.numeric.vbmf import evbmf
from taut.ranks import ranks_by_budget, ranks_by_energy
from taut.sensitivity import matrix_of


def forgets_the_biases(model, budget, sensitivity=None, **how):
    """Counts the layers alone."""
    return ranks_by_budget(model, budget + 34, sensitivity, **how)


def wastes(model, budget, sensitivity=None, **how):
    """Leaves room."""
    return ranks_by_budget(model, 0.8 * budget, sensitivity, **how)


def one_level(model, budget, sensitivity=None, **how):
    """The same energy everywhere: the largest level that fits."""
    for energy in [1 - i / 200 for i in range(200)]:
        plan = ranks_by_energy(model, energy)
        layers = dict(model.named_modules())
        cost = sum(p.numel() for p in model.parameters())
        cost += sum(m.rank * sum(layers[n].weight.flatten(1).shape) - layers[n].weight.numel() for n, m in plan.items())
        if cost <= budget:
            return plan
    raise ValueError("no level fits")


def one_less(model, energy):
    return {n: dataclasses.replace(m, rank=max(1, m.rank - 1)) for n, m in ranks_by_energy(model, energy).items()}


def one_more(model, energy):
    return {n: dataclasses.replace(m, rank=m.rank + 1) for n, m in ranks_by_energy(model, energy).items()}


@pytest.mark.parametrize("share", [forgets_the_biases, wastes])
def test_the_budget_law_sees(share):
    with pytest.raises(AssertionError):
        check_budget(share, 500, "params")


def counts_at_the_outputs(model, found, scheme, example):
    """The first factor of a convolution that strides has fewer positions than it runs at."""
    return {name: layer.uses * sum(matrix_of(layer, scheme).shape) for name, layer in found.items()}


def test_the_law_of_strides_sees(monkeypatch):
    monkeypatch.setattr("taut.ranks._at_rank_one", counts_at_the_outputs)
    check_strides(ranks_by_budget, 2.0, 1)  # where it is right
    with pytest.raises(AssertionError):
        check_strides(ranks_by_budget, 2.0, 2)
    with pytest.raises(AssertionError):
        check_strides(wastes, 2.0, 1)


@pytest.mark.parametrize("share", [one_level, wastes])
def test_the_law_of_the_best_share_sees(share):
    with pytest.raises(AssertionError):
        for budget in (300, 450, 700):
            check_near_best(share, budget, 0)


@pytest.mark.parametrize("choose", [one_less, one_more])
def test_the_energy_law_sees(choose):
    with pytest.raises(AssertionError):
        check_energy(choose, 0.9)


def matrix():
    draw = torch.Generator().manual_seed(1)
    return torch.randn(6, 2, generator=draw) @ torch.randn(2, 12, generator=draw) + torch.randn(6, 12, generator=draw)


def no_shrinkage(m, noise=None):
    found = evbmf(m, noise)
    return dataclasses.replace(found, values=torch.linalg.svdvals(m.double())[: found.rank])


def random_matrix_threshold(m, noise=None):
    """Keeps all beyond the bulk of pure noise: too much."""
    found = evbmf(m, noise)
    values = torch.linalg.svdvals(m.double())
    edge = found.noise**0.5 * (m.shape[0] ** 0.5 + m.shape[1] ** 0.5) * 0.7
    return dataclasses.replace(found, values=values[values > edge])


def half_the_noise(m, noise=None):
    return evbmf(m, noise or 0.5 * evbmf(m).noise)


def absolute(m, noise=None):
    return evbmf(m, noise or 1.0)


def test_the_laws_of_variational_bayes_see():
    for fault in (no_shrinkage, random_matrix_threshold):
        with pytest.raises(AssertionError):
            check_known_noise(fault, matrix(), 1.0)
    with pytest.raises(AssertionError):
        check_estimated_noise(half_the_noise, matrix())
    with pytest.raises(AssertionError):
        check_scale_and_turn(absolute, matrix())


def forgets_momentum(model, optimizer, layer, method):
    factor_layer(model, optimizer, layer, method)
    for part in model.get_submodule(layer.name):
        optimizer.state.pop(part.weight, None)


def same_momentum_for_both(model, optimizer, layer, method):
    factor_layer(model, optimizer, layer, method)
    for part in model.get_submodule(layer.name):
        for value in optimizer.state[part.weight].values():
            if isinstance(value, torch.Tensor) and value.dim():
                value.mul_(0.5)


def new_group(model, optimizer, layer, method):
    group = optimizer.param_groups[0]
    factor_layer(model, optimizer, layer, method)
    new = [part.weight for part in model.get_submodule(layer.name)]
    group["params"] = [p for p in group["params"] if not any(p is q for q in new)]
    optimizer.add_param_group({"params": new, "lr": 1.0})


def loses_the_bias(model, optimizer, layer, method):
    factor_layer(model, optimizer, layer, method)
    bias = model.get_submodule(layer.name).bias
    group = optimizer.param_groups[0]
    group["params"] = [p for p in group["params"] if p is not bias]


def rank_too_small(model, optimizer, layer, method):
    factor_layer(model, optimizer, layer, LowRank(1))


@pytest.mark.parametrize("fault", [forgets_momentum, same_momentum_for_both])
def test_the_momentum_law_sees(fault):
    for optimizer in ("momentum", "adam"):
        with pytest.raises((AssertionError, KeyError)):
            check_momentum(fault, optimizer)


@pytest.mark.parametrize("fault", [new_group, loses_the_bias])
def test_the_law_of_going_on_sees(fault):
    with pytest.raises(AssertionError):
        check_carries_on(fault, "momentum")


def test_the_law_of_the_same_function_sees():
    with pytest.raises(AssertionError):
        check_same_function(rank_too_small, "linear")
