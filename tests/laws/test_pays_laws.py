"""A rung that does not pay is never chosen, and its layer says why."""

import pytest
import torch
from laws.compress_laws import (
    SlowRank,
    blobs,
    check_narrowing,
    check_never_chosen,
    check_noise_bars_nothing,
    check_timed_once,
    trained,
)
from torch import nn

from taut.budget import Budget, Shrink, compress, pays
from taut.budget.pays import Pays, narrower_but_slower, ratios, slower
from taut.compressors import LowRank, Prune
from taut.layers import find_layers
from taut.shape_times import inputs_seen


def mlp():
    return nn.Sequential(
        nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )


@pytest.mark.parametrize("minimize", ["params", "macs"])
def test_a_replacement_that_is_slower_is_never_tried(minimize):
    net = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 4))
    result = compress(net, val=blobs(), budget=Budget(loss_increase=5.0), minimize=minimize, methods=[SlowRank()])
    check_never_chosen(result)
    assert result.complete
    assert result.best.step == 0


def test_what_a_resumed_search_barred_before_stays_barred(tmp_path):
    settings = {"val": blobs(), "budget": Budget(loss_increase=5.0), "minimize": "params", "methods": [SlowRank()]}
    net = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
    first = compress(net, **settings, workdir=tmp_path)
    again = compress(net, **settings, workdir=tmp_path)
    assert [row.why for row in again.ledger.rows] == [row.why for row in first.ledger.rows]


def test_noise_bars_nothing():
    check_noise_bars_nothing(slower)


def test_equal_layers_are_timed_once():
    net = mlp()
    layers = find_layers(net)
    moves = {name: (LowRank(rank=2), LowRank(rank=2).compress(layers[name].weight)) for name in ("0", "2", "4")}
    check_timed_once(Pays, net, moves, 2)


def test_a_code_without_a_module_is_not_timed():
    net = mlp()
    code = Prune(density=0.5).compress(net[0].weight)

    def fails(*_):
        raise AssertionError("timed")

    assert Pays(torch.zeros(1, 12), fails).why_not(net, {"0": (Prune(density=0.5), code)}) == {}


def test_a_narrower_network_that_is_slower_is_named():
    check_narrowing(narrower_but_slower)


def test_a_narrower_network_that_is_slower_is_not_kept(monkeypatch):
    monkeypatch.setattr("taut.budget.narrow.narrower_but_slower", lambda *_: "it took 1.4 times as long")
    result = compress(mlp(), val=blobs(), budget=Budget(loss_increase=5.0), minimize="params", methods=[Shrink()])
    assert len(result.curve) > 1
    assert result.best.step == 0
    assert "no units removed: it took 1.4 times as long" in result.ledger.row("2.weight").why


def test_real_timings_tell_slow_from_fast():
    big = nn.Sequential(nn.Linear(1024, 1024))
    x = torch.randn(3, 1024)
    assert Pays(x).why_not(big, {"0": (LowRank(rank=8), LowRank(rank=8).compress(big[0].weight))}) == {}
    small = nn.Sequential(nn.Linear(16, 16))
    reasons = Pays(x[:, :16]).why_not(small, {"0": (SlowRank(rank=2), SlowRank(rank=2).compress(small[0].weight))})
    assert "rank 2 took " in reasons["0"]
    assert reasons["0"].endswith("on ONNX Runtime, batch 1")


def test_without_the_runtime_torch_is_timed_and_said(monkeypatch):
    def missing(*_, **__):
        raise pays.ExtraError("onnx", "onnx")

    monkeypatch.setattr(pays, "ratios_onnx", missing)
    found, where = ratios(nn.Linear(64, 8), nn.Sequential(*[nn.Linear(64, 64) for _ in range(20)]), torch.zeros(5, 64))
    assert where == "torch"
    assert slower(found) > 2


def test_layers_get_what_they_really_see():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.mix, self.idle = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, ids):
            return self.mix(self.table(ids).reshape(-1, 6))

    net = Tokens()
    seen = inputs_seen(net, find_layers(net), torch.zeros(4, 5, dtype=torch.long))
    assert {name: tuple(x.shape) for name, x in seen.items()} == {"table": (1, 5), "mix": (5, 6)}
    code = LowRank(rank=1).compress(net.idle.weight)
    assert Pays(torch.zeros(4, 5, dtype=torch.long)).why_not(net, {"idle": (LowRank(rank=1), code)}) == {}


def test_the_search_keeps_what_pays():
    batches = blobs(size=256)
    net = trained(nn.Sequential(nn.Linear(256, 768), nn.ReLU(), nn.Linear(768, 4)), batches, epochs=4)
    result = compress(net, val=batches, budget=Budget(metric_drop=0.05), minimize="params", methods=[LowRank()])
    assert result.best.plan["0"].startswith("LowRank")
    assert result.best.ledger.parameters < result.baseline.ledger.parameters / 4
