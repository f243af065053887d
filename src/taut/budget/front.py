"""The networks of a search that no other one of it beats, kept as files: what other budgets would have delivered."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from taut.budget.budget import Budget
from taut.budget.trial import Trial
from taut.codec.files import load, save
from taut.curve import Curve, Point


@dataclass(frozen=True)
class Measured:
    """What is remembered of a candidate; ``held``: whether its network is among the files."""

    cost: float
    metric: float
    loss: float
    held: bool

    def beats(self, other: Measured, maximize: bool) -> bool:
        """Whether this is no worse in anything."""
        metric = self.metric >= other.metric if maximize else self.metric <= other.metric
        return metric and self.loss <= other.loss and self.cost <= other.cost


def _of(trial: Trial) -> Measured:
    return Measured(trial.cost, trial.evaluation.metric, trial.evaluation.loss, True)


def unbeaten(trials: Iterable[Trial], than: Trial, maximize: bool) -> list[Trial]:
    """Those that are not beaten by another one, nor by ``than``: of several that are equal the first."""
    left: list[tuple[Measured, Trial]] = []
    for trial in (than, *trials):
        new = _of(trial)
        if not any(one.beats(new, maximize) for one, _ in left):
            left = [pair for pair in left if pair[1] is than or not new.beats(pair[0], maximize)] + [(new, trial)]
    return [trial for _, trial in left[1:]]


class Front:
    """Every measured candidate of a search by its step, and the files of those that no other one beats.

    Small networks are small files, so that a search of hundreds of steps holds little. ``folder``: where the files go, if the
    search is to be resumed; else they go with this object. ``maximize``: of the metric.
    """

    def __init__(self, folder: Path | None, maximize: bool) -> None:
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory()  # removed with this object
            folder = Path(self._temporary.name)
        self.folder, self.maximize = folder / "front", maximize
        self.folder.mkdir(parents=True, exist_ok=True)
        self.found: dict[int, Measured] = {}
        if self._list.exists():
            self.found = {int(step): Measured(*values) for step, values in json.loads(self._list.read_text()).items()}

    @property
    def _list(self) -> Path:
        return self.folder / "front.json"

    def file(self, step: int) -> Path:
        """Where the network of a step is, if it is held."""
        return self.folder / f"{step:04d}.taut"

    def add(self, step: int, trial: Trial) -> None:
        """Remember a candidate; keep its network if no other one is as good, and forget those that are worse and larger."""
        new = _of(trial)
        others = {s: m for s, m in self.found.items() if s != step}
        if step == 0 or any(m.held and m.beats(new, self.maximize) for m in others.values()):
            new = replace(new, held=step == 0)
        if new.held and step:
            save(trial.shipped, self.file(step))
        worse = [
            s for s, m in others.items()
            if s and m.held and new.held and new.beats(m, self.maximize) and new.cost < m.cost
        ]  # fmt: skip
        self.found = others | {step: new} | {s: replace(others[s], held=False) for s in worse}
        self._write()
        for s in worse:
            self.file(s).unlink(missing_ok=True)

    def _write(self) -> None:
        temporary = self._list.with_suffix(".tmp")
        temporary.write_text(json.dumps({s: [m.cost, m.metric, m.loss, m.held] for s, m in self.found.items()}))
        os.replace(temporary, self._list)

    def model(self, step: int, original: nn.Module) -> nn.Module:
        """The network of a step, as it ships; that of step 0 is ``original``, into which the others are loaded."""
        return (load(self.file(step), into=original) if step else original).eval().requires_grad_(True)

    def within(self, curve: Curve, budget: Budget) -> Curve:
        """The same points, those kept that a search with this budget would have kept of them, in this order."""
        points: list[Point] = []
        least = float("inf")
        for point in curve:
            found = self.found.get(point.step)
            kept = found is not None and found.cost < least and budget.holds(curve.points[0], point)
            least = found.cost if kept and found is not None else least
            points.append(replace(point, kept=kept or point.step == 0))
        return Curve(points, labels={**curve.labels, "budget": budget.as_dict()})

