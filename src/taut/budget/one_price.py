"""The rate-aware stage of the search: one price of a bit for all layers, as high as the budget allows."""

from __future__ import annotations

import logging

import torch
from torch import nn

from taut.budget.loss_model import LossModel
from taut.budget.priced import at_price, first_price, following, what_is_known
from taut.budget.recover import OutOfTime
from taut.budget.search import Observer, Progress, Step
from taut.budget.trial import Setup, run_trial
from taut.compressors import RateQuantize

log = logging.getLogger(__name__)

WIDE, CLOSE = 8.0, 1.2
"""Prices go up or down by this factor until one is kept and one fails; then by halves of their ratio, down to this one."""


def raise_price(setup: Setup, how: RateQuantize, progress: Progress, observe: Observer) -> Progress:
    """Measure networks at higher and higher prices until one is out of budget, then between the last kept and the lowest failed.

    The Lagrangian of the budget: what a bit may cost is the same in every layer, so that none needs a number of its own.
    Ends where the two prices are close, where a file is no smaller than what was kept, or with the time or the steps.
    """
    known: tuple[nn.Module, LossModel] | None = None
    try:
        while not progress.priced and setup.goes_on(progress.step):
            if known is None or not _same(known[0], progress.kept.dense):
                known = progress.kept.dense, what_is_known(setup, how, progress.kept.dense)
            _try(setup, how, progress, known[1], observe)
    except OutOfTime:
        log.info("the time limit came while the price of a bit was raised; what was kept before stands")
    return progress


def _same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks of one structure have the same weights: where nothing is trained, all that were kept."""
    theirs = other.state_dict()
    return one is other or all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


def _try(setup: Setup, how: RateQuantize, progress: Progress, model: LossModel, observe: Observer) -> None:
    before, dense = progress.kept, progress.kept.dense
    low, high = progress.prices
    price = following(low, high, first_price(how, dense, model), WIDE)
    plan = at_price(how, dense, price)
    progress.step += 1
    trial = run_trial(setup, dense, plan, model, progress.step)
    measured, error = trial.evaluation.loss - before.evaluation.loss, trial.evaluation.paired_error(before.evaluation)
    holds, smaller = setup.budget.holds(setup.baseline, trial.evaluation), trial.cost < setup.margin * before.cost
    # with a grid of 16 bits no lower price makes it finer
    finest = not holds and trial.cost <= progress.too_small
    if holds and smaller:
        progress.kept, low = trial, price
    else:
        high, progress.too_small = price, max(progress.too_small, trial.cost)
    progress.prices = low, high
    progress.priced = not smaller or finest and not low or bool(low and high) and high <= CLOSE * low
    observe(Step(trial, 0.0, measured, error, 0.0, holds and smaller), progress)
