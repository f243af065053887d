"""Other budgets of one search."""

import pytest
import torch
from laws.budget_laws import network
from laws.compress_laws import blobs
from laws.front_laws import candidates, check_chosen, check_unbeaten

from taut.budget import Budget, compress
from taut.budget.front import Front, unbeaten
from taut.compressors import Quantize
from taut.curve import Curve
from taut.errors import BudgetError, FormatError


@pytest.mark.parametrize("seed", range(40))
def test_what_a_look_at_every_candidate_would_choose(seed, tmp_path):
    check_chosen(Front, seed, tmp_path)


class Latest(Front):
    """A front that forgets what the newest candidate does not need."""

    def add(self, step, trial):
        super().add(step, trial)
        for other in range(1, step):
            self.file(other).unlink(missing_ok=True)


class Greedy(Front):
    """A front that looks at the metric and the cost alone."""

    def add(self, step, trial):
        trial.evaluation.loss = 0.0
        super().add(step, trial)


@pytest.mark.parametrize("fault", [Latest, Greedy])
def test_planted_faults_are_caught(fault, tmp_path):
    with pytest.raises((AssertionError, FormatError)):
        for seed in range(40):
            check_chosen(fault, seed, tmp_path / str(seed))


@pytest.mark.parametrize("seed", range(40))
def test_of_one_trainings_networks_those_that_some_budget_would_choose(seed):
    check_unbeaten(unbeaten, seed)


def small_only(trials, than, maximize):
    """Forgets what is larger than the chosen one, and better."""
    return [trial for trial in unbeaten(trials, than, maximize) if trial.cost <= than.cost]


@pytest.mark.parametrize(
    "fault", [lambda trials, *_: trials, lambda *_: [], lambda trials, than, _: unbeaten(trials, than, False), small_only],
    ids=["all of them", "none", "the metric turned round", "small ones"],
)  # fmt: skip
def test_planted_faults_in_what_stands_beside_are_caught(fault):
    with pytest.raises(AssertionError):
        for seed in range(40):
            check_unbeaten(fault, seed)


def test_a_metric_where_less_is_better(tmp_path):
    points, trials = candidates(3)
    front = Front(tmp_path, maximize=False)
    for step, trial in enumerate(trials):
        front.add(step, trial)
    budget = Budget(metric_drop=0.2, maximize=False)
    fits = [t.cost for t in trials if t.evaluation.metric - trials[0].evaluation.metric <= 0.2 + 1e-9]
    assert front.within(Curve(points), budget).best.bytes == min(fits)


@pytest.mark.parametrize("workdir", [False, True], ids=["nowhere", "workdir"])
def test_one_search_answers_for_several_budgets(workdir, tmp_path):
    train, val = blobs(0), blobs(0)[:2]
    net = network(0, train)
    settings = {"methods": [Quantize()], "recover": False, "workdir": tmp_path / "w" if workdir else None}
    result = compress(net, train, val, Budget(loss_increase=1.0), **settings)
    x, before = val[0][0], result.model(val[0][0])
    for allowed in (1.0, 0.3, 0.05, 0.0):
        found = result.within(Budget(loss_increase=allowed))
        assert found.best.loss <= result.baseline.loss + allowed + 1e-12
        assert all(p.bytes >= found.best.bytes for p in result.curve if p.loss <= result.baseline.loss + allowed)
        with torch.no_grad():
            assert allowed < 1 or torch.equal(found.model(x), before)
        assert found.complete == (allowed == 1.0 and result.complete)
    assert torch.equal(result.model(x), before)
    with pytest.raises(BudgetError, match="maximize=True"):
        result.within(Budget(metric_drop=0.0, maximize=False))
