"""The table of timings that prices settings where time is minimised."""

import json
import math

import pytest
import torch
from torch import nn

from taut.budget import Budget, compress
from taut.budget.options import Option, Site, options
from taut.budget.price import Meter
from taut.compressors import LowRank, Quantize
from taut.compressors.base import DenseCode
from taut.errors import BudgetError, TautError
from taut.latency import Latency
from taut.layers import find_layers
from taut.ranks import ranks_by_budget
from taut.sensitivity import Sensitivity
from taut.shape_times import ShapeTimes, runtime, timed

EXAMPLE = torch.zeros(5, 96)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10))


class Cliffs:
    """A runtime that computes whole blocks of eight, at a speed that changes from call to call."""

    def __init__(self):
        self.calls, self.speed = [], 1.0

    def __call__(self, models, x):
        self.calls.append((list(models), tuple(x.shape)))
        self.speed = 2.0 ** (len(self.calls) % 7)
        return {name: self.speed * self.cost(model) for name, model in models.items()}

    @staticmethod
    def cost(model: nn.Module) -> float:
        linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
        return sum(8 * math.ceil(m.in_features / 8) * 8 * math.ceil(m.out_features / 8) for m in linear) / 1000


class Squares:
    """A loss model: the error of the weight."""

    def stats(self, name):
        return None

    def change(self, name, weight, new):
        return float((weight - new).square().sum())


def latency(ms: float) -> Latency:
    return Latency(ms, ms, ms, 1)


def no_runtime(*_args, **_settings):
    raise TautError("no runtime")


def table_of(net: nn.Module) -> tuple[ShapeTimes, Cliffs]:
    clock = Cliffs()
    table = ShapeTimes(EXAMPLE, clock)
    table.look(net)
    return table, clock


def test_ranks_past_a_cliff_are_not_offered():
    net = mlp()
    table, _ = table_of(net)
    layer = find_layers(net, EXAMPLE)["0"]
    site = Site(layer, layer.weight.detach(), Option(None, table(DenseCode(layer.weight), layer), 0.0))
    costs = [table(LowRank(rank=r).compress(site.weight), layer) for r in (33, 34, 39, 40, 41)]
    assert costs[0] == costs[1] == costs[2] == costs[3] < costs[4]
    front = options(site, [LowRank()], Squares(), table, depth=20)
    ranks = [o.method.rank for o in front[1:]]
    assert ranks and all(r % 8 == 0 for r in ranks), ranks


def test_a_ratio_is_timed_in_turn_so_that_the_speed_of_the_moment_cancels():
    net = mlp()
    table, _ = table_of(net)
    layers = find_layers(net, EXAMPLE)
    dense = table.dense(layers["0"])
    half = table(LowRank(rank=24).compress(layers["0"].weight), layers["0"])
    assert half / dense == pytest.approx(0.5)


def test_equal_shapes_are_timed_once_with_one_input():
    net = mlp()
    table, clock = table_of(net)
    layers = find_layers(net, EXAMPLE)
    for _ in range(3):
        for name in ("0", "2"):
            table(LowRank(rank=8).compress(layers[name].weight), layers[name])
    assert [names for names, _ in clock.calls] == [["dense"], ["dense"], ["dense", "other"]]
    assert {shape for _, shape in clock.calls} == {(1, 96)}


def test_a_code_that_leaves_the_layer_as_it_is_costs_what_the_layer_does():
    net = mlp()
    table, _ = table_of(net)
    layer = find_layers(net, EXAMPLE)["0"]
    assert table(Quantize(bits=4).compress(layer.weight), layer) == table.dense(layer)


def test_a_layer_that_never_runs_costs_its_arithmetic_at_the_speed_of_the_others():
    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.aside = nn.Linear(96, 96), nn.Linear(96, 96)

        def forward(self, x):
            return nn.functional.linear(self.used(x), self.aside.weight)

    net = Aside()
    table, _ = table_of(net)
    layers = find_layers(net, EXAMPLE)
    assert "aside" not in table.seen
    assert table.dense(layers["aside"]) == pytest.approx(table.rate * 96 * 96)
    small = table(LowRank(rank=24).compress(layers["aside"].weight), layers["aside"])
    assert small == pytest.approx(table.dense(layers["aside"]) / 2)


def test_what_was_timed_is_kept_and_used_again(tmp_path):
    file, net = tmp_path / "latency.json", mlp()
    layer = find_layers(net, EXAMPLE)["0"]
    found = []
    for turn in range(2):
        clock = Cliffs()
        table = ShapeTimes(EXAMPLE, clock)
        table.keep(file)
        table.look(net)
        found.append(table(LowRank(rank=16).compress(layer.weight), layer))
        assert bool(clock.calls) == (turn == 0)
    assert found[0] == found[1]
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("held", ["", "{", "[]", "{}", json.dumps({"runtime": runtime()}), '{"runtime": "another"}'])
def test_a_table_that_is_broken_or_of_another_machine_is_made_anew(tmp_path, held):
    file = tmp_path / "latency.json"
    file.write_text(held)
    clock = Cliffs()
    table = ShapeTimes(EXAMPLE, clock)
    table.keep(file)
    table.look(mlp())
    assert clock.calls and json.loads(file.read_text())["runtime"] == runtime()


def test_real_timings_tell_a_large_layer_from_a_small_one(monkeypatch):
    # far apart: what else the machine does may take as long as a small one
    models = {"large": nn.Linear(2048, 2048).eval(), "small": nn.Linear(64, 64).eval()}
    found = {name: timed({name: model}, torch.zeros(1, model.in_features))[name] for name, model in models.items()}
    assert found["large"] > 2 * found["small"] > 0
    monkeypatch.setattr("taut.shape_times.time_fixed_onnx", no_runtime)
    assert timed({"a": models["large"]}, torch.zeros(1, 2048))["a"] > 0


@pytest.mark.parametrize(("layer", "net"), [(0.5, 0.4), (0.12, 0.02), (0.1, 0.01), (0.08, 0.008)])
def test_what_a_call_alone_takes_is_no_layers_time(monkeypatch, layer, net):
    def clock(models, _x, timing):
        return {name: latency(0.1 if isinstance(model, nn.Identity) else layer) for name, model in models.items()}

    monkeypatch.setattr("taut.shape_times.time_fixed_onnx", clock)
    assert timed({"layer": nn.Linear(4, 4)}, torch.zeros(1, 4)) == {"layer": pytest.approx(net)}


def test_the_search_for_time_prices_by_the_table_and_leaves_it(tmp_path, monkeypatch):
    clock = Cliffs()
    monkeypatch.setattr(Meter, "latency", lambda self, model: clock.cost(model))
    monkeypatch.setattr("taut.budget.pays.Pays.why_not", lambda *_: {})
    monkeypatch.setattr("taut.shape_times.ShapeTimes.__init__.__defaults__", (clock, 1))
    batches = [(torch.randn(64, 96), torch.randint(0, 10, (64,)))]
    budget = Budget(loss_increase=0.05)
    result = compress(mlp(), val=batches, budget=budget, minimize="latency", methods=[LowRank()], workdir=tmp_path)
    ranks = [int(m.split("rank=")[1].split(",")[0]) for m in map(str, result.best.plan.values())]
    assert ranks and all(r % 8 == 0 for r in ranks), result.best.plan
    assert json.loads((tmp_path / "latency.json").read_text())["ratio"]


@pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
def test_ranks_for_milliseconds_stay_within_them_and_off_the_cliffs(share):
    net = mlp()
    table, _ = table_of(net)
    budget = share * table.total(net)
    plan = ranks_by_budget(net, budget, unit="latency", example_input=EXAMPLE, times=table)
    layers = find_layers(net, EXAMPLE)
    spent = sum(table(plan[n].compress(x.weight), x) if n in plan else table.dense(x) for n, x in layers.items())
    assert 0.6 * budget < spent <= budget
    assert plan and all(method.rank % 8 == 0 for method in plan.values()), plan


def test_what_cannot_be_had_in_milliseconds_is_said():
    net = mlp()
    table, _ = table_of(net)
    with pytest.raises(BudgetError, match=r"1\.00?e-06|1e-06"):
        ranks_by_budget(net, 1e-6, unit="latency", example_input=EXAMPLE, times=table)
    with pytest.raises(TautError, match="example_input"):
        ranks_by_budget(net, 1.0, unit="latency")
    by_inputs = Sensitivity("activation", [torch.randn(8, 96)], inputs=True)
    with pytest.raises(TautError, match="leave inputs"):
        ranks_by_budget(net, 1.0, by_inputs, unit="latency", example_input=EXAMPLE, times=table)
