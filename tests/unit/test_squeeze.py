"""Entropy-penalised training inside the search."""

from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from laws.budget_laws import check_aim, network
from laws.compress_laws import blobs
from torch import nn

from taut.budget import Budget, Gradual, Recovery, compress, grids, squeeze
from taut.budget import looks as looks_at
from taut.budget.grids import setting
from taut.budget.rate import RateControl
from taut.budget.search import Progress
from taut.budget.trial import Trial, rank
from taut.compressors import Chain, Codebook, Prune
from taut.compressors.coded import free_parameters
from taut.errors import TautError
from taut.layers import find_layers
from taut.measure import Evaluation
from taut.parametrizations import Entropy

FAST = Recovery(epochs=6, lr=0.05, first=0.2)


@pytest.mark.parametrize("target", [500.0, 700.0])
@pytest.mark.parametrize("seed", range(2))
def test_the_file_comes_out_near_the_size_aimed_at(target, seed):
    check_aim(RateControl, target, seed)


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(3, 4),
        torch.ones(2, 2),
        torch.tensor([[0.0, -2.0, 1.0], [0.0, 0.0, 3.0]]),
        torch.eye(7) - 0.5 * torch.eye(7).flip(0),
    ],
    ids=["zeros", "ones", "grid", "two values"],
)
def test_a_grid_is_stored_exactly(weight):
    assert torch.equal(setting(weight).compress(weight).decompress(), weight)


@pytest.mark.parametrize(
    ("settings", "fix"),
    [({"minimize": "params"}, "minimize='bytes'"), ({"train": None}, "train="), ({"recover": False}, "recover=")],
)
@pytest.mark.parametrize("method", [Entropy(), Gradual()], ids=str)
def test_training_towards_a_size_needs_data_and_bytes(method, settings, fix):
    train, val = blobs(0), blobs(0)[:2]
    with pytest.raises(TautError, match=fix):
        compress(network(0, train), **{"train": train, "val": val, "methods": [method], **settings})


def test_one_way_of_training_towards_a_size_at_a_time():
    train, val = blobs(0), blobs(0)[:2]
    with pytest.raises(TautError, match="give one of them"):
        compress(network(0, train), train, val, methods=[Entropy(), Gradual()])


class Tied(nn.Module):
    """Two layers that share a weight, and one of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.out = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.out(self.second(self.first(x).relu()).relu())


@pytest.mark.parametrize(("method", "first_coded"), [(Entropy(), False), (Gradual(), True)], ids=str)
def test_a_shared_weight_is_not_trained_into_a_set_but_coded_in_the_end(method, first_coded):
    train, val = blobs(0), blobs(0)[:2]
    chain = Chain(Prune(by="fisher"), Codebook(k=8, keep_zero=False))
    net = Tied()
    result = compress(net, train, val, Budget(loss_increase=0.5), methods=[method, chain], recover=FAST, max_steps=16)
    plans = [point.plan for point in result.curve.kept if point.step]
    assert ("first" in plans[0]) == first_coded and "out" in plans[0]
    assert any("first" in plan for plan in plans)
    assert result.model.first.weight is not None and torch.equal(result.model.first.weight, result.model.second.weight)


@pytest.mark.parametrize("method", [Entropy(), Gradual()], ids=str)
def test_frozen_weights_stay_frozen(method):
    train, val = blobs(0), blobs(0)[:2]
    net = network(0, train)
    net[0].weight.requires_grad_(False)
    result = compress(net, train, val, Budget(loss_increase=0.5), methods=[method], recover=FAST, max_steps=3)
    assert len(result.curve) > 1
    for name, layer in find_layers(result.model).items():
        trained_on = free_parameters(layer.module, layer.parameter)
        assert trained_on and all(p.requires_grad == (name != "0") for p in trained_on), name


def evaluation(metric, loss):
    return Evaluation(loss, metric, 4, torch.full((4,), loss))


def trial(metric, loss, cost):
    return Trial(nn.Identity(), nn.Identity(), {}, evaluation(metric, loss), cost)


@pytest.mark.parametrize(
    ("budget", "ends", "best"),
    [
        (Budget(metric_drop=0.0), [(0.95, 0.2, 100), (0.94, 0.1, 50), (0.96, 0.3, 90)], 2),  # the smallest of those within
        (Budget(metric_drop=0.0), [(0.93, 0.1, 50), (0.94, 0.3, 60), (0.94, 0.2, 70)], 2),  # else the nearest, by metric and loss
        (Budget(metric_drop=0.0, maximize=False), [(0.97, 0.1, 50), (0.96, 0.3, 60)], 1),
        (Budget(loss_increase=0.0), [(0.99, 0.3, 50), (0.90, 0.25, 60)], 1),
    ],
)
def test_of_a_trainings_ends_the_best_within_the_budget_stands(budget, ends, best):
    setup = SimpleNamespace(budget=budget, baseline=evaluation(0.95, 0.2))
    trials = [trial(*end) for end in ends]
    assert max(trials, key=lambda t: rank(setup, t)) is trials[best]


def test_the_last_epochs_are_looked_at_and_looking_changes_nothing(monkeypatch):
    train, val = blobs(0), blobs(0)[:2]
    found = []
    for looks in (0, looks_at.LOOKS):
        monkeypatch.setattr(looks_at, "LOOK", 0.6 if looks else 2.0)
        seen = []
        measured = grids._measured

        def counted(setup, training, seen=seen, measured=measured):
            seen.append(measured(setup, training))
            return seen[-1]

        monkeypatch.setattr(grids, "_measured", counted)
        how = Recovery(epochs=10, lr=0.05, first=0.2)
        compress(network(0, train), train, val, Budget(metric_drop=0.0), methods=[Entropy()], recover=how, max_steps=1)
        monkeypatch.setattr(grids, "_measured", measured)
        found.append(seen)
    assert [len(seen) for seen in found] == [1, 5]  # the end; epochs 6 to 10 of 10
    last = [seen[-1] for seen in found]
    assert last[0].cost == last[1].cost and last[0].evaluation.loss == last[1].evaluation.loss


def test_after_failures_the_sizes_grow_faster_and_faster():
    setup = SimpleNamespace(recovery=FAST)
    kept, sizes, failed = trial(1, 0, 1000), [], 100.0
    for misses in (1, 2, 3, 4):
        progress = Progress(kept, too_small=failed, misses=misses, start=nn.Identity())
        sizes.append(squeeze._target(setup, progress, 1000.0, 0.6) / failed)
    assert sizes == pytest.approx([1.1, 1.1**2, 1.1**3, 1.1**4])
    assert squeeze._target(setup, Progress(kept, too_small=failed, misses=2), 1000.0, 0.6) == pytest.approx(225.0)


HITS = torch.arange(1000) >= 20


def noisy(wrong, cost, differ=10):
    """A candidate of 1,000 samples of which so many are wrong, some of them where the network before (20 wrong) was right."""
    hits = HITS.clone()
    hits[:differ] = True
    hits[500 : 500 + wrong - 20 + differ] = False
    evaluated = Evaluation(0.1, float(hits.double().mean()), 1000, torch.full((1000,), 0.1), hits)
    return Trial(nn.Linear(1, 1), nn.Identity(), {"0": Prune(density=0.5)}, evaluated, cost)


def check_trained_on(squeeze_by, script):
    """``script``: what each training comes to, and which one the next goes on from at its size, if any."""
    before = Evaluation(0.1, 0.98, 1000, torch.full((1000,), 0.1), HITS)
    trials, seen = [noisy(*ends) for ends, _ in script], []

    def attempt(setup, how, dense, target, step, price):
        seen.append((dense, target))
        return trials[step - 1], 1.0

    kept = Trial(nn.Linear(1, 1), nn.Identity(), {}, before, 1000.0)
    setup = SimpleNamespace(
        recovery=FAST, budget=Budget(metric_drop=0.0), baseline=before, original=None, cost=lambda _: 1000.0,
        goes_on=lambda step: step < len(script),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(squeeze.WAYS, Gradual, squeeze.Way(attempt, False, 0.7))
        patch.setattr(squeeze, "own_layers", lambda model: ["0"])
        progress = squeeze_by(setup, Gradual(), Progress(kept), lambda step, progress: None)
    for (_, aimed_at), (start, target), (_, source) in zip(seen[:-1], seen[1:], script[:-1], strict=True):
        others = [other.dense for other in trials if other.dense is not progress.kept.dense]
        assert start is trials[source].dense if source is not None else all(start is not dense for dense in others)
        assert (target == aimed_at) == (source is not None)


NOISE, NOISIER, WORSE, GOOD = 22, 23, 60, 20
TURN = count()
SCRIPTS = [
    # within two standard errors (4.5 of 1,000 each): trained on, three times, then a larger one from the network before
    [((NOISIER, 100), 0), ((NOISE, 101), 1), ((NOISIER, 102), 1), ((NOISIER, 102), None), ((NOISE, 160), 4)],
    [((WORSE, 100), None), ((WORSE, 150), None)],
    # good at the second attempt: smaller ones are next, and of these too what is near is trained on, from the best
    [((NOISE, 100), 0), ((GOOD, 99), None), ((NOISE, 70), 2), ((WORSE, 71), 2), ((NOISIER, 71), 2), ((WORSE, 72), None)],
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_size_that_failed_within_the_noise_is_trained_on(script):
    check_trained_on(squeeze.squeeze, script)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("nearly", lambda setup, trial: False),
        ("nearly", lambda setup, trial: True),
        ("rank", lambda setup, trial: (True, 1.0, next(TURN))),
    ],
    ids=["never", "always", "from the last"],
)
def test_the_law_can_fail(name, broken, monkeypatch):
    monkeypatch.setattr(squeeze, name, broken)
    with pytest.raises(AssertionError):
        for script in SCRIPTS:
            check_trained_on(squeeze.squeeze, script)


def test_training_on_comes_to_an_end(monkeypatch):
    monkeypatch.setattr(squeeze, "AGAIN", 100)
    with pytest.raises(AssertionError):
        check_trained_on(squeeze.squeeze, SCRIPTS[0])


@pytest.mark.parametrize(
    ("wrong", "others", "kept", "too_small", "again"),
    [
        (WORSE, [(GOOD, 150), (GOOD, 170)], 150, 100, 0),
        (WORSE, [(GOOD, 1200), (NOISE, 150)], 1000, 100, 0),  # none that is smaller than what there is and in budget
        (WORSE, [], 1000, 100, 0),
        (NOISE, [(GOOD, 105), (GOOD, 170)], 105, 0, 1),  # trained on all the same, though the two are close
        (NOISE, [], 1000, 0, 1),
    ],
    ids=["two are in budget", "one is too large", "none", "one is in budget beside noise", "noise"],
)
def test_of_a_training_that_failed_at_its_size_a_larger_file_in_budget_is_kept(wrong, others, kept, too_small, again):
    before = Evaluation(0.1, 0.98, 1000, torch.full((1000,), 0.1), HITS)
    progress = Progress(Trial(nn.Linear(1, 1), nn.Identity(), {}, before, 1000.0), price=1.0)
    setup = SimpleNamespace(budget=Budget(metric_drop=0.0), baseline=before)
    failed = noisy(wrong, 100)
    failed = replace(failed, others=tuple(noisy(*one) for one in others))
    seen = []
    squeeze._try(setup, progress, failed, 100.0, False, lambda step, progress: seen.append(step))
    assert (progress.kept.cost, progress.too_small, progress.kept.others) == (kept, too_small, ())
    assert (progress.again, progress.squeezed, progress.start is failed.dense) == (again, False, again == 1)
    assert seen[0].kept == (kept < 1000) and sorted(
        one.cost for one in (seen[0].trial, *seen[0].trial.others)
    ) == sorted([100, *(cost for _, cost in others)])  # all of them are told


def test_a_size_that_holds_tells_that_a_larger_one_failed_by_chance():
    before = Evaluation(0.1, 0.98, 1000, torch.full((1000,), 0.1), HITS)
    progress = Progress(Trial(nn.Linear(1, 1), nn.Identity(), {}, before, 1000.0), too_small=100.0)
    setup = SimpleNamespace(recovery=FAST, budget=Budget(metric_drop=0.0), baseline=before)
    squeeze._try(setup, progress, noisy(GOOD, 98), 99.0, False, lambda step, progress: None)
    assert not progress.squeezed and squeeze._target(setup, progress, 1000.0, 0.7) == pytest.approx(0.7 * 98)
