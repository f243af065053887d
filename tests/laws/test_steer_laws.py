"""Steering onto compressible weights: the step's problem, the bound, and where it arrives."""

import pytest
import torch
from laws.steer_laws import PLANS, check_bound, check_metric_bound, check_subproblem, check_toy, network, task, trained
from torch import nn

from taut.budget import Budget, Recovery
from taut.budget.steer import steer
from taut.budget.steering import Steering
from taut.budget.subproblem import solve
from taut.compressors import Codebook, LowRank
from taut.errors import LayerError, TautError
from taut.layers import codes


@pytest.mark.parametrize("room", [-100.0, -0.5, -0.01, 0.0, 1e-4, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("flat", [False, True], ids=["curved", "flat"])
def test_no_generic_solver_does_better(room, flat):
    for seed in range(8):
        check_subproblem(solve, seed, room, flat)


@pytest.mark.parametrize("block", range(8))
def test_the_kept_points_never_leave_the_bound(block):
    for seed in range(25 * block, 25 * block + 25):
        check_bound(steer, seed, increase=(0.0, 0.02, 0.3)[seed % 3])


@pytest.mark.parametrize("block", range(4))
def test_a_bound_on_the_metric_is_held(block):
    for seed in range(25 * block, 25 * block + 25):
        check_metric_bound(steer, seed, drop=(0.0, 0.02, 0.1)[seed % 3])


def test_a_loss_that_rises_while_the_metric_holds_does_not_end_it():
    net, data = given()
    how = Steering(train=Recovery(epochs=1, lr=1e-3), finish=Recovery(epochs=4, lr=5e-3))
    found = steer(net, {"*": Codebook(k=3)}, data, data, Budget(metric_drop=0.3), how=how)
    assert found.reached
    assert max(step.loss for step in found.steps if step.kept) > 1.5 * found.baseline.loss


@pytest.mark.parametrize("seed", range(6))
def test_the_optimum_of_a_toy_is_reached(seed):
    check_toy(steer, seed)


def given(seed: int = 0) -> tuple[nn.Module, list]:
    return trained(seed), task(seed, 8)


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("model", ["curvature", "linear", "both"])
def test_all_kinds_of_sets_are_reached_with_room(plan, model):
    net, data = given()
    how = Steering(model=model, train=Recovery(epochs=2, lr=5e-3), finish=Recovery(epochs=4, lr=5e-3))
    found = steer(net, plan, data, data, Budget(loss_increase=0.5), how=how)
    assert found.reached and found.steps[-1].coded and found.steps[-1].distance == 0.0
    assert {n.removesuffix(".weight") for n, value in codes(found.model).items() if not isinstance(value, torch.Tensor)} == {
        n for n in ("0", "2") if n in plan or "*" in plan
    }
    distances = [step.distance for step in found.steps if step.kept]
    assert distances == sorted(distances, reverse=True)


def test_a_set_out_of_reach_leaves_the_nearest_network_within_the_budget():
    net, data = given()
    how = Steering(steps=6, train=Recovery(epochs=1, lr=1e-3), finish=None)
    found = steer(net, {"*": Codebook(k=1, keep_zero=False)}, data, data, Budget(loss_increase=0.01), how=how)
    assert not found.reached and found.evaluation.loss <= found.baseline.loss + 0.01
    assert not any(hasattr(m, "parametrizations") for m in found.model.modules())


def test_same_seed_same_steps_and_inputs_alone():
    net, data = given()
    data = [x for x, _ in data]
    runs = [steer(net, PLANS[0], data, data, Budget(metric_drop=0.1), how=Steering(steps=3), seed=5) for _ in range(2)]
    assert runs[0].steps == runs[1].steps
    assert runs[0].baseline.metric == 1.0


def test_the_time_limit_keeps_what_was_kept():
    net, data = given()
    found = steer(net, PLANS[0], data, data, time_limit=1e-9)
    assert found.steps == () and not found.reached and found.evaluation is found.baseline


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Steering(model="cubic"), "curvature, linear, both"),
        (lambda: Steering(radius=0.0), "above 0"),
        (lambda: steer(network(0), {}, task(0), task(0)), "names no layer"),
        (lambda: steer(network(0), {"2": LowRank(rank=3)}, task(0), task(0)), "2: LowRank.*cannot be used"),
        (lambda: steer(network(0), {"*": Codebook()}, [], task(0)), "training data is empty"),
    ],
)
def test_errors(make, words):
    with pytest.raises((TautError, LayerError), match=words):
        make()
