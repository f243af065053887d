"""The learning-compression algorithm: the schedule against a hand-written one, and what it converges to."""

import copy

import pytest
import torch
from torch import nn

import taut
from taut.compressors import Codebook, LowRank
from taut.errors import TautError
from taut.learning_compression import settle
from taut.regularizers import L1, Distance
from taut.regularizers.learned_rank import LearnedRank
from taut.train import ProxOptimizer

AIM = torch.randn(6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.0, 0.4, 0.1])


def quadratic(regularizer, steps, lr=0.2, every=1):
    """Gradient steps on ``||w - AIM||^2 / 2``."""
    model = nn.Sequential(nn.Linear(5, 6, bias=False).double())
    nn.init.zeros_(model[0].weight)
    model[0].weight.data += AIM
    optimizer = ProxOptimizer(torch.optim.SGD(model.parameters(), lr=lr), model, {"0": regularizer}, every=every)
    go_on(model, optimizer, steps)
    return model, optimizer


def go_on(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        (model[0].weight - AIM).square().sum().div(2).backward()
        optimizer.step()


@pytest.mark.parametrize("multipliers", [False, True])
def test_the_schedule_is_the_papers(multipliers):
    regularizer = Distance(LowRank(rank=2), strength=0.5, growth=1.3, period=4, multipliers=multipliers)
    model, optimizer = quadratic(regularizer, 12)
    w, lr, mu = AIM.clone(), 0.2, 0.5
    c, b = LowRank(rank=2).compress(w).decompress(), torch.zeros_like(w)
    for _ in range(3):
        for _ in range(4):  # the L step: gradient steps, each with the proximal step of mu/2 ||w - c - b/mu||^2
            w = w - lr * (w - AIM)
            w = (w + lr * mu * (c + b / mu)) / (1 + lr * mu)
        c = LowRank(rank=2).compress(w - b / mu).decompress()
        if multipliers:
            b = b - mu * (w - c)
        mu *= 1.3
    assert torch.allclose(model[0].weight, w)
    memory = optimizer.memory["0"]
    assert memory["tightening"] == pytest.approx(1.3**3) and torch.allclose(memory["target"], c)


@pytest.mark.parametrize("multipliers", [False, True])
@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.4])
def test_learned_ranks_are_those_of_the_problem_solved_by_enumeration(alpha, multipliers):
    """``min_w ||w - AIM||^2 / 2 + alpha cost(rank w)``: every rank is tried."""
    costs, points = [], []
    for r in range(1, 6):
        code = LowRank(rank=r).compress(AIM)
        points.append(code.decompress())
        costs.append(0.5 * float((points[-1] - AIM).square().sum()) + alpha * code.cost().parameters)
    best = costs.index(min(costs))
    priced = LearnedRank(alpha, 1.0, growth=1.2, period=20, multipliers=multipliers)
    model, optimizer = quadratic(priced, 800)
    plan = settle(optimizer)
    assert plan == ({"0": LowRank(rank=best + 1)} if best + 1 < 5 else {}), "at full rank the dense matrix pays best"
    assert torch.allclose(model[0].weight, points[best], atol=2e-2)
    assert torch.allclose(taut.apply(model, plan)(AIM), model(AIM), atol=0.2)


def test_multipliers_meet_the_constraint_at_a_strength_that_alone_does_not():
    apart = {}
    for multipliers in (False, True):
        model, _ = quadratic(Distance(LowRank(rank=2), 1.0, period=10, multipliers=multipliers), 600)
        apart[multipliers] = Distance(LowRank(rank=2), 2.0).value(model[0].weight).item()
    assert apart[True] < 1e-9 < 1e-2 < apart[False]


def test_any_compressor_is_reached_and_named():
    regularizer = Distance(Codebook(k=3), 0.1, growth=1.5, period=10)
    model, optimizer = quadratic(regularizer, 300)
    assert Distance(Codebook(k=3), 2.0).value(model[0].weight).item() < 1e-5
    assert settle(optimizer) == {"0": Codebook(k=3)}
    _, other = quadratic(L1(0.1), 1)
    assert settle(other) == {}


def test_it_resumes_bit_for_bit():
    priced = LearnedRank(0.05, 0.3, growth=1.2, period=3, multipliers=True)
    model, optimizer = quadratic(priced, 7, every=2)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    go_on(model, optimizer, 9)
    again, resumed = quadratic(priced, 0, every=2)
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    go_on(again, resumed, 9)
    assert torch.equal(again[0].weight, model[0].weight)


def test_half_precision_weights_are_pulled_from_a_target_in_full():
    w = AIM.to(torch.bfloat16)
    memory = {}
    regularizer = Distance(LowRank(rank=1), 0.5, growth=1.1, period=2, multipliers=True)
    for _ in range(5):
        w = regularizer.warm_prox(w, 0.1, memory)
    assert w.dtype == torch.bfloat16 and memory["target"].dtype == torch.float32 and memory["calls"] == 5
    same = regularizer.warm_prox(w, 0.0, memory)
    assert torch.equal(same, w) and memory["calls"] == 5, "a step of zero is none"


def test_errors():
    with pytest.raises(TautError, match="growth is the factor"):
        Distance(LowRank(rank=2), growth=0.5, period=3)
    with pytest.raises(TautError, match="set period"):
        LearnedRank(growth=1.1)
    with pytest.raises(TautError, match="integer"):
        LearnedRank(period=1.5)
    assert str(LearnedRank(1.0, 2.0)) == "LearnedRank(alpha=1.0, strength=2.0, view=matrix)"
    assert "growth=1.1, period=9" in str(LearnedRank(growth=1.1, period=9))
