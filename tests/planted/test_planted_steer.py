"""Faults planted in steering: each must turn a law red."""

import dataclasses

import pytest
import torch
from laws.steer_laws import check_bound, check_metric_bound, check_subproblem, check_toy

from taut.budget.course import Course
from taut.budget.steer import steer
from taut.budget.subproblem import Solved, solve


def clips_afterwards(parts, room):
    """Solves without the box and clips the solution."""
    free = solve([dataclasses.replace(part, radius=1e9) for part in parts], room)
    steps = [step.clamp(-part.radius, part.radius) for part, step in zip(parts, free.steps, strict=True)]
    change = sum(part.change(step) for part, step in zip(parts, steps, strict=True))
    return Solved(steps, free.multiplier, change, change <= room)


def forgets_the_curvature(parts, room):
    flat = [dataclasses.replace(part, curvature=torch.zeros_like(part.curvature)) for part in parts]
    return solve(flat, room)


def stays(parts, room):
    """Feasible wherever the room is not negative, and useless."""
    return Solved([torch.zeros_like(part.gap) for part in parts], 0.0, 0.0, room >= 0)


def halves_the_room(parts, room):
    return solve(parts, room / 2)


@pytest.mark.parametrize("fault", [clips_afterwards, forgets_the_curvature, stays, halves_the_room])
def test_the_law_of_the_steps_problem_sees(fault):
    with pytest.raises(AssertionError):
        for seed in range(8):
            for room in (-0.5, 0.1, 1.0):
                check_subproblem(fault, seed, room)


def keeps_all(monkeypatch):
    monkeypatch.setattr(Course, "_holds", lambda self, found, arrives: True)


def never_arrives(monkeypatch):
    monkeypatch.setattr(Course, "_holds", lambda self, found, arrives: not arrives and found.loss <= self._bound())


def test_the_law_of_the_bound_sees(monkeypatch):
    keeps_all(monkeypatch)
    with pytest.raises(AssertionError):
        for seed in range(10):
            check_bound(steer, seed, 0.0)


@pytest.mark.parametrize(
    "holds",
    [
        lambda self, found, arrives: True,
        lambda self, found, arrives: found.loss <= self._bound(),
        lambda self, found, arrives: self.budget.holds(self.found, found),
    ],
    ids=["keeps all", "by the loss alone", "against the last kept"],
)
def test_the_law_of_the_metrics_bound_sees(monkeypatch, holds):
    monkeypatch.setattr(Course, "_holds", holds)
    with pytest.raises(AssertionError):
        for seed in range(30):
            check_metric_bound(steer, seed, (0.0, 0.02, 0.1)[seed % 3])


def test_the_law_of_the_toy_sees(monkeypatch):
    never_arrives(monkeypatch)
    with pytest.raises(AssertionError):
        check_toy(steer, 0)
