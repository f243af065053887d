"""Ranks by energy and by budget, against every combination; sensitivities against what they say."""

import copy

import pytest
import torch
from laws.ranks_laws import INPUT, check_budget, check_energy, check_near_best, check_strides, small
from torch import nn

from taut.apply import apply
from taut.compressors import LowRank
from taut.errors import BudgetError, LayerError, TautError
from taut.layers import find_layers
from taut.measure import evaluate, fisher_diagonal, ledger
from taut.ranks import factorable, factorize, ranks_by_budget, ranks_by_energy
from taut.sensitivity import SENSITIVITIES, Sensitivity, rank_of


def data(count=3):
    draw = torch.Generator().manual_seed(5)
    return [(torch.randn(20, 3, 5, 5, generator=draw), torch.randint(0, 12, (20,), generator=draw)) for _ in range(count)]


@pytest.mark.parametrize("budget", [300, 500, 800, 1100])
def test_a_budget_of_parameters_is_met(budget):
    check_budget(ranks_by_budget, budget, "params")


@pytest.mark.parametrize("budget", [1000, 2000, 3000])
def test_a_budget_of_macs_is_met(budget):
    check_budget(ranks_by_budget, budget, "macs")


@pytest.mark.parametrize("scheme", [1, 2])
@pytest.mark.parametrize("level", [1.2, 2.0, 3.5])
def test_a_budget_of_macs_is_met_where_convolutions_stride(level, scheme):
    check_strides(ranks_by_budget, level, scheme)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("budget", [300, 450, 700, 1000])
def test_no_combination_of_ranks_is_much_better(budget, seed):
    check_near_best(ranks_by_budget, budget, seed)


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.999])
def test_energy(energy):
    check_energy(ranks_by_energy, energy)


@pytest.mark.parametrize("by", SENSITIVITIES)
def test_every_sensitivity_meets_the_budget(by):
    model = small()
    plan = ranks_by_budget(model, 600, Sensitivity(by, data() if by != "energy" else None))
    assert {method.by for method in plan.values()} == {"activation" if by == "activation" else "weight"}
    assert ledger(apply(model, plan, data=data())).totals()["params"] <= 600


def losses(by, ranks):
    model = small()
    layers = {"3": find_layers(model)["3"]}
    return model, layers["3"], Sensitivity(by, data()).losses(model, layers, {"3": ranks}, 1)["3"]


def put_rank(model, rank, by="weight"):
    return apply(model, {"3": LowRank(rank, by=by)}, data=data())


def test_the_sensitivities_are_what_they_say():
    ranks = [1, 4, 8]
    model, layer, fisher = losses("fisher", ranks)
    h = fisher_diagonal(model, data(), {"3": layer})["3"]
    for r, found in zip(ranks, fisher, strict=True):
        change = LowRank(r).compress(layer.weight.detach()).decompress() - layer.weight
        assert found == pytest.approx(0.5 * float((h * change.detach() ** 2).sum()), rel=1e-3)
    _, _, measured = losses("loss", ranks)
    base = evaluate(model, data()).loss
    assert measured == pytest.approx([evaluate(put_rank(model, r), data()).loss - base for r in ranks], abs=1e-6)
    _, _, outputs = losses("activation", ranks)
    hidden = model[:3](torch.cat([x for x, _ in data()]))
    for r, found in zip(ranks, outputs, strict=True):
        exact = hidden @ layer.weight.T
        change = (put_rank(model, r, "activation")[3](hidden) - model[3].bias - exact).square().sum() / exact.square().sum()
        assert found == pytest.approx(float(change), rel=2e-2, abs=1e-5)


def test_a_layer_that_matters_more_gets_more():
    """The same weights twice; the outputs hardly depend on the first, so the budget goes to the second."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 24), nn.Linear(24, 24))
    with torch.no_grad():
        model[1].weight.copy_(model[0].weight)
    equal = ranks_by_budget(model, 800)
    assert abs(equal["0"].rank - equal["1"].rank) <= 1
    scaled = nn.Sequential(copy.deepcopy(model[0]), nn.Hardtanh(-1e-3, 1e-3), copy.deepcopy(model[1]))
    x = [(torch.randn(100, 24), torch.zeros(100, 24))]
    plan = ranks_by_budget(scaled, 800, Sensitivity("loss", x))
    rank = {n: plan[n].rank if n in plan else 12 for n in ("0", "2")}
    assert rank["2"] != rank["0"]


@pytest.mark.parametrize("round_to", [1, 3, 4, 8])
def test_ranks_are_multiples_of_what_they_are_rounded_to(round_to):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 40), nn.ReLU(), nn.Linear(40, 10))  # the second has no rank of 8 that makes it smaller
    plan = ranks_by_budget(model, 1800, round_to=round_to)
    assert plan and all(method.rank % round_to == 0 for method in plan.values())
    assert sum(p.numel() for p in apply(model, plan).parameters()) <= 1800
    assert ("2" in plan) <= (round_to < 8)


def test_rounding_is_no_rank():
    torch.manual_seed(0)
    low = torch.randn(40, 5) @ torch.randn(5, 60)
    assert rank_of(low) == 5
    assert rank_of(torch.zeros(4, 4)) == 1
    assert rank_of(low.half()) > 5  # half precision adds noise of its own


def test_factors_are_not_factored_again():
    model = apply(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), {"0": LowRank(16)})
    assert set(factorable(model)) == {"1"}


def test_zero_units_go_first():
    model = small()
    with torch.no_grad():
        model[5].weight[:, 6:] = 0
    x = torch.randn(4, 3, 5, 5)
    result = factorize(model, INPUT, lambda narrow: ranks_by_energy(narrow, 1.0))
    assert result[5].in_features == 6
    assert torch.allclose(result(x), model(x), atol=1e-5)
    tight = factorize(model, INPUT, lambda narrow: ranks_by_budget(narrow, 250, Sensitivity("activation", data())), data())
    assert sum(p.numel() for p in tight.parameters()) <= 250


def test_mistakes_are_named():
    with pytest.raises(BudgetError, match="the least ranks everywhere leave"):
        ranks_by_budget(small(), 50)
    with pytest.raises(TautError, match="example_input"):
        ranks_by_budget(small(), 500, unit="macs")
    with pytest.raises(TautError, match="multiples of a number from 1 on"):
        ranks_by_budget(small(), 500, round_to=0)
    with pytest.raises(TautError, match="choose one of"):
        Sensitivity("luck")
    with pytest.raises(TautError, match="data"):
        Sensitivity("fisher")
    with pytest.raises(TautError, match="use scheme=1, or by='fisher'"):
        ranks_by_budget(small(), 500, Sensitivity("activation", data()), scheme=2)
    with pytest.raises(LayerError, match="names no layer"):
        ranks_by_energy(small(), 0.9, layers="fc*")
