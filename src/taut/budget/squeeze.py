"""The entropy-penalised stage of the search: all layers trained onto grids at once, towards a size, while the budget holds."""

from __future__ import annotations

import copy
import logging
import math

from torch import Tensor, nn

from taut.budget.finish import USUAL, finish
from taut.budget.rate import FIRST_PRICE, RateControl
from taut.budget.recover import OutOfTime
from taut.budget.search import STEP_FLOOR, Observer, Progress, Step
from taut.budget.trial import Plan, Setup, Trial, put_all, round_seed, settle, train_round
from taut.compressors import Chain, Codebook, Prune, Quantize
from taut.compressors.base import Compressor
from taut.layers import bake, find_layers
from taut.measure import evaluate
from taut.parametrizations import Entropy
from taut.reparametrize import Wrapped, refuses, wrap

log = logging.getLogger(__name__)

LARGEST = 0.5
"""Sizes above this fraction of the dense file's are left to the search layer by layer, whose grids are finer."""
CLOSE = 0.93
"""Between a kept size and one that failed, as a fraction: closer ones are not told apart by their metric."""
NEAR, FAR = 1.1, 1.5
"""While nothing is kept, the next size aimed at, as a multiple of the failed one: where its loss was within the noise, or not.
After n failures, the n-th power of it: a search of few steps still comes to a size that holds."""
LOOK, LOOKS = 0.6, 12
"""From this part of a training on, when the size is about right, up to so many epochs' ends are measured as they would ship."""


def squeeze(setup: Setup, how: Entropy, progress: Progress, observe: Observer) -> Progress:
    """Train towards smaller and smaller files until one is out of budget, and then between the last kept and the smallest failed.

    The first size aimed at is ``Recovery.first`` of the dense file's, a later one ``STEP_FLOOR`` of the last kept. A training
    starts from the last one's weights if their validation loss is not clearly above that of the kept ones (two paired standard
    errors), so that trainings add up; else from the kept ones. Ends when a failed size is within ``CLOSE`` of the kept one, or
    with the time or the steps.
    """
    whole = setup.cost(setup.original)
    try:
        while not progress.squeezed and setup.goes_on(progress.step):
            target = _target(setup, progress, whole)
            if not _names(progress.kept.dense) or target >= LARGEST * whole:
                progress.squeezed = True
                break
            progress.step += 1
            start = progress.start or progress.kept.dense
            trial, progress.price = attempt(setup, how, start, target, progress.step, progress.price)
            _try(setup, progress, trial, observe)
    except OutOfTime:
        log.info("the time limit came while the entropy was trained down; what was kept before stands")
    return progress


def _try(setup: Setup, progress: Progress, trial: Trial, observe: Observer) -> None:
    before = progress.kept
    measured, error = trial.evaluation.loss - before.evaluation.loss, trial.evaluation.paired_error(before.evaluation)
    good = setup.budget.holds(setup.baseline, trial.evaluation) and trial.cost < before.cost
    if good:
        progress.kept, progress.start, progress.misses = trial, None, 0
    else:
        progress.misses += 1
        progress.too_small = max(progress.too_small, trial.cost)
        progress.start = trial.dense if measured < 2 * error else None
    progress.squeezed = bool(progress.kept.plan) and progress.too_small >= CLOSE * progress.kept.cost
    observe(Step(progress.step, trial, 0.0, measured, error, 0.0, good), progress)


def _target(setup: Setup, progress: Progress, whole: float) -> float:
    """The size in bytes to aim at next, for a dense file of ``whole`` bytes."""
    assert setup.recovery is not None
    kept, failed = progress.kept, progress.too_small
    if not kept.plan:
        return (NEAR if progress.start else FAR) ** progress.misses * failed or setup.recovery.first * whole
    return max(STEP_FLOOR * kept.cost, math.sqrt(kept.cost * failed))


def _names(model: nn.Module) -> list[str]:
    """The layers that are trained onto grids. A weight that several layers share has none: the search by layers takes it up."""
    return [name for name, layer in find_layers(model).items() if refuses(layer) is None]


def attempt(
    setup: Setup, how: Entropy, dense: nn.Module, target: float, step: int, price: float = FIRST_PRICE,
    control: type[RateControl] = RateControl,
) -> tuple[Trial, float]:  # fmt: skip
    """One training from ``dense`` towards a file of ``target`` bytes, measured as it would ship; and the last price of a bit.

    Where the learning rate falls to zero the network changes little, but its metric still goes up and down by a few samples:
    of the ends of the last epochs the best is taken, as early stopping does.
    """
    assert setup.recovery is not None
    model = copy.deepcopy(dense)
    training = wrap(model, dict.fromkeys(_names(model), how))
    penalty = control(training, target, lambda: setup.cost(_stored(training)), price)
    ends: list[Trial] = []
    apart = max((1 - LOOK) / LOOKS, 1 / max(1, setup.recovery.epochs))

    def watch(done: float) -> None:
        if done > 1 - 1e-9 or done >= LOOK + len(ends) * apart:
            ends.append(_measured(setup, training))

    train_round(setup, model, setup.recovery, round_seed(setup, step, 0), penalty, watch)
    return max(ends or [_measured(setup, training)], key=lambda trial: _rank(setup, trial)), penalty.price


def _measured(setup: Setup, training: Wrapped) -> Trial:
    """A network in training as it would ship now; what is trained stays as it is."""
    present, plan = _ended(copy.deepcopy(training))
    shipped = settle(setup, put_all(present, plan, None))
    return Trial(present, shipped, plan, evaluate(shipped, setup.val, setup.objective), setup.cost(shipped))


def _rank(setup: Setup, trial: Trial) -> tuple[bool, float, float]:
    """What is better among the ends of epochs: the smallest file that is in budget, else the one nearest to it."""
    found, budget = trial.evaluation, setup.budget
    if budget.holds(setup.baseline, found):
        return True, -trial.cost, -found.loss
    metric = 0.0 if budget.metric_drop is None else found.metric if budget.maximize else -found.metric
    return False, metric, -found.loss


def _ended(training: Wrapped) -> tuple[nn.Module, Plan]:
    """The network with plain weights on their grids, and what stores each of them."""
    names = list(training.layers)
    present = bake(training.finalize())
    layers = find_layers(present)
    return present, {name: setting(layers[name].weight.detach()) for name in names}


def _stored(training: Wrapped) -> nn.Module:
    """A copy of a network in training, as it would be stored now."""
    stored = put_all(*_ended(copy.deepcopy(training)), None)
    finish(stored, USUAL)
    return stored


def setting(weight: Tensor) -> Compressor:
    """The compressor that stores a weight on a grid exactly: its nonzeros, on a codebook of their values.

    Example:
        >>> import torch
        >>> weight = torch.tensor([0.0, 0.5, -0.5, 0.0, 1.0])
        >>> code = setting(weight).compress(weight)
        >>> torch.equal(code.decompress(), weight), code.values.centroids.tolist()
        (True, [-0.5, 0.5, 1.0])
    """
    nonzero = weight[weight != 0]
    if not len(nonzero):
        return Quantize(step=1.0)
    return Chain(Prune(density=len(nonzero) / weight.numel()), Codebook(k=len(nonzero.unique()), keep_zero=False))
