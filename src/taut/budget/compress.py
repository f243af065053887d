"""``taut.compress``: a trained network, a budget, and the smallest network that the measurements allow."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import nn

from taut.budget.budget import Budget
from taut.budget.journal import Journal
from taut.budget.loss_model import LossModel, fit
from taut.budget.narrow import Shrink, narrow
from taut.budget.one_price import raise_price
from taut.budget.price import Meter
from taut.budget.reasons import explain
from taut.budget.recover import Recovery
from taut.budget.search import Progress, Search, Step
from taut.budget.squeeze import squeeze
from taut.budget.trial import Setup, Trial
from taut.compressors import Chain, Codebook, LowRank, Prune, Quantize, RateQuantize
from taut.compressors.base import Compressor
from taut.cost import Ledger
from taut.curve import Curve, Point
from taut.errors import TautError
from taut.layers import check_model
from taut.measure import evaluate
from taut.objective import Loss, Metric, Objective, batches_of, has_target, inputs_of
from taut.parametrizations import Entropy
from taut.records import read_records

log = logging.getLogger(__name__)

Method = Compressor | Shrink | Entropy


def default_methods(minimize: str, trains: bool = True) -> list[Method]:
    """What is tried when ``methods`` is not given; ``trains``: whether there is training data to recover with.

    For bytes: where there is training data, entropy-penalised training of all layers together, then, layer by layer, pruning by
    Fisher importance and a codebook on what is left; else rate-aware quantization of all layers at one price of a bit. For
    parameters, MACs and latency: narrower layers, then low rank with its factors on a fine grid, in both matricisations.
    """
    if minimize == "bytes":
        chains: list[Method] = [Chain(Prune(by="fisher"), Codebook(k=k, keep_zero=False)) for k in (8, 16, 32)]
        return [Entropy(), *chains] if trains else [RateQuantize(by="loss")]
    return [Shrink(), *(Chain(LowRank(scheme=scheme), Quantize(bits=8)) for scheme in (1, 2))]


@dataclass(frozen=True)
class Result:
    """What :func:`compress` found.

    ``model``: the cheapest network within budget, coded; ``curve``: every measured point; ``best``: that network's point;
    ``ledger``: its cost per tensor, with the reason for every layer left alone; ``baseline``: the point it started from;
    ``original``: the network as given; ``objective``: the loss and metric that were measured;
    ``complete``: whether the search ended by itself rather than by the time limit.
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


def compress(
    model: nn.Module,
    train: Iterable | None = None,
    val: Iterable | None = None,
    budget: Budget | None = None,
    minimize: str = "bytes",
    loss: Loss | None = None,
    metric: Metric | None = None,
    methods: Sequence[Method] | None = None,
    recover: bool | int | Recovery = True,
    seed: int = 0,
    time_limit: float | None = None,
    workdir: str | Path | None = None,
    max_steps: int | None = None,
    progress: Callable[[Point], None] | None = None,
    labels: dict[str, Any] | None = None,
) -> Result:
    """Compress a trained network while its measured loss stays within ``budget``; ``model`` is not changed.

    The search moves layers down their methods' ladders. A local model of the loss orders the moves; a move is kept if and only
    if the network *as it would ship* (coded, fine-tuned, batch norms re-estimated) is measured to be within the budget on
    ``val`` and cheaper. It ends when a measured probe of every layer's next move has failed, at ``time_limit`` seconds,
    or after ``max_steps`` measured candidates (the same on every machine).

    ``train``, ``val``: iterables of batches, ``(input, target)``, dicts, or inputs alone (then the original network's outputs
    are the target). Without ``train`` nothing is fine-tuned. ``budget``: default ``Budget(metric_drop=0.0)``. ``minimize``:
    ``"bytes"``, ``"params"``, ``"macs"`` or ``"latency"``. ``methods``, tried in this order: :class:`Shrink`,
    :class:`taut.parametrizations.Entropy`, and compressors, each of which stands for its whole ladder; default
    :func:`default_methods`. ``recover``: whether to fine-tune, or for how many epochs a step. ``workdir``: where the log and
    the kept networks go; a second call with the same settings resumes there. ``progress`` is called with every measured point.

    Raises :class:`~taut.errors.BudgetError` for a budget that cannot be measured, and :class:`~taut.errors.TautError` for
    weights that are not finite or settings that do not fit; both say what to change.

    Example:
        >>> import torch, taut
        >>> x = torch.randn(64, 8); net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
        >>> result = taut.compress(net, val=[x], budget=taut.Budget(metric_drop=0.1))
        >>> result.best.bytes < result.baseline.bytes and result.best.metric >= 0.9
        True
    """
    start = time.monotonic()
    budget = budget or Budget(metric_drop=0.0)
    check_model(model)
    original = copy.deepcopy(model).eval()
    original.requires_grad_(False)
    if any(p.dim() == 4 for p in original.parameters()):
        # the teacher runs at every step of recovery: convolutions are a third faster with the channels innermost
        original.to(memory_format=torch.channels_last)
    dense = copy.deepcopy(model).eval()
    setup = _setup(original, dense, train, val, budget, minimize, (loss, metric), recover, seed, start + (time_limit or inf))
    setup = replace(setup, max_steps=max_steps)
    trains = setup.recovery is not None
    chosen = list(methods) if methods is not None else default_methods(minimize, trains)
    _check_methods(chosen, minimize, trains)
    run = _Run(setup, chosen, minimize, start, workdir, progress, labels or {})
    return run.result(run.go(model))


def _setup(
    original: nn.Module, dense: nn.Module, train: Any, val: Any, budget: Budget, minimize: str, own: tuple, recover: Any,
    seed: int, deadline: float,
) -> Setup:  # fmt: skip
    loss, metric = own
    val = batches_of(val, "validation")
    train = None if train is None else batches_of(train, "training")
    first = next(iter(val))
    objective = Objective(loss, metric, None if has_target(first) or loss is not None else original)
    baseline = evaluate(dense, val, objective)
    meter = Meter(minimize, inputs_of(first), original)
    recovery = _recovery(recover, train)
    return Setup(original, train, val, objective, budget, baseline, meter, recovery, seed, deadline, meter.margin)


def _recovery(recover: bool | int | Recovery, train: Iterable | None) -> Recovery | None:
    if isinstance(recover, Recovery):
        how = recover
    elif recover is False or recover == 0:
        return None
    else:
        how = Recovery() if recover is True else Recovery(epochs=int(recover))
    return None if train is None else how


def _check_methods(methods: Sequence[Method], minimize: str, trains: bool) -> None:
    if not methods:
        raise TautError("methods is empty: give at least one, e.g. [taut.compressors.Prune()], or leave it out")
    for method in methods:
        if not isinstance(method, Method):
            raise TautError(f"{method!r} is not a method: give compressors, e.g. taut.compressors.Prune(), or taut.Shrink()")
        if isinstance(method, Entropy) and not (trains and minimize == "bytes"):
            raise TautError(
                f"{method} trains the network towards a size in bytes: give train= data, recover= and minimize='bytes'"
            )


class _Run:
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
        path = None if workdir is None else Path(workdir) / "curve.jsonl"
        self.curve = Curve(path=path, labels={**labels, "seed": setup.seed, "budget": setup.budget.as_dict()})
        self.kept_step, self.spent, self.narrowed, self.known = 0, 0.0, False, -1

    def go(self, model: nn.Module) -> Progress:
        progress = self._begin(model)
        shrinks = [m for m in self.methods if isinstance(m, Shrink)]
        if shrinks and not self.narrowed:
            narrow(self.setup, shrinks[0], progress, self.meter.example, self._observe)
        self.narrowed = True
        entropies = [m for m in self.methods if isinstance(m, Entropy)]
        if entropies:
            squeeze(self.setup, entropies[0], progress, self._observe)
        joint = [m for m in self.methods if isinstance(m, RateQuantize) and self.meter.unit == "bytes"]
        if joint:
            raise_price(self.setup, joint[0], progress, self._observe)
        compressors = [m for m in self.methods if isinstance(m, Compressor) and m not in joint]
        if compressors:
            self._search(compressors).run(progress)
        else:
            progress.finished = (progress.squeezed or not entropies) and (progress.priced or not joint)
        self._write(progress)
        return progress

    def _search(self, compressors: list[Compressor]) -> Search:
        setup, inputs = self.setup, any(method.needs_inputs() for method in compressors)
        data = setup.train if setup.train is not None else setup.val

        def model(dense: nn.Module) -> LossModel:
            return fit(dense, data, setup.objective, seed=setup.seed, inputs=inputs)

        return Search(setup, compressors, self.meter.price, model, self._observe, self.meter.example)

    def _begin(self, model: nn.Module) -> Progress:
        """The search's first state: the network as given, or the state in the working directory."""
        data = self.journal.read() if self.journal is not None else None
        records = read_records(self.curve.path) if self.curve.path is not None and self.curve.path.exists() else []
        self.known = max((record["step"] for record in records), default=-1)
        if data is not None and self.journal is not None and records:
            self.kept_step, self.spent, self.narrowed = data["kept_step"], data["spent"], data["narrowed"]
            for record in records:
                if record["step"] <= data["step"]:
                    self.curve.append(Point.from_record(record), known=True)
            log.info("resuming after step %d", data["step"])
            return self.journal.progress(data, self.setup, lambda: copy.deepcopy(model).eval())
        dense = copy.deepcopy(model).eval()
        progress = Progress(Trial(dense, dense, {}, self.setup.baseline, self.setup.cost(dense)))
        # before the first point: whoever finds points finds whose they are
        self._write(progress)
        self._point(Step(0, progress.kept, 0.0, 0.0, 0.0, 0.0, True))
        return progress

    def _observe(self, step: Step, progress: Progress) -> None:
        if step.kept:
            self.kept_step = step.index
        self._point(step)
        self._write(progress)

    def _write(self, progress: Progress) -> None:
        if self.journal is not None:
            self.journal.write(progress, {"kept_step": self.kept_step, "spent": self._seconds(), "narrowed": self.narrowed})

    def _seconds(self) -> float:
        return self.spent + time.monotonic() - self.start

    def _point(self, step: Step) -> None:
        trial = step.trial
        plan = {name: str(method) for name, method in trial.plan.items()}
        ledger = self.meter.ledger(trial.shipped)
        point = Point(
            step.index, trial.evaluation.loss, trial.evaluation.metric, ledger, step.kept, plan, step.predicted, step.measured,
            step.radius, self._seconds(),
        )  # fmt: skip
        self.curve.append(point, known=step.index <= self.known)
        if self.tell is not None:
            self.tell(point)

    def result(self, progress: Progress) -> Result:
        """The cheapest kept network, and why each layer that was left alone was."""
        best, kept = self.curve.best, progress.kept
        ledger = explain(best.ledger, self.setup.original, self.methods, progress, self.curve, self.meter.unit)
        return Result(
            kept.shipped, self.curve, replace(best, ledger=ledger), ledger, self.curve.points[0], self.setup.budget,
            self.setup.original, self.setup.objective, progress.finished, self.settings,
        )  # fmt: skip
