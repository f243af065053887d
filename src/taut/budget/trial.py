"""One candidate, from plan to measurement: coded, recovered, finished, and measured as it would ship."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from taut.budget.budget import Budget
from taut.budget.finish import finish_by
from taut.budget.loss_model import LossModel
from taut.budget.recover import Penalty, Project, Recovery, Watch, recover
from taut.budget.silence import silence
from taut.compressors.base import Code, Compressor
from taut.layers import Alias, codes, evaluating, find_layers, put
from taut.measure import BATCH_NORMS, Evaluation, evaluate, reestimate_batchnorm
from taut.objective import Objective
from taut.reparametrize import refuses

Plan = Mapping[str, Compressor]
Cost = Callable[[nn.Module], float]


@dataclass(frozen=True)
class Setup:
    """What every trial of a search shares; none of it changes during the search."""

    original: nn.Module
    train: Iterable | None
    val: Iterable
    objective: Objective
    budget: Budget
    baseline: Evaluation
    cost: Cost
    recovery: Recovery | None
    seed: int
    deadline: float
    margin: float = 1.0
    max_steps: int | None = None

    def goes_on(self, step: int) -> bool:
        """Whether there is time, and a step left, for another trial."""
        return time.monotonic() < self.deadline and (self.max_steps is None or step < self.max_steps)


@dataclass(frozen=True)
class Trial:
    """A measured candidate. ``dense`` holds the weights that the next step starts from, ``shipped`` is the coded network.

    ``others``: what was measured beside it, of the same training, which this budget does not choose and another one may.
    """

    dense: nn.Module
    shipped: nn.Module
    plan: Plan
    evaluation: Evaluation
    cost: float
    others: tuple[Trial, ...] = ()


def rank(setup: Setup, trial: Trial) -> tuple[bool, float, float]:
    """What is better among candidates: the smallest file that is in budget, else the one nearest to it."""
    found, budget = trial.evaluation, setup.budget
    if budget.holds(setup.baseline, found):
        return True, -trial.cost, -found.loss
    metric = 0.0 if budget.metric_drop is None else found.metric if budget.maximize else -found.metric
    return False, metric, -found.loss


def nearly(setup: Setup, trial: Trial) -> bool:
    """Whether no measurement tells a candidate from one within the budget: two paired standard errors on validation data."""
    found, base = trial.evaluation, setup.baseline
    wider = setup.budget.wider(2 * found.paired_metric_error(base), 2 * found.paired_error(base))
    return wider.holds(base, found)


def densify(model: nn.Module, skeleton: nn.Module) -> nn.Module:
    """A copy of ``skeleton``, the network with plain layers, that holds the decoded weights of ``model``."""
    plain = copy.deepcopy(skeleton)
    state = {n: v.decompress() if isinstance(v, Code) else v for n, v in codes(model).items() if not isinstance(v, Alias)}
    plain.load_state_dict(state, strict=False)
    return plain


def put_all(dense: nn.Module, plan: Plan, model: LossModel | None) -> nn.Module:
    """A copy of a dense network with every layer of the plan put into its set."""
    new = copy.deepcopy(dense)
    for name, layer in find_layers(new).items():
        if name in plan:
            stats = model.stats(name) if model is not None else None
            put(new, layer, plan[name].compress(layer.weight.detach(), stats))
    return new


def own_layers(model: nn.Module) -> list[str]:
    """The layers that can be trained into a set: their weight is plain, and theirs alone. The search takes up others."""
    return [name for name, layer in find_layers(model).items() if refuses(layer) is None]


def round_seed(setup: Setup, step: int, part: int) -> int:
    """The seed of one attempt or one move of a step: no two of a search share one."""
    return 100_000 * setup.seed + 100 * step + part


def run_trial(setup: Setup, dense: nn.Module, plan: Plan, model: LossModel | None, step: int) -> Trial:
    """Put the plan on ``dense``, recover, finish, and measure; a second round of recovery if the first is out of budget."""
    relaxed = _relax(dense, plan, model)
    rounds = 1 if setup.recovery is None else 2
    for attempt in range(rounds):
        seed = round_seed(setup, step, attempt)
        trained = copy.deepcopy(relaxed)
        if setup.recovery is not None:
            train_round(setup, trained, setup.recovery, seed)
        present = densify(trained, dense)
        trial = measured(setup, present, ship(setup, present, plan, model, seed), plan)
        if setup.budget.holds(setup.baseline, trial.evaluation):
            break
        relaxed = trained
    return trial


def measured(setup: Setup, present: nn.Module, coded: nn.Module, plan: Plan) -> Trial:
    """The coded network as it would ship; where nothing was trained, with the averages of its batch norms as training left them
    or with new ones, whichever is better.
    """
    ways = (True,) if setup.recovery is not None or not _averages(coded) else (True, False)
    shipped = [settle(setup, copy.deepcopy(coded), anew) for anew in ways]
    found = [Trial(present, m, plan, evaluate(m, setup.val, setup.objective), setup.cost(m)) for m in shipped]
    return max(found, key=lambda trial: rank(setup, trial))


def walk(setup: Setup, dense: nn.Module, plan: Plan, model: LossModel, seed: int) -> nn.Module:
    """A small move on the way to a candidate: the plan's relaxed sets, a little training at a steady rate, no measurement."""
    assert setup.recovery is not None
    relaxed = _relax(dense, plan, model)
    train_round(setup, relaxed, replace(setup.recovery, epochs=max(1, setup.recovery.epochs // 6), steady=True), seed)
    return densify(relaxed, dense)


def _relax(dense: nn.Module, plan: Plan, model: LossModel | None) -> nn.Module:
    return put_all(dense, {name: r for name, method in plan.items() if (r := method.relaxed()) is not None}, model)


def ship(setup: Setup, present: nn.Module, plan: Plan, model: LossModel | None, seed: int) -> nn.Module:
    """The coded network: every weight in its set, its free values trained a little."""
    shipped = put_all(present, plan, model)
    tightened = any(method.relaxed() != method for method in plan.values())
    if setup.recovery is not None and tightened:
        train_round(
            setup, shipped, replace(setup.recovery, epochs=max(1, setup.recovery.epochs // 4), lr=setup.recovery.lr / 3), seed
        )
    return shipped


def _averages(model: nn.Module) -> bool:
    """Whether there are averages of batch norms."""
    return any(isinstance(m, BATCH_NORMS) and m.track_running_stats for m in model.modules())


def settle(setup: Setup, coded: nn.Module, anew: bool = True) -> nn.Module:
    """A coded network as it ships: batch norms re-estimated, if ``anew``, vectors on as few bits as the losses of some examples
    allow, and without entries that do nothing.
    """
    if setup.train is not None and anew:
        reestimate_batchnorm(coded, setup.train)
    coded = silence(coded, setup.val if setup.train is None else setup.train, setup.objective)
    batch = next(iter(setup.val))

    def losses(model: nn.Module) -> Tensor:
        with evaluating(model), torch.no_grad():
            return setup.objective.score(model, batch).losses.cpu()

    return finish_by(coded, losses).eval()


def train_round(
    setup: Setup, model: nn.Module, how: Recovery, seed: int, penalty: Penalty | None = None, watch: Watch | None = None,
    project: Project | None = None,
) -> None:  # fmt: skip
    """One round of recovery of ``model``, in place."""
    assert setup.train is not None
    recover(
        model, setup.original, setup.train, setup.objective, how, seed=seed, deadline=setup.deadline, penalty=penalty,
        watch=watch, project=project,
    )  # fmt: skip
