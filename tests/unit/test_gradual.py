"""The gradual stage in the search."""

from dataclasses import replace
from math import inf
from types import SimpleNamespace

import pytest
import torch
from laws.budget_laws import network
from laws.compress_laws import blobs
from torch import nn

from taut import load, save
from taut.budget import Budget, Gradual, Recovery, compress, gradual, squeeze
from taut.budget import priced as prices
from taut.budget.compress import _setup
from taut.budget.gradual import Remover, _removable, narrower
from taut.budget.loss_model import fit
from taut.budget.trial import Trial, measured, put_all, rank
from taut.compressors import Chain, Codebook, Prune, RateQuantize
from taut.compressors.coded import attached, free_parameters
from taut.compressors.pool import Pool, PooledLinear
from taut.errors import TautError
from taut.layers import find_layers
from taut.measure import Evaluation
from taut.objective import Objective

LONG = Recovery(epochs=12, lr=0.02, first=0.1)


@pytest.mark.parametrize("seed", range(2))
def test_the_search_keeps_the_budget_with_fewer_weights_on_grids(seed):
    train, val = blobs(seed), blobs(seed)[:2]
    net = network(seed, train)
    budget = Budget(loss_increase=0.1)
    result = compress(net, train, val, budget, methods=[Gradual()], recover=LONG, seed=seed, max_steps=4)
    assert result.best.step > 0 and result.best.bytes < 0.5 * result.baseline.bytes
    assert result.best.loss <= result.baseline.loss + 0.1
    for name, module in result.model.named_modules():
        if isinstance(module, nn.Linear):
            weight = module.weight.detach()
            assert (weight == 0).any() and attached(module, "weight").levels.shape == weight.shape, name


@pytest.mark.parametrize("settings", [{"until": 0.05}, {"until": 1.0}])
def test_settings_that_make_no_sense_are_named(settings):
    with pytest.raises(TautError, match="give until from"):
        Gradual(**settings)


def test_layers_that_read_blocks_of_inputs_go_the_whole_way(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(256, 1, 4, 4)
    y = (x[:, 0, :2].sum((1, 2)) > x[:, 0, 2:].sum((1, 2))).long()
    train = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 256, 32)]
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for step in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(train[step % 8][0]), train[step % 8][1]).backward()
        optimizer.step()
    how = Gradual(within={"1": Pool(by=2)})
    settings = {"methods": [how], "recover": LONG, "workdir": tmp_path}
    results = [compress(net, train, train, Budget(loss_increase=0.3), max_steps=steps, **settings) for steps in (2, 4)]
    for result in results:
        best = result.within(Budget(loss_increase=0.3))
        assert best.best.step > 0 and isinstance(best.model[1][0], PooledLinear) and best.model[1][0].in_features == 4
        save(best.model, tmp_path / "m.taut")
        fresh = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 2))
        with torch.no_grad():
            assert torch.equal(load(tmp_path / "m.taut", into=fresh).eval()(x), best.model(x))
    assert len(results[1].curve) >= len(results[0].curve)  # the second goes on where the first ended


def test_biases_are_removed_where_they_are_worth_least_for_their_bits():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    net[2].bias.requires_grad_(False)
    weights = _removable(find_layers(net))
    assert [tuple(w.shape) for w in weights] == [(4, 6), (2, 4), (4,)]  # a frozen one stays
    with torch.no_grad():
        net[0].bias.copy_(torch.tensor([1e-4, 1.0, 1e-4, 1.0]))
    remover = Remover(weights, count=30, until=0.5, bits=4.0)
    for w in weights:
        w.grad = torch.ones_like(w)
    remover(0.5)
    assert (net[0].bias != 0).tolist() == [False, True, False, True]
    assert sum(int((w != 0).sum()) for w in weights) == 30


def test_units_that_removal_left_idle_go_and_the_file_opens(tmp_path):
    train, val = blobs(0), blobs(0)[:2]
    width = train[0][0].shape[1]

    def build():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 4))

    net = build()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for step in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(train[step % len(train)][0]), train[step % len(train)][1]).backward()
        optimizer.step()
    how = replace(LONG, first=0.05)
    result = compress(net, train, val, Budget(loss_increase=0.3), methods=[Gradual()], recover=how, max_steps=2)
    narrow, columns = result.model[0].out_features, result.model[2].weight.detach()
    assert result.best.step > 0 and narrow < 64 and narrow % 8 == 0
    # those that quantization leaves idle besides stay, in a layer of few
    used = int((columns != 0).any(0).sum())
    assert 8 * -(-used // 8) <= narrow <= 2 * 8 * -(-used // 8)
    save(result.model, tmp_path / "m.taut")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "m.taut", into=build()).eval()(val[0][0]), result.model(val[0][0]))


def test_a_network_that_cannot_be_followed_stays_as_wide():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 2)

        def forward(self, x):
            return self.b(self.a(x).relu().view(-1, 16))

    net = Fixed()
    net.b.weight.data[:, 5:] = 0
    assert narrower(net, torch.randn(3, 4)).a.out_features == 16


@pytest.mark.parametrize("runs", [(2,), (1, 2)], ids=["at once", "resumed"])
def test_a_size_is_trained_on_gently_and_keeps_its_weights(runs, monkeypatch, tmp_path):
    train, val, rounds = blobs(0), blobs(0)[:2], []
    trained = gradual.train_round

    def told(setup, model, how, seed, **more):
        rounds.append((how.epochs, how.lr, how.hold, "watch" in more))
        return trained(setup, model, how, seed, **more)

    monkeypatch.setattr(gradual, "train_round", told)
    monkeypatch.setattr(squeeze, "nearly", lambda setup, trial: True)
    monkeypatch.setattr(Budget, "holds", lambda *_: False)
    for steps in runs:
        result = compress(
            network(0, train), train, val, Budget(metric_drop=0.0), methods=[Gradual()], recover=LONG, max_steps=steps,
            workdir=tmp_path,
        )  # fmt: skip
    assert not any(point.kept for point in result.curve if point.step)
    assert rounds == [(12, LONG.lr, 0.75, False), (3, LONG.lr / 4, LONG.hold, False)]
    before, *after = (sum(row.nonzeros for row in point.ledger.rows if "weight" in row.name) for point in result.curve)
    assert len(after) > 2 and max(after) < 0.9 * before  # each training's best, and what may serve another budget


@pytest.mark.parametrize("holds_to", [0.02, 0.9, 7.0, 60.0], ids=lambda price: f"in budget up to {price}")
@pytest.mark.parametrize("aimed_at", [150.0, 300.0, 1000.0, 1e6], ids=lambda size: f"{size:g} bytes")
def test_the_price_is_the_highest_in_budget_or_that_of_the_size_aimed_at(holds_to, aimed_at, monkeypatch):
    """Files of ``1000 / price^(1/4)`` bytes, which lose more and more: at the price ``holds_to`` all that is allowed."""

    def made(_setup, _model, coded, plan):
        (method,) = {str(one): one for one in plan.values() if isinstance(one, RateQuantize)}.values() or (None,)
        if method is None:  # shared values: of no use here
            return Trial(coded, coded, plan, Evaluation(inf, -inf, 1, torch.tensor([inf])), inf)
        loss = method.price / holds_to
        return Trial(coded, coded, plan, Evaluation(loss, -loss, 1, torch.tensor([loss])), 1000 * method.price**-0.25)

    net = network(0, blobs(0))
    setup = SimpleNamespace(
        budget=Budget(loss_increase=1.0), baseline=Evaluation(0.0, 0.0, 1, torch.zeros(1)), train=blobs(0), seed=0,
        objective=Objective(),
    )  # fmt: skip
    monkeypatch.setattr(prices, "measured", made)
    monkeypatch.setattr(prices, "put_all", lambda model, *_: model)
    monkeypatch.setattr(prices, "_trained", lambda setup, model, coded, plan, seed: made(setup, model, coded, plan))
    monkeypatch.setattr(prices, "first_price", lambda *_: 1.0)
    trial = prices.fewer_values(setup, net, aimed_at, seed=0)
    (price,) = {method.price for method in trial.plan.values()}
    least = (1000 / (prices.ABOVE * aimed_at)) ** 4  # what a file of the size aimed at costs a bit
    top = prices.WIDE**prices.COARSE * prices.FINE ** (prices.CANDIDATES - prices.COARSE - 1)
    if least <= holds_to:
        assert holds_to / prices.FINE <= price <= holds_to
    elif least < top:
        assert least <= price <= prices.FINE * least  # none holds: the first that is small enough
    else:  # out of reach: the smallest that was measured
        assert price == pytest.approx(top)


def test_what_is_left_makes_up_for_what_was_rounded():
    """Against values that the weights share, chosen by the same curvature: smaller at no larger loss."""
    train, val = blobs(0), blobs(0)[:2]
    net = network(0, train)
    with torch.no_grad():
        for layer in find_layers(net).values():
            layer.weight.mul_(layer.weight.abs() > layer.weight.abs().median())
    setup = _setup(net, net, train, val, Budget(loss_increase=0.02), "bytes", (None, None), LONG, 0, inf)
    plan = {name: Chain(Prune(0.5), Codebook(16, by="fisher", keep_zero=False)) for name in find_layers(net)}
    shared = measured(setup, net, put_all(net, plan, fit(net, train, setup.objective, seed=0)), plan)
    how = RateQuantize(by="loss")
    known = prices.what_is_known(setup, how, net)

    def tried(price):
        plan = prices.at_price(how, net, price)
        return measured(setup, net, put_all(net, plan, known), plan)

    trial = max(prices._by_price(setup, tried, prices.first_price(how, net, known), inf), key=lambda one: rank(setup, one))
    assert setup.budget.holds(setup.baseline, trial.evaluation) and trial.cost < 0.8 * shared.cost


def test_shared_values_are_trained_and_taken_where_that_is_better(monkeypatch):
    train, val = blobs(0), blobs(0)[:2]
    net, found = network(0, train), {}
    setup = _setup(net, net, train, val, Budget(loss_increase=0.0), "bytes", (None, None), replace(LONG, epochs=400), 0, inf)
    monkeypatch.setattr(prices, "_by_price", lambda *_: [])
    for factor in (1.0, -1.0, 1.1):  # nothing trained; the wrong way round; surer of what is mostly right

        def trained(setup, model, how, seed, watch, factor=factor):
            assert how.epochs == prices.SHARING
            last = list(find_layers(model).values())[-1].module
            with torch.no_grad():
                for values in free_parameters(last, "weight"):
                    values.mul_(factor)
            watch(1.0)

        monkeypatch.setattr(prices, "train_round", trained)
        found[factor] = prices.fewer_values(setup, net, inf, seed=0).evaluation.loss
    assert found[-1.0] == found[1.0] > found[1.1]


@pytest.mark.parametrize(("cost", "usual"), [(50, 80), (90, 90), (80, 80)], ids=["coarse", "fine", "just as coarse"])
def test_coarse_values_of_many_weights_do_not_set_how_many_weights_the_next_has(cost, usual):
    def trial(cost, method, others=()):
        return Trial(nn.Linear(1, 1), nn.Linear(1, 1), {"0": method}, Evaluation(0.0, 1.0, 1, torch.zeros(1)), cost, others)

    others = trial(100, Codebook(16)), trial(70, Codebook(8)), trial(200, RateQuantize())
    assert prices.usual_cost(trial(cost, RateQuantize(), others)) == usual
    assert prices.usual_cost(trial(cost, RateQuantize())) == cost  # nothing shared was measured
