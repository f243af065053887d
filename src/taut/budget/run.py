"""One run of :func:`taut.compress`: its stages one after the other, what is logged of them, and the result."""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from taut.budget.budget import Budget
from taut.budget.front import Front, unbeaten
from taut.budget.gradual import Gradual
from taut.budget.journal import Journal
from taut.budget.loss_model import LossModel, fit
from taut.budget.narrow import Shrink, narrow
from taut.budget.one_price import raise_price
from taut.budget.price import Meter
from taut.budget.reasons import explain
from taut.budget.search import Progress, Search, Step
from taut.budget.squeeze import WAYS, squeeze
from taut.budget.trial import Setup, Trial
from taut.compressors import RateQuantize
from taut.compressors.base import Compressor
from taut.cost import Ledger
from taut.curve import Curve, Point
from taut.errors import BudgetError
from taut.objective import Objective
from taut.parametrizations import Entropy
from taut.records import read_records

log = logging.getLogger(__name__)

Method = Compressor | Shrink | Entropy | Gradual


@dataclass(frozen=True)
class Result:
    """What :func:`compress` found.

    ``model``: the cheapest network within budget, coded; ``curve``: every measured point; ``best``: that network's point;
    ``ledger``: its cost per tensor, with the reason for every layer left alone; ``baseline``: the point it started from;
    ``original``: the network as given; ``objective``: the loss and metric that were measured;
    ``complete``: whether the search ended by itself rather than by the time limit. :meth:`within`: what another budget would
    have delivered of what was measured.
    """

    model: nn.Module
    curve: Curve
    best: Point
    ledger: Ledger
    baseline: Point
    budget: Budget
    original: nn.Module
    objective: Objective
    complete: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    front: Front | None = None

    def within(self, budget: Budget) -> Result:
        """The cheapest network that this search measured to be within another budget: one search answers for several.

        Not searched anew: with a budget of its own a search may come further, so the result is ``complete`` only if the budget
        is the same. The curve says which points it keeps.

        Raises:
            BudgetError: the budget counts the metric the other way round.

        Example:
            >>> import torch, taut
            >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
            >>> result = taut.compress(net, val=[torch.randn(64, 8)], budget=Budget(metric_drop=0.2))
            >>> strict = result.within(Budget(metric_drop=0.0))
            >>> strict.best.bytes >= result.best.bytes and strict.best.metric == 1.0
            True
        """
        assert self.front is not None
        if budget.maximize != self.budget.maximize:
            raise BudgetError(f"the search was run with maximize={self.budget.maximize}; give within() the same")
        curve = self.front.within(self.curve, budget)
        model = self.front.model(curve.best.step, copy.deepcopy(self.original))
        settings = {**self.settings, "budget": budget.as_dict()}
        return replace(
            self, model=model, curve=curve, best=curve.best, ledger=curve.best.ledger, budget=budget, settings=settings,
            complete=self.complete and budget == self.budget,
        )  # fmt: skip


class Run:
    """One call of :func:`compress`: the search, what is logged of it, and the result."""

    def __init__(
        self, setup: Setup, methods: list[Method], minimize: str, start: float, workdir: Any, tell: Any, labels: dict
    ) -> None:
        self.setup, self.methods, self.start, self.tell = setup, methods, start, tell
        self.meter: Meter = setup.cost  # type: ignore[assignment]
        self.settings = {
            "minimize": minimize,
            "budget": setup.budget.as_dict(),
            "seed": setup.seed,
            "methods": [m.describe() if isinstance(m, Shrink) else str(m) for m in methods],
            "recovery": str(setup.recovery),
        }
        identity = {**self.settings, "baseline_loss": setup.baseline.loss}
        self.journal = None if workdir is None else Journal(Path(workdir), identity)
        if workdir is not None:
            self.meter.keep(Path(workdir))
        self.front = Front(None if workdir is None else Path(workdir), setup.budget.maximize)
        path = None if workdir is None else Path(workdir) / "curve.jsonl"
        self.curve = Curve(path=path, labels={**labels, "seed": setup.seed, "budget": setup.budget.as_dict()})
        self.kept_step, self.spent, self.narrowed, self.known = 0, 0.0, False, -1

    def go(self, model: nn.Module) -> Progress:
        progress = self._begin(model)
        shrinks = [m for m in self.methods if isinstance(m, Shrink)]
        if shrinks and not self.narrowed:
            narrow(self.setup, shrinks[0], progress, self.meter.example, self._observe)
        self.narrowed = True
        trained = [m for m in self.methods if isinstance(m, tuple(WAYS))]
        if trained:
            squeeze(self.setup, trained[0], progress, self._observe)
        joint = [m for m in self.methods if isinstance(m, RateQuantize) and self.meter.unit == "bytes"]
        if joint:
            raise_price(self.setup, joint[0], progress, self._observe)
        compressors = [m for m in self.methods if isinstance(m, Compressor) and m not in joint]
        if compressors:
            self._search(compressors).run(progress)
        else:
            progress.finished = (progress.squeezed or not trained) and (progress.priced or not joint)
        self._write(progress)
        return progress

    def _search(self, compressors: list[Compressor]) -> Search:
        setup, inputs = self.setup, any(method.needs_inputs() for method in compressors)
        data = setup.train if setup.train is not None else setup.val

        def model(dense: nn.Module) -> LossModel:
            self.meter.look(dense)
            return fit(dense, data, setup.objective, seed=setup.seed, inputs=inputs)

        return Search(setup, compressors, self.meter.price, model, self._observe, self.meter.example)

    def _begin(self, model: nn.Module) -> Progress:
        """The search's first state: the network as given, or the state in the working directory."""
        data = self.journal.read() if self.journal is not None else None
        records = read_records(self.curve.path) if self.curve.path is not None and self.curve.path.exists() else []
        self.known = max((record["step"] for record in records), default=-1)
        if data is not None and self.journal is not None and records:
            self.kept_step, self.spent, self.narrowed = data["kept_step"], data["spent"], data["narrowed"]
            count = data.get("points", data["step"] + 1)  # states of earlier versions: a point a step
            for record in records[: max(1, count)]:  # the first state is older than the first point
                self.curve.append(Point.from_record(record), known=True)
            log.info("resuming after step %d", self.curve.points[-1].step)
            return self.journal.progress(data, self.setup, lambda: copy.deepcopy(model).eval())
        dense = copy.deepcopy(model).eval()
        progress = Progress(Trial(dense, dense, {}, self.setup.baseline, self.setup.cost(dense)))
        # before the first point: whoever finds points finds whose they are
        self._write(progress)
        self._point(Step(progress.kept, 0.0, 0.0, 0.0, 0.0, True))
        return progress

    def _observe(self, step: Step, progress: Progress) -> None:
        """A candidate, after those beside it that another budget may choose; a point is numbered by its place in the curve."""
        loss = step.trial.evaluation.loss
        for other in unbeaten(step.trial.others, step.trial, self.setup.budget.maximize):
            measured = step.measured + other.evaluation.loss - loss
            self._point(replace(step, trial=other, measured=measured, kept=False))
        if step.kept:
            self.kept_step = len(self.curve)
        self._point(step)
        self._write(progress)

    def _write(self, progress: Progress) -> None:
        if self.journal is not None:
            more = {"kept_step": self.kept_step, "spent": self._seconds(), "narrowed": self.narrowed, "points": len(self.curve)}
            self.journal.write(progress, more)

    def _seconds(self) -> float:
        return self.spent + time.monotonic() - self.start

    def _point(self, step: Step) -> None:
        trial, number = step.trial, len(self.curve)
        plan = {name: str(method) for name, method in trial.plan.items()}
        ledger = self.meter.ledger(trial.shipped)
        self.front.add(number, trial)
        point = Point(
            number, trial.evaluation.loss, trial.evaluation.metric, ledger, step.kept, plan, step.predicted, step.measured,
            step.radius, self._seconds(),
        )  # fmt: skip
        self.curve.append(point, known=number <= self.known)
        if self.tell is not None:
            self.tell(point)

    def result(self, progress: Progress) -> Result:
        """The cheapest kept network, and why each layer that was left alone was."""
        best, kept = self.curve.best, progress.kept
        ledger = explain(best.ledger, self.setup.original, self.methods, progress, self.curve, self.meter.unit)
        return Result(
            kept.shipped, self.curve, replace(best, ledger=ledger), ledger, self.curve.points[0], self.setup.budget,
            self.setup.original, self.setup.objective, progress.finished, self.settings, self.front,
        )  # fmt: skip
