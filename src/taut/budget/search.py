"""The budgeted search: predictions order the moves, only measurements keep them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from torch import nn

from taut.budget.loss_model import LossModel
from taut.budget.options import Option, Price, Site, allocate, evaluate_option, options
from taut.budget.pays import Pays
from taut.budget.recover import OutOfTime
from taut.budget.trial import Plan, Setup, Trial, round_seed, run_trial, walk
from taut.budget.trust_region import TrustRegion
from taut.compressors.base import Compressor, DenseCode
from taut.layers import find_layers

log = logging.getLogger(__name__)

FIRST_FLOOR = 0.07
"""Without recovery the first step may go down to this fraction of the dense cost: a codebook is nearly free."""
STEP_FLOOR = 0.6
"""A later step, to this fraction of the present cost."""
COARSE = 0.2
"""About where weights on a codebook, none of them removed, stand against dense ones."""
STRIDE = 0.75
"""With recovery a step is taken in moves of this fraction, with training between them: weights that go little by little are
replaced by others, those that go at once are not (Zhu & Gupta 2017)."""

RADIUS_END = 1e-4
"""A radius below this fraction of the widest so far leaves only single moves to try."""


@dataclass(frozen=True)
class Step:
    """A measured candidate as the log keeps it."""

    trial: Trial
    predicted: float
    measured: float
    error: float
    radius: float
    kept: bool


@dataclass
class Progress:
    """Where a search stands; all that a resumed one needs besides the networks."""

    kept: Trial
    step: int = 0
    region: TrustRegion | None = None
    rejected: set[frozenset] = field(default_factory=set)
    finished: bool = False
    widest: float = 0.0
    barred: dict[str, dict[str, str]] = field(default_factory=dict)
    """``{layer: {setting: why}}`` for the settings that were timed and do not pay."""
    narrowed: str = ""
    """Why no more units were removed."""
    squeezed: bool = False
    """Whether the trained stage is over."""
    too_small: float = 0.0
    """The largest cost that this stage measured to be out of budget."""
    misses: int = 0
    """How many of its trainings in a row were out of budget."""
    again: int = 0
    """How many times the size that it tried last is to be trained on, so far."""
    latest: float = 0.0
    """That size, as it was aimed at."""
    nearest: tuple[bool, float, float] = (False, 0.0, 0.0)
    """How near the best training at that size was (:func:`taut.budget.trial.rank`)."""
    start: nn.Module | None = None
    """The weights that its next training starts from, where they are not the kept ones."""
    price: float = 0.0
    """What a bit cost at the end of its last training, or how many bytes a weight took; 0 before the first."""
    priced: bool = False
    """Whether the rate-aware stage is over."""
    prices: tuple[float, float] = (0.0, 0.0)
    """The highest price of a bit that was kept there, and the lowest that failed; 0 where there is none."""


Observer = Callable[[Step, Progress], None]
Fit = Callable[[nn.Module], LossModel]
Fronts = dict[str, list[Option]]


@dataclass(frozen=True)
class Survey:
    """A point of the search: its dense network, the loss model there, and each layer's site and front."""

    dense: nn.Module
    model: LossModel
    sites: dict[str, Site]
    fronts: Fronts


class Search:
    """Moves the layers of a network down their ladders while the measured loss stays in the budget."""

    def __init__(
        self, setup: Setup, methods: Sequence[Compressor], price: Price, fit: Fit, observe: Observer, example: Any = None
    ) -> None:
        self.setup, self.methods, self.price, self.fit, self.observe, self.example = setup, methods, price, fit, observe, example
        self.pays = Pays(example)
        self._kept: tuple[Trial, Survey] | None = None

    def run(self, progress: Progress) -> Progress:
        """Go on until a measured probe of every layer's next move has failed, or the time or the steps are used up."""
        try:
            while not progress.finished and self.setup.goes_on(progress.step):
                self._advance(progress)
        except OutOfTime:
            log.info("the time limit came during step %d; what was kept before stands", progress.step)
        return progress

    def _advance(self, progress: Progress) -> None:
        if self._kept is None or self._kept[0] is not progress.kept:
            self._kept = (progress.kept, self._survey(progress, progress.kept.dense, progress.kept.plan))
        survey = self._kept[1]
        fronts = survey.fronts
        total = sum(front[0].cost for front in fronts.values())
        floor = (STEP_FLOOR if progress.kept.plan else self._first_floor()) * total
        if progress.region is None:
            first = self._allocate(progress, survey, math.inf, floor)
            progress.region = TrustRegion(max(_predicted(fronts, first), 1e-12))
            progress.widest = progress.region.radius
        moves = self._next_moves(progress, fronts, floor)
        while self._bar(progress, survey, moves):
            moves = self._next_moves(progress, fronts, floor)
        if not moves:
            progress.finished = True
            return
        self._try(progress, survey, moves)

    def _first_floor(self) -> float:
        return FIRST_FLOOR if self.setup.recovery is None else self.setup.recovery.first

    def _allocate(self, progress: Progress, survey: Survey, radius: float, floor: float) -> dict[str, Option]:
        """The moves to try next, every one of which pays."""
        moves = allocate(survey.fronts, radius, floor=floor)
        while self._bar(progress, survey, moves):
            moves = allocate(survey.fronts, radius, floor=floor)
        return moves

    def _bar(self, progress: Progress, survey: Survey, moves: dict[str, Option]) -> bool:
        """Time the moves that replace layers, and take those that do not pay from their fronts; whether there were any."""
        if monotonic() > self.setup.deadline:
            raise OutOfTime
        coded = {}
        for name, option in moves.items():
            if option.method is not None and option.modular:
                coded[name] = option.method, option.method.compress(survey.sites[name].weight, survey.model.stats(name))
        reasons = self.pays.why_not(survey.dense, coded)
        for name, why in reasons.items():
            barred = progress.barred.setdefault(name, {})
            # two settings may be one for this layer: low rank's schemes differ in 2-D convolutions alone
            same = (moves[name].cost, moves[name].predicted)
            known = survey.sites[name].known.values()
            barred |= {str(o.method): why for o in (moves[name], *known) if (o.cost, o.predicted) == same}
            survey.fronts[name] = options(survey.sites[name], self.methods, survey.model, self.price, barred=barred)
        return bool(reasons)

    def _next_moves(self, progress: Progress, fronts: Fronts, floor: float) -> dict[str, Option]:
        """The allocation within the radius, or, once that is known to fail, the next single move not yet measured."""
        assert progress.region is not None
        region = progress.region
        moves = allocate(fronts, region.radius, floor=floor)
        # moves that are predicted to cost nothing stay in every radius: what halves without end is probed one by one
        while len(moves) > 1 and _key(moves) in progress.rejected and region.radius > RADIUS_END * progress.widest:
            region = TrustRegion(region.radius / region.factor, region.factor)
            moves = allocate(fronts, region.radius, floor=floor)
        progress.region = region
        if moves and _key(moves) not in progress.rejected:
            return moves
        probes = [{name: front[1]} for name, front in fronts.items() if len(front) > 1]
        fresh = [probe for probe in probes if _key(probe) not in progress.rejected]
        return min(fresh, key=lambda probe: _exchange(fronts, probe), default={})

    def _try(self, progress: Progress, survey: Survey, moves: dict[str, Option]) -> None:
        assert progress.region is not None
        kept, setup, region = progress.kept, self.setup, progress.region
        progress.step += 1
        dense, plan, model, predicted = self._descend(progress, survey, moves, progress.step)
        trial = run_trial(setup, dense, plan, model, progress.step)
        measured, error = trial.evaluation.loss - kept.evaluation.loss, trial.evaluation.paired_error(kept.evaluation)
        good = setup.budget.holds(setup.baseline, trial.evaluation) and trial.cost < setup.margin * kept.cost
        progress.region = region.updated(predicted=predicted, measured=measured, error=error, kept=good)
        progress.widest = max(progress.widest, progress.region.radius)
        if good:
            progress.kept, progress.rejected = trial, set()
            if setup.recovery is not None:
                # training moved the weights and their curvature: the radius is set anew, in the units of the new point
                progress.region = None
        else:
            progress.rejected.add(_key(moves))
        self.observe(Step(trial, predicted, measured, error, region.radius, good), progress)

    def _descend(
        self, progress: Progress, survey: Survey, moves: dict[str, Option], step: int
    ) -> tuple[nn.Module, Plan, LossModel, float]:
        """The weights, the plan and the predicted change of a step; with recovery, approached in small trained moves."""
        dense, plan, predicted = progress.kept.dense, progress.kept.plan, 0.0
        total = sum(front[0].cost for front in survey.fronts.values())
        target = total - sum(survey.fronts[name][0].cost - option.cost for name, option in moves.items())
        # coarser values take nothing away that training could replace: the way begins where they end
        start = total if plan else max(COARSE * total, target)
        count = 1 if self.setup.recovery is None else math.ceil(math.log(target / start) / math.log(STRIDE))
        if len(moves) > 1:
            for i in range(1, count):
                part = self._allocate(progress, survey, math.inf, start * (target / start) ** (i / count))
                predicted += _predicted(survey.fronts, part)
                plan = _merged(plan, part)
                dense = walk(self.setup, dense, plan, survey.model, round_seed(self.setup, step, 10 + i))
                survey = self._survey(progress, dense, plan)
                moves = self._allocate(progress, survey, math.inf, target)
        return dense, _merged(plan, moves), survey.model, predicted + _predicted(survey.fronts, moves)

    def _survey(self, progress: Progress, dense: nn.Module, plan: Plan) -> Survey:
        """Every layer's front at a point of the search, and the loss model there."""
        model = self.fit(dense)
        sites, fronts = {}, {}
        for name, layer in find_layers(dense, self.example).items():
            weight = layer.weight.detach()
            site = Site(layer, weight, Option(None, self.price(DenseCode(weight), layer), 0.0))
            if name in plan:
                site = Site(layer, weight, evaluate_option(site, plan[name], model, self.price))
            barred = progress.barred.get(name, {})
            sites[name], fronts[name] = site, options(site, self.methods, model, self.price, barred=barred)
        return Survey(dense, model, sites, fronts)


def _merged(plan: Plan, moves: dict[str, Option]) -> dict[str, Compressor]:
    return {**plan, **{name: option.method for name, option in moves.items() if option.method is not None}}


def _predicted(fronts: Fronts, moves: dict[str, Option]) -> float:
    return sum(option.predicted - fronts[name][0].predicted for name, option in moves.items())


def _exchange(fronts: Fronts, moves: dict[str, Option]) -> float:
    saved = sum(fronts[name][0].cost - option.cost for name, option in moves.items())
    return _predicted(fronts, moves) / saved


def _key(moves: dict[str, Option]) -> frozenset:
    return frozenset((name, str(option.method)) for name, option in moves.items())


__all__ = ["Observer", "Plan", "Progress", "Search", "Step"]
