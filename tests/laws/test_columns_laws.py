"""Layers that read fewer inputs: the laws, and the way through files, graphs and the choice of ranks."""

import pytest
import torch
from laws.columns_laws import check_choices, check_next_to_go, check_regression, inputs, weight
from torch import nn

import taut
from taut.compressors import Chain, Codebook, LowRank
from taut.compressors.columns import Columns, Narrow
from taut.errors import LayerError, TautError
from taut.fewer_inputs import narrow_choices
from taut.layers import bake, find_layers, put
from taut.measure import ledger
from taut.numeric.elimination import fewer_columns
from taut.ranks import factorize, ranks_by_budget
from taut.sensitivity import Sensitivity

CASES = [(6, 0), (11, 1), (24, 2)]


@pytest.mark.parametrize("check", [check_regression, check_next_to_go], ids=lambda check: check.__name__[6:])
@pytest.mark.parametrize(("size", "seed"), CASES)
def test_law(check, size, seed):
    check(fewer_columns, size, seed)


@pytest.mark.parametrize("seed", [0, 1])
def test_choices_are_what_they_say(seed):
    check_choices(narrow_choices, seed)


def test_several_columns_at_once(monkeypatch):
    monkeypatch.setattr("taut.numeric.elimination.ROUNDS", 6)
    check_regression(fewer_columns, 24, 0)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 10), nn.ReLU(), nn.Linear(10, 6)).eval()


METHODS = [
    Columns(0.5),
    Chain(Columns(0.5), LowRank(2)),
    Chain(Columns(0.5), Codebook(4)),
    Chain(Chain(Columns(0.5), LowRank(2)), Codebook(4)),
    Chain(Columns(0.5, by="activation"), LowRank(2, by="activation")),
]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_through_a_file_and_a_graph(method, tmp_path):
    x = inputs(24).float()
    small = taut.apply(network(), {"0": method}, data=[x])
    assert isinstance(small[0], Narrow)
    taut.save(small, tmp_path / "m.taut")
    again = taut.load(tmp_path / "m.taut", into=network())
    assert torch.equal(again(x), small(x))
    pruned = x.clone()
    pruned[:, ~small[0].code().read] = 7.0  # what is not read does not matter
    assert torch.equal(small(pruned), small(x))
    taut.export_onnx(small, tmp_path / "m.onnx", x[:1])
    totals = ledger(small, x[:1]).totals()
    assert totals["params"] == sum(p.numel() for p in bake(small).parameters())
    rank = 2 if "LowRank" in str(method) else None
    assert totals["macs"] == (rank * (12 + 10) if rank else 12 * 10) + 60


def test_factors_of_the_columns_are_layers():
    small = taut.apply(network(), {"0": Chain(Columns(0.5), LowRank(2))})
    assert [tuple(layer.weight.shape) for layer in small[0][0]] == [(2, 12), (10, 2)]
    small(torch.randn(3, 24)).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


def test_ranks_for_a_budget_that_rank_one_everywhere_exceeds():
    x = inputs(24).float()
    with pytest.raises(TautError, match="the least ranks everywhere"):
        ranks_by_budget(network(), 60, Sensitivity("activation", [x]))
    sensitivity = Sensitivity("activation", [x], inputs=True)
    small = factorize(network(), x[:1], lambda model: ranks_by_budget(model, 60, sensitivity), [x])
    assert sum(p.numel() for p in small.parameters()) <= 60


def test_at_equal_parameters_fewer_inputs_lose_less():
    """Half of the inputs say nothing: what factors would spend on them buys rank."""
    x = inputs(24).float() * (torch.arange(24) >= 12)
    with torch.no_grad():
        model = network()
        model[0].weight.copy_(weight(10, 24))
        wanted = model[0](x)
        losses = []
        for more in (False, True):
            sensitivity = Sensitivity("activation", [x], inputs=more)
            plan = ranks_by_budget(model, 190, sensitivity, layers="0")
            losses.append(float((taut.apply(model, plan, data=[x])[0](x) - wanted).square().mean()))
    assert losses[1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Columns(0.0), "above 0 and at most 1"),
        (lambda: Columns(1.5), "above 0 and at most 1"),
        (lambda: Columns(by="noise"), "'magnitude' or 'activation'"),
        (lambda: taut.apply(nn.Sequential(nn.Conv2d(3, 4, 3)), {"0": Columns()}), "0: .*taut.shrink"),
        (lambda: taut.apply(network(), {"0": Columns(by="activation")}), "second moments"),
        (lambda: taut.apply(nn.Sequential(nn.Embedding(5, 4)), {"0": Columns(by="activation")}), "not measured"),
        (lambda: Sensitivity("energy", inputs=True), "judged by='activation'"),
    ],
)
def test_errors(make, words):
    with pytest.raises(TautError, match=words):
        make()


def test_the_code_of_another_shape():
    code = Columns(0.5).compress(torch.randn(10, 20))
    model = network()
    with pytest.raises(LayerError, match=r"0: the code is for shape \(10, 20\)"):
        put(model, find_layers(model)["0"], code)
