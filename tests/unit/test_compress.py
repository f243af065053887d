"""``compress``: every unit, every form of data, and every mistake a user can make."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from laws.compress_laws import blobs, check_result, trained
from torch import Tensor, nn

from taut.budget import Budget, Shrink, compress
from taut.compressors import Chain, Codebook, LowRank, Prune, Quantize
from taut.deliver import _ratios
from taut.errors import BudgetError, TautError
from taut.layers import bake
from taut.measure import evaluate, ledger
from taut.objective import Objective


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))


def wide(hidden=768):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, hidden), nn.ReLU(), nn.Linear(hidden, 256), nn.ReLU(), nn.Linear(256, 4))


def conv():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 36, 4),
    )  # fmt: skip


NETS = {"mlp": (lambda: wide(384), False), "conv": (conv, True)}


@pytest.mark.parametrize(
    ("net", "minimize", "recover"),
    [("conv", "bytes", False), ("mlp", "params", False), ("conv", "params", 1), ("mlp", "macs", 1), ("conv", "macs", False)],
)
def test_every_unit_falls_within_the_budget(net, minimize, recover):
    make, image = NETS[net]
    batches = blobs(size=256, image=image, count=120)
    model = trained(make(), batches, epochs=3)
    budget = Budget(metric_drop=0.05)
    how = {"bytes": [Codebook(k=16)]}.get(minimize, [Shrink(keep=0.5), Chain(LowRank(scheme=2), Quantize(bits=8))])
    result = compress(model, batches, batches, budget, minimize, methods=how, recover=recover, max_steps=8)
    check_result(result, budget, minimize, batches[0][0])
    totals = [point.ledger.totals()[minimize] for point in (result.baseline, result.best)]
    assert totals[1] < 0.8 * totals[0], totals


def test_latency_falls_when_the_network_is_narrower():
    batches = blobs(size=256, count=120)
    model = trained(wide(), batches, epochs=3)
    result = compress(
        model, val=batches, budget=Budget(metric_drop=0.05), minimize="latency", methods=[Shrink(keep=0.4, step=0.5)]
    )
    check_result(result, Budget(metric_drop=0.05), "latency", batches[0][0])
    assert result.best.step > 0
    assert result.best.ledger.macs < result.baseline.ledger.macs


def test_defaults_for_every_unit_end_in_time():
    batches = blobs()
    for minimize in ("bytes", "params", "macs", "latency"):
        result = compress(small(), val=batches, minimize=minimize, max_steps=8)
        check_result(result, Budget(metric_drop=0.0), minimize, batches[0][0])


# what data may look like


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


class HuggingFace(nn.Module):
    """Takes keywords, returns an object."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(12, 32), nn.Linear(32, 4)

    def forward(self, features, labels=None):
        logits = self.head(torch.relu(self.body(features)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return Output(loss, logits)


FEW = {"methods": [Codebook(k=4)], "max_steps": 8}


@pytest.mark.parametrize("minimize", ["bytes", "params"])
@pytest.mark.parametrize("labels", [True, False], ids=["labels", "no labels"])
def test_batches_as_dicts(minimize, labels):
    batches = [{"features": x, **({"labels": y} if labels else {})} for x, y in blobs()]
    methods = [Codebook(k=4)] if minimize == "bytes" else [LowRank()]
    result = compress(
        HuggingFace(), batches, batches, Budget(loss_increase=1.0), minimize, recover=1, methods=methods, max_steps=8
    )
    assert result.best.ledger.totals()[minimize] <= result.baseline.ledger.totals()[minimize]
    assert result.baseline.metric == 1.0 if not labels else result.baseline.metric < 1.0


def test_inputs_alone_are_judged_against_the_original():
    batches = [x for x, _ in blobs()]
    result = compress(small(), batches, batches, Budget(metric_drop=0.1), recover=1, **FEW)
    assert (result.baseline.loss, result.baseline.metric) == (0.0, 1.0)
    assert result.best.bytes < result.baseline.bytes
    agree = evaluate(result.model, batches, Objective(original=result.original)).metric
    assert agree == result.best.metric >= 0.9


def test_generators_are_read_once_and_used_again_and_again():
    batches = blobs()
    net = trained(small(), batches)
    told = {"budget": Budget(metric_drop=0.02), "recover": 1, **FEW}
    listed = compress(net, batches, batches, **told)
    streamed = compress(net, (b for b in batches), (b for b in batches), **told)
    assert [p.loss for p in streamed.curve] == [p.loss for p in listed.curve]


def test_the_users_loss_and_metric_are_what_is_measured():
    batches = [(x, x) for x, _ in blobs()]
    net = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 12))

    def loss(model, batch):
        return (model(batch[0]) - batch[1]).abs().mean()

    def metric(model, data):
        return max(float(loss(model, batch)) for batch in data)

    budget = Budget(metric_drop=0.05, maximize=False)
    result = compress(net, batches, batches, budget, loss=loss, metric=metric, recover=1, **FEW)
    with torch.no_grad():
        assert result.best.loss == pytest.approx(float(sum(loss(result.model, b) for b in batches) / 4), rel=1e-5)
        assert result.best.metric == pytest.approx(metric(result.model, batches))
        assert result.best.metric <= result.baseline.metric + 0.05
    assert result.best.bytes < result.baseline.bytes


def test_the_users_metric_is_asked_of_all_of_the_data_alone():
    """One that ranks, or wants every class, means nothing of a part."""
    batches = blobs(size=12)
    net, sizes = trained(small(), batches, epochs=3), []

    def metric(model, data):
        sizes.append(len(list(data)))
        return evaluate(model, data).metric

    compress(net, batches, batches, Budget(metric_drop=0.1), metric=metric, recover=1, max_steps=2)
    assert len(sizes) > 2 and set(sizes) == {len(batches)}


def test_regression_targets_take_the_squared_error():
    batches = [(x, x[:, :1]) for x, _ in blobs()]
    net = nn.Linear(12, 1)
    result = compress(nn.Sequential(net), val=batches, budget=Budget(loss_increase=0.1), **FEW)
    assert result.baseline.metric == pytest.approx(-result.baseline.loss)


# networks out of the ordinary


def test_frozen_weights_are_compressed_and_stay_frozen():
    batches = blobs()
    net = trained(small(), batches)
    net[0].requires_grad_(False)
    for recover in (False, 1):
        result = compress(net, batches, batches, Budget(metric_drop=0.05), recover=recover, **FEW)
        assert result.ledger.row("0.weight").what == "Codebook"
    assert [p.requires_grad for p in net.parameters()] == [False, False, True, True]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.first, self.second = nn.Embedding(20, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.second.weight, self.head.weight = self.first.weight, self.table.weight

    def forward(self, ids):
        return self.head(self.second(torch.relu(self.first(self.table(ids)))))


@pytest.mark.parametrize("minimize", ["bytes", "params", "macs"])
def test_tied_weights_are_counted_once_and_their_arithmetic_where_it_runs(minimize):
    ids = torch.randint(0, 20, (8, 5))
    methods = [Codebook(k=4)] if minimize == "bytes" else [LowRank()]
    result = compress(Tied(), val=[ids], budget=Budget(metric_drop=0.5), minimize=minimize, methods=methods, max_steps=8)
    check_result(result, Budget(metric_drop=0.5), minimize, ids)
    assert result.baseline.ledger.macs == 5 * (2 * 16 * 16 + 20 * 16)
    if minimize == "bytes":
        assert torch.equal(result.model.head.weight, result.model.table.weight)
    else:
        assert result.best.step == 0 == len(result.curve) - 1
        assert "shared with" in result.ledger.row("first.weight").why


class Branches(nn.Module):
    """A weight used twice, a grouped convolution, attention whose output layer never runs itself."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.twice, self.grouped = nn.Linear(8, 8), nn.Conv1d(8, 8, 3, groups=4, padding=1)

    def forward(self, x):
        return self.grouped(self.twice(self.twice(x)).mT).mean(-1)


def test_reused_and_grouped_layers_are_counted_as_they_run():
    x = torch.randn(6, 5, 8)
    result = compress(Branches(), val=[x], budget=Budget(metric_drop=0.9), minimize="macs", methods=[LowRank()], max_steps=8)
    check_result(result, Budget(metric_drop=0.9), "macs", x)
    assert "4 groups" in result.ledger.row("grouped.weight").why


@pytest.mark.parametrize("minimize", ["bytes", "params"])
@pytest.mark.parametrize("net", [nn.Sequential(nn.BatchNorm1d(12)), nn.Sequential(nn.ReLU()), nn.Sequential(nn.LayerNorm(12))])
def test_a_network_with_nothing_to_compress_comes_back_as_it_is(net, minimize):
    batches = [x for x, _ in blobs()]
    result = compress(net.eval(), batches, batches, Budget(metric_drop=0.0), minimize, recover=1)
    assert result.complete
    assert (result.best.step, len(result.curve)) == (0, 1)
    assert torch.equal(result.model(batches[0]), net(batches[0]))
    assert all(row.why for row in result.ledger.rows)


def test_a_network_without_arithmetic_has_a_ratio_of_one():
    batches = [x for x, _ in blobs()]
    result = compress(nn.Sequential(nn.BatchNorm1d(12)).eval(), val=batches)
    latency = {name: type("T", (), {"median_ms": 2.0}) for name in ("original", "compressed")}
    ratios = _ratios(result, latency, result.best.bytes)
    assert ratios == {"bytes": pytest.approx(4 * 24 / result.best.bytes), "params": 1, "macs": 1, "latency": 1}


def test_a_method_stands_for_its_whole_ladder():
    """The setting that a method is given with does not fit the layer; others on its ladder do."""
    net = nn.Sequential(nn.Linear(16, 10))
    result = compress(
        net, val=[torch.randn(40, 16)], budget=Budget(loss_increase=9.0), minimize="bytes", methods=[LowRank(rank=8)]
    )
    assert any("LowRank" in p.plan.get("0", "") for p in result.curve) or "dense layer on" in result.ledger.row("0.weight").why


# limits and mistakes


def test_a_budget_of_nothing_leaves_the_network_or_loses_nothing():
    batches = blobs()
    net = trained(small(), batches)
    result = compress(net, val=batches, budget=Budget(metric_drop=0.0, loss_increase=0.0), methods=[Prune()])
    check_result(result, Budget(metric_drop=0.0, loss_increase=0.0), "bytes", batches[0][0])


def test_the_time_limit_holds_and_what_was_kept_stands():
    batches = blobs()
    result = compress(small(), batches, batches, Budget(metric_drop=0.1), recover=50, time_limit=0.5)
    assert not result.complete
    assert result.curve.points[-1].seconds < 5
    assert {row.why for row in result.ledger.rows if row.name.endswith("weight")} == {
        "the limit of time or steps came before a setting was measured"
    } or result.best.step > 0


def test_the_same_seed_gives_the_same_network():
    batches = blobs()
    net = trained(small(), batches)
    runs = [compress(net, batches, batches, Budget(metric_drop=0.02), recover=1, methods=[Prune()], seed=4) for _ in range(2)]
    assert [(p.loss, p.bytes, p.plan) for p in runs[0].curve] == [(p.loss, p.bytes, p.plan) for p in runs[1].curve]
    assert torch.equal(bake(runs[0].model)[0].weight, bake(runs[1].model)[0].weight)
    assert all(after.bytes < before.bytes for before, after in pairwise(runs[0].curve.kept))


def broken():
    net = small()
    net[2].weight.data[1, 2] = float("nan")
    return net


def nothing(model, batch):
    return model(batch[0]).sum() * float("nan")


X = blobs()
MISTAKES = {
    "NaN weights": (broken, {"val": X}, TautError, r"2\.weight.*\(4, 32\).*NaN"),
    "no validation data": (small, {"train": X}, BudgetError, "validation data is missing"),
    "empty validation data": (small, {"val": []}, BudgetError, "validation data is empty"),
    "an exhausted generator": (small, {"val": iter(())}, BudgetError, "validation data is empty"),
    "empty training data": (small, {"train": [], "val": X}, BudgetError, "training data is empty"),
    "a loss that is NaN": (small, {"val": X, "loss": nothing}, BudgetError, "the loss is nan"),
    "NaN inputs": (small, {"val": [(X[0][0] * float("nan"), X[0][1])]}, BudgetError, "the loss is nan"),
    "NaN while training": (
        small, {"train": [(X[0][0] * float("nan"), X[0][1])], "val": X, "methods": [Codebook()]}, BudgetError, "NaN|nan",
    ),
    "an unknown unit": (small, {"val": X, "minimize": "weight"}, TautError, "'weight': choose one of bytes, params, macs"),
    "no methods": (small, {"val": X, "methods": []}, TautError, "methods is empty"),
    "not a method": (small, {"val": X, "methods": ["prune"]}, TautError, "'prune' is not a method"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    make, settings, error, words = MISTAKES[mistake]
    with pytest.raises(error, match=words):
        compress(make(), **settings)


def test_impossible_budgets_are_refused():
    for settings in ({}, {"metric_drop": -0.1}, {"loss_increase": float("nan")}, {"metric_drop": float("inf")}):
        with pytest.raises(BudgetError, match="budget"):
            Budget(**settings)


def test_a_folder_of_another_budget_is_refused(tmp_path):
    told = {"val": X, "methods": [Codebook(k=2)], "workdir": tmp_path}
    compress(small(), budget=Budget(0.1, 0.2), **told)
    with pytest.raises(BudgetError, match="holds another run"):
        compress(small(), budget=Budget(0.1, 0.3), **told)


def test_the_ledger_of_a_plain_network_is_torchs_own_count():
    net = conv().eval()
    found = ledger(net, torch.zeros(3, 1, 16, 16)).totals()
    assert found["params"] == sum(p.numel() for p in net.parameters())
    assert found["macs"] == 16 * 9 * 14 * 14 + 32 * 16 * 9 * 36 + 32 * 36 * 4
