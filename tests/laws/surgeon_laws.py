"""What quantizing column by column owes, each a plain function of the routine; the reference inverts a matrix at every column."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from taut.numeric.surgeon import DAMPING, Bits

Routine = Callable[..., tuple[np.ndarray, float]]
"""``(w, moments, gain, step, bits) -> levels, weighted error``."""


@dataclass(frozen=True)
class Case:
    """A problem: how many rows and columns, how strongly the inputs depend on one another, how dear bits are."""

    rows: int
    columns: int
    alike: float = 0.8
    gain: float = 30.0
    most: int = 3
    seed: int = 0

    def draw(self) -> tuple[np.ndarray, torch.Tensor, np.ndarray, float, Bits]:
        rng = np.random.default_rng(self.seed)
        w = rng.normal(size=(self.rows, self.columns))
        x = rng.normal(size=(4 * self.columns, self.columns)) + self.alike * 3 * rng.normal(size=(4 * self.columns, 1))
        x *= rng.uniform(0.3, 1.0, self.columns)
        shape = w.shape
        size = np.concatenate([[0.0], 1 + np.arange(self.most) + rng.uniform(0, 1, self.most)])
        bits = Bits(rng.uniform(0, 2, shape), rng.uniform(0, 3, shape), size)
        return w, torch.from_numpy(x.T @ x / len(x)), self.gain * rng.uniform(0.2, 2, self.rows), 0.8, bits


def damped(moments: torch.Tensor) -> np.ndarray:
    h = moments.numpy()
    return (h + h.T) / 2 + DAMPING * np.diag(h).mean() * np.eye(len(h))


def total(case: Case, levels: np.ndarray) -> float:
    """What levels cost: the quadratic form of each row, and the bits, one by one."""
    return float(sum(costs(case, r, row[None])[0] for r, row in enumerate(levels)))


def costs(case: Case, r: int, tried: np.ndarray) -> np.ndarray:
    """What each of the levels ``(tries, columns)`` would cost in row ``r``."""
    w, moments, gain, step, bits = case.draw()
    d = w[r] - step * tried
    priced = np.where(tried == 0, bits.zero[r], bits.nonzero[r] + bits.size[np.abs(tried)])
    return gain[r] * np.einsum("ti,ij,tj->t", d, damped(moments), d) + priced.sum(1)


def by_inversion(case: Case) -> np.ndarray:
    """The levels, from the textbook: after each column the others move to the minimum of the quadratic form."""
    w, moments, gain, step, bits = case.draw()
    h, out = damped(moments), np.zeros(w.shape, dtype=int)
    for r in range(len(w)):
        x = w[r].copy()
        for c in range(w.shape[1]):
            inverse = np.linalg.inv(h[c:, c:])
            near = min(int(abs(x[c]) / step + 0.5), case.most)
            options = {0: bits.zero[r, c]}
            for q in {max(near - 1, 1), near} - {0}:
                options[q if x[c] >= 0 else -q] = bits.nonzero[r, c] + bits.size[q]
            costs = {q: gain[r] * (x[c] - q * step) ** 2 / inverse[0, 0] + price for q, price in options.items()}
            best = out[r, c] = min(costs, key=lambda q: costs[q])
            x[c:] -= (x[c] - best * step) / inverse[0, 0] * inverse[0]
    return out


# -- the laws -----------------------------------------------------------------------------------------------------------------


def check_is_the_textbooks(routine: Routine, case: Case) -> None:
    assert np.array_equal(routine(*case.draw())[0], by_inversion(case))


def check_error_is_the_quadratic_form(routine: Routine, case: Case) -> None:
    levels, error = routine(*case.draw())
    bits = case.draw()[-1]
    assert error + bits.of(levels) == pytest.approx(total(case, levels), rel=1e-9)
    assert np.abs(levels).max() <= case.most


def check_near_the_best(routine: Routine, case: Case, draws: int = 40) -> None:
    """On the mean over small problems nearer to the best of all levels than to rounding."""
    every = np.array(list(itertools.product(range(-case.most, case.most + 1), repeat=case.columns)))
    found = []
    for seed in range(draws):
        one = replace(case, seed=seed)
        w, *_, step, _ = one.draw()
        rounded = np.rint(w / step).clip(-case.most, case.most).astype(int)
        found.append((costs(one, 0, every).min(), total(one, routine(*one.draw())[0]), total(one, rounded)))
    best, ours, rounding = np.mean(found, axis=0)
    assert best <= ours <= best + 0.37 * (rounding - best)
