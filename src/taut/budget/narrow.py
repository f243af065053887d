"""The structured stage of the search: whole neurons and filters removed while the measured loss stays in the budget."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

from taut.budget.pays import narrower_but_slower
from taut.budget.recover import OutOfTime
from taut.budget.search import Observer, Progress, Step
from taut.budget.trial import Setup, Trial, run_trial
from taut.errors import TautError
from taut.shrink import SCOPES, shrink

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shrink:
    """Remove whole neurons and filters before any layer is coded: part of ``methods`` for :func:`taut.compress`.

    Each step keeps ``step`` of the present width, down to ``keep`` of the original; widths are multiples of ``round_to``, which
    runtimes want. A step is kept if the measured loss is in the budget and the network is cheaper. ``epochs`` of training follow
    each, as many as in :class:`taut.Recovery` if not given: fewer do where the steps after these are long trainings.
    ``scope``: one ranking over all layers (``"global"``), or the same part of each (``"layer"``), which is the faster network
    where the ranking keeps the first layers of a convolutional one, with most of its arithmetic.

    Example:
        >>> Shrink(keep=0.25, epochs=10).describe()
        'Shrink(keep=0.25, step=0.75, epochs=10)'
    """

    keep: float = 0.1
    step: float = 0.75
    round_to: int = 8
    epochs: int | None = None
    scope: str = "global"

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise TautError(f"{self}: give epochs of at least 1, or leave them out for those of Recovery")
        if self.scope not in SCOPES:
            raise TautError(f"{self}: choose one of {', '.join(SCOPES)} for scope")

    def describe(self) -> str:
        more = "" if self.epochs is None else f", epochs={self.epochs}"
        more += "" if self.scope == "global" else f", scope={self.scope!r}"
        return f"Shrink(keep={self.keep:g}, step={self.step:g}{more})"


def narrow(setup: Setup, how: Shrink, progress: Progress, example: Any, observe: Observer) -> Progress:
    """Take steps of ``how`` until one is out of budget; a failed step is tried once more at half its length."""
    width, step = 1.0, how.step
    settings: dict[str, Any] = {"round_to": how.round_to, "scope": how.scope}
    if how.epochs is not None and setup.recovery is not None:
        setup = replace(setup, recovery=replace(setup.recovery, epochs=how.epochs))
    try:
        while width * step >= how.keep and setup.goes_on(progress.step):
            progress.step += 1
            try:
                smaller = shrink(progress.kept.dense, example, keep=step, seed=setup.seed, **settings)
            except TautError as nothing:
                log.info("no more units to remove: %s", nothing)
                progress.narrowed = progress.narrowed or str(nothing)
                break
            trial = run_trial(setup, smaller, {}, None, progress.step)
            before = progress.kept.evaluation
            progress.narrowed = _why_not(setup, progress, trial, example)
            good = not progress.narrowed
            measured, error = trial.evaluation.loss - before.loss, trial.evaluation.paired_error(before)
            if good:
                progress.kept, width = trial, width * step
            observe(Step(trial, 0.0, measured, error, 0.0, good), progress)
            if not good:
                if step > how.step:
                    break
                step = (1 + step) / 2
    except OutOfTime:
        log.info("the time limit came while units were removed; what was kept before stands")
        progress.narrowed = "the time limit came"
    return progress


def _why_not(setup: Setup, progress: Progress, trial: Trial, example: Any) -> str:
    """Why a narrower network is not kept: out of budget, no cheaper, or slower; empty if it is kept."""
    if not setup.budget.holds(setup.baseline, trial.evaluation):
        return f"with fewer units the network is out of budget (a {setup.budget.describe()})"
    if trial.cost >= setup.margin * progress.kept.cost:
        return "with fewer units the network costs no less"
    slow = narrower_but_slower(progress.kept.shipped, trial.shipped, example)
    if slow is not None:
        log.info("a narrower network is not kept: %s", slow)
    return slow or ""
