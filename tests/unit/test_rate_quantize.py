"""Rate-aware quantization: against plain rounding at equal error, its mistakes, and the search for one price."""

import copy
import json
from itertools import pairwise
from math import inf

import pytest
import torch
from laws.compress_laws import blobs, trained
from torch import nn

from taut.apply import apply
from taut.budget import Budget, compress, one_price, priced
from taut.budget.loss_model import fit
from taut.budget.trial import Setup, measured, settle
from taut.codec.files import file_size
from taut.codec.records import size
from taut.compressors import Quantize, RateQuantize, Stats, quantize
from taut.errors import LayerError, TautError
from taut.layers import bake, find_layers
from taut.measure import evaluate, reestimate_batchnorm
from taut.objective import Objective


def small(hidden=64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 4))


BATCHES = blobs(count=60)


@pytest.fixture(scope="module")
def net():
    return trained(small(), BATCHES, epochs=5)


def weight(kind):
    """Weights of a few rows and columns that matter, and smooth filters: what a file can tell beforehand."""
    torch.manual_seed(1)
    if kind == "filters":
        return nn.functional.avg_pool2d(torch.randn(32, 16, 7, 7), 3, 1) * torch.rand(32, 1, 1, 1) ** 2
    return torch.randn(120, 150) * torch.rand(120, 1) ** 2 * torch.rand(150) ** 2


@pytest.mark.parametrize("kind", ["filters", "rows and columns"])
def test_at_equal_error_the_record_is_shorter_than_that_of_rounded_weights(kind):
    w = weight(kind)
    for price, part in ((0.1, 0.97), (0.3, 0.94), (1.0, 0.86)):
        code = RateQuantize(price=price).compress(w)
        error = float((code.decompress() - w).square().sum())
        low, high = 0.0, float(w.abs().max())
        for _ in range(30):  # the step at which rounding loses as much
            step = (low + high) / 2
            lost = float((Quantize(step=step).compress(w).decompress() - w).square().sum())
            low, high = (step, high) if lost < error else (low, step)
        assert size(code) < part * size(Quantize(step=low).compress(w))


def test_errors_of_inputs_that_go_together_make_up_for_each_other():
    torch.manual_seed(0)
    x = torch.randn(4000, 3, dtype=torch.float64) @ torch.randn(3, 40, dtype=torch.float64) + 0.1 * torch.randn(4000, 40)
    w, moments = torch.randn(20, 40), x.T @ x / len(x)
    fisher = moments.diagonal().repeat(20, 1)
    lost = {}
    for name, inputs in (("known", moments), ("unknown", None)):
        code = RateQuantize(0.05, by="loss").compress(w, Stats(fisher, inputs))
        lost[name] = float((x @ (code.decompress() - w).double().T).square().mean())
    assert lost["known"] < 0.2 * lost["unknown"]


def test_more_inputs_than_the_limit_are_quantized_without_compensation(monkeypatch):
    stats = Stats(torch.rand(5, 30) + 0.1, torch.eye(30) + 0.5)
    w = torch.randn(5, 30)
    alone = RateQuantize(0.05, by="loss").compress(w, Stats(stats.fisher))
    assert not alone.equals(RateQuantize(0.05, by="loss").compress(w, stats))
    monkeypatch.setattr(quantize, "MOST_INPUTS", 29)
    assert alone.equals(RateQuantize(0.05, by="loss").compress(w, stats))


def test_any_layer_takes_it_with_what_data_tells(net):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 6, (3, 1)), nn.Flatten(), nn.Linear(96, 3))
    small = apply(model, {"*": RateQuantize(1e-5, by="loss")}, data=[torch.randn(16, 4, 8, 6) for _ in range(4)])
    assert file_size(small) < 0.6 * file_size(model)
    assert all(torch.isfinite(p).all() for p in bake(small).parameters())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RateQuantize(price=0.0), "positive"),
        (lambda: RateQuantize(price=float("nan")), "positive"),
        (lambda: RateQuantize(by="fisher"), "by must be 'magnitude' or 'loss'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, words):
    with pytest.raises(TautError, match=words):
        make()


def test_what_it_needs_is_asked_for():
    with pytest.raises(LayerError, match="give data"):
        apply(small(), {"*": RateQuantize(by="loss")})
    with pytest.raises(LayerError, match="second moments have shape"):
        RateQuantize(by="loss").compress(torch.randn(3, 4), Stats(torch.ones(3, 4), torch.eye(5)))


def test_the_model_of_the_loss_holds_the_inputs_that_were_asked_for(net):
    model = fit(net, BATCHES, Objective(), inputs=True)
    assert {n: len(m) for n, m in model.inputs.items()} == {n: x.weight.shape[1] for n, x in find_layers(net).items()}
    assert model.stats("0").inputs is model.inputs["0"] and not fit(net, BATCHES, Objective()).inputs


# -- one price for all layers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [None, [RateQuantize()]], ids=["by default", "by magnitude"])
def test_without_training_the_price_rises_as_far_as_the_budget_allows(net, how):
    result = compress(net, val=BATCHES, budget=Budget(metric_drop=0.02), methods=how)
    prices = [float(p.plan["0"].split("price=")[1].split(",")[0]) for p in result.curve.points[1:]]
    assert all(len({p.plan[n] for n in p.plan}) == 1 for p in result.curve.points[1:])  # one for all
    kept = [price for price, p in zip(prices, result.curve.points[1:], strict=True) if p.kept]
    failed = [price for price, p in zip(prices, result.curve.points[1:], strict=True) if not p.kept]
    assert kept and failed and max(kept) < min(f for f in failed if f > max(kept)) <= 1.001 * one_price.CLOSE * max(kept)
    assert result.complete and result.best.metric >= result.baseline.metric - 0.02
    assert all(b.bytes < a.bytes for a, b in pairwise(p for p in result.curve if p.kept))
    assert result.best.bytes == file_size(result.model) < 0.2 * result.baseline.bytes


@pytest.mark.parametrize("training", [{}, {"train": BATCHES, "recover": 2}], ids=["nothing trained", "trained"])
def test_the_data_is_looked_at_again_only_after_the_weights_were_trained(net, monkeypatch, training):
    seen = []
    monkeypatch.setattr(priced, "fit", lambda *of, **how: seen.append(of) or fit(*of, **how))
    told = {"val": BATCHES, "budget": Budget(metric_drop=0.05), "methods": [RateQuantize(by="loss")], "max_steps": 4}
    result = compress(net, **told, **training)
    assert sum(p.kept for p in result.curve.points[1:]) > 1
    assert (len(seen) == 1) == (not training)


def test_a_search_that_was_cut_goes_on_at_the_prices_it_had_come_to(net, tmp_path):
    told = {"val": BATCHES, "budget": Budget(metric_drop=0.02)}
    whole = compress(net, **told)
    compress(net, **told, workdir=tmp_path, max_steps=3)
    assert json.loads((tmp_path / "state.json").read_text())["prices"] != [0.0, 0.0]
    resumed = compress(net, **told, workdir=tmp_path)
    assert [(p.plan, p.bytes, p.loss) for p in resumed.curve] == [(p.plan, p.bytes, p.loss) for p in whole.curve]


def test_a_budget_of_nothing_ends_the_search_with_the_network_as_it_was():
    """Finer and finer grids end where they are no finer."""
    net = small(8)
    result = compress(net, val=[x for x, _ in BATCHES], budget=Budget(loss_increase=0.0))  # the distance to its own outputs
    assert result.complete and result.best.step == 0 and 1 < len(result.curve.points) < 20
    assert result.ledger.row("0.weight").why == "no cheaper setting was measured to be within the budget"


def test_other_units_are_not_what_it_is_for(net):
    result = compress(net, val=BATCHES, budget=Budget(metric_drop=0.02), minimize="macs", methods=[RateQuantize()])
    assert len(result.curve.points) == 1 and "costs less (arithmetic)" in result.ledger.row("0.weight").why


@pytest.mark.parametrize("off", ["weights", "data"])
def test_where_nothing_is_trained_averages_are_the_better_of_the_old_and_new_ones(off):
    data, objective = blobs(count=600), Objective()
    torch.manual_seed(0)
    net = trained(nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)), data)
    reestimate_batchnorm(net, data)
    before = evaluate(net, data)
    # what moves all inputs of the norm makes its averages wrong; data that training never had makes new ones wrong
    train = [(x + 4, y) for x, y in data] if off == "data" else data
    coded = copy.deepcopy(net)
    if off == "weights":
        coded[0].bias.data += torch.linspace(-20, 20, 16)
    setup = Setup(net, train, data, objective, Budget(metric_drop=0.0), before, lambda _: 1.0, None, seed=0, deadline=inf)
    assert measured(setup, coded, coded, {}).evaluation.loss < before.loss + 0.05
    other = settle(setup, copy.deepcopy(coded), anew=off == "data")
    assert evaluate(other, data).loss > before.loss + 0.2
