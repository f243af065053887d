"""The trained stage of the search: all layers trained together towards smaller and smaller sizes, while the budget holds."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from taut.budget import gradual, grids
from taut.budget.gradual import Gradual
from taut.budget.priced import usual_cost
from taut.budget.recover import OutOfTime
from taut.budget.search import STEP_FLOOR, Observer, Progress, Step
from taut.budget.trial import Setup, Trial, nearly, own_layers, rank
from taut.parametrizations import Entropy

log = logging.getLogger(__name__)

LARGEST = 0.5
"""Sizes above this fraction of the dense file's are left to the search layer by layer, whose grids are finer."""
CLOSE = 0.93
"""Between a kept size and one that failed, as a fraction: closer ones are not told apart by their metric."""
NEAR, FAR = 1.1, 1.5
"""While nothing is kept, the next size aimed at, as a multiple of the failed one: where its loss was within the noise, or not.
After n failures, the n-th power of it: a search of few steps still comes to a size that holds."""
AGAIN = 3
"""How many times a size that no measurement tells from one within the budget is trained on before a larger one is tried."""


@dataclass(frozen=True)
class Way:
    """One training towards a size: ``attempt(setup, method, dense, bytes, step, price)`` gives what came out, and the price that
    the next one starts with. ``adds_up``: whether a training may go on from one that was too small. ``floor``: the smallest step,
    as a fraction of the kept size.
    """

    attempt: Callable[..., tuple[Trial, float]]
    adds_up: bool
    floor: float


# weights that are gone do not come back: gradual removal takes smaller steps, each of which goes on from the last
WAYS: dict[type, Way] = {Entropy: Way(grids.attempt, True, STEP_FLOOR), Gradual: Way(gradual.attempt, False, 0.72)}


def squeeze(setup: Setup, how: Any, progress: Progress, observe: Observer) -> Progress:
    """Train towards smaller and smaller files until one is out of budget, and then between the last kept and the smallest failed.

    The first size aimed at is ``Recovery.first`` of the dense file's, a later one the way's ``floor`` of the last kept. Training
    starts from the last one's weights if the way adds up and their validation loss is not clearly above that of the kept ones
    (two paired standard errors); else from the kept ones. Where it does not add up, a size that failed by no more than such
    errors is trained on, up to ``AGAIN`` times, from the best so far: often it is the length of the training that is missing, and
    not bytes. A larger file of a training that failed at its size is kept if it is in budget. Ends when a failed size is within
    ``CLOSE`` of the kept one, or with the time or the steps.
    """
    whole, way = setup.cost(setup.original), WAYS[type(how)]
    try:
        while not progress.squeezed and setup.goes_on(progress.step):
            target = _target(setup, progress, whole, way.floor)
            if not own_layers(progress.kept.dense) or target >= LARGEST * whole:
                progress.squeezed = True
                break
            progress.step += 1
            start = progress.start or progress.kept.dense
            trial, progress.price = way.attempt(setup, how, start, target, progress.step, progress.price)
            _try(setup, progress, trial, target, way.adds_up, observe)
    except OutOfTime:
        log.info("the time limit came while a smaller size was trained for; what was kept before stands")
    return progress


def _try(
    setup: Setup, progress: Progress, trial: Trial, target: float, adds_up: bool, observe: Observer
) -> None:  # fmt: skip
    before, failed = progress.kept, None
    if not _good(setup, before, trial):
        failed = trial
        if any(_good(setup, before, other) for other in trial.others):
            trial = _smallest_good(setup, before, trial)
    measured, error = trial.evaluation.loss - before.evaluation.loss, trial.evaluation.paired_error(before.evaluation)
    kept = trial is not failed
    if kept:
        progress.kept, progress.start, progress.misses = replace(trial, others=()), None, 0
        if progress.too_small >= trial.cost:  # it was not
            progress.too_small = 0.0
    if failed is None:
        progress.again = 0
    elif not adds_up and failed.cost < before.cost and _trained_on(setup, progress, failed):
        progress.latest = target
        progress.price *= target / usual_cost(failed)  # so that the same number of weights is aimed at
    else:
        progress.again, progress.too_small = 0, max(progress.too_small, failed.cost)
        if not kept:
            progress.misses += 1
            progress.start = failed.dense if adds_up and measured < 2 * error else None
    close = bool(progress.kept.plan) and progress.too_small >= CLOSE * progress.kept.cost
    progress.squeezed = close and not progress.again
    observe(Step(trial, 0.0, measured, error, 0.0, kept), progress)


def _trained_on(setup: Setup, progress: Progress, failed: Trial) -> bool:
    """Whether the size that failed is trained on; from the best of its trainings then."""
    if progress.again == AGAIN or not (progress.again or nearly(setup, failed)):
        return False
    found = rank(setup, failed)
    if not progress.again or found > progress.nearest:
        progress.start, progress.nearest = failed.dense, found
    progress.again += 1
    return True


def _good(setup: Setup, before: Trial, trial: Trial) -> bool:
    return setup.budget.holds(setup.baseline, trial.evaluation) and trial.cost < before.cost


def _smallest_good(setup: Setup, before: Trial, trial: Trial) -> Trial:
    """Larger than was aimed at, but in budget, and smaller than what was kept; the one that failed is beside it."""
    best = min((other for other in trial.others if _good(setup, before, other)), key=lambda other: other.cost)
    beside = (replace(trial, others=()), *(other for other in trial.others if other is not best))
    return replace(best, others=beside)


def _target(setup: Setup, progress: Progress, whole: float, floor: float) -> float:
    """The size in bytes to aim at next, for a dense file of ``whole`` bytes."""
    assert setup.recovery is not None
    kept, failed = progress.kept, progress.too_small
    if progress.again:
        return progress.latest
    if not kept.plan:
        return (NEAR if progress.start else FAR) ** progress.misses * failed or setup.recovery.first * whole
    return max(floor * kept.cost, math.sqrt(kept.cost * failed))
