"""What the closed form of variational Bayes must agree with: the free energy, written out and minimised by brute force."""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi

import numpy as np
import torch

from taut.numeric.vbmf import Factorization

Evbmf = Callable[..., Factorization]


def component(g: float, s2: float, rows: int, columns: int) -> tuple[float, float]:
    """The least free energy (doubled) of one component with singular value ``g``, and its posterior mean; 0 when it is pruned.

    Posterior means and variances ``u``, ``v`` of the two factors, priors at their best (JMLR 14, 2013, section 3).
    A factor scaled up and the other down changes nothing, so both means are ``sqrt(m)``; a grid over ``m, u, v`` narrows.
    """
    low, high = np.log([0.02 * g, 1e-3 * s2 / g, 1e-3 * s2 / g]), np.log([g, 1e3 * s2 / g, 1e3 * s2 / g])
    for _ in range(18):
        m, u, v = np.ix_(*(np.exp(np.linspace(a, b, 13)) for a, b in zip(low, high, strict=True)))
        fit = (m + columns * u) * (m + rows * v) - 2 * m * g
        energy = columns * np.log1p(m / (columns * u)) + rows * np.log1p(m / (rows * v)) + fit / s2
        at = np.unravel_index(energy.argmin(), energy.shape)
        best, centre = energy[at], np.log([m.ravel()[at[0]], u.ravel()[at[1]], v.ravel()[at[2]]])
        width = 0.3 * (high - low)
        low, high = centre - width, centre + width
    return (float(best), float(np.exp(centre[0]))) if best < -1e-9 else (0.0, 0.0)


def free_energy(values: np.ndarray, s2: float, rows: int, columns: int) -> float:
    """Twice the free energy of the whole matrix, all components at their best."""
    plain = rows * columns * log(2 * pi * s2) + float((values**2).sum()) / s2
    return plain + sum(component(g, s2, rows, columns)[0] for g in values)


def check_known_noise(evbmf: Evbmf, matrix: torch.Tensor, s2: float) -> None:
    """At a given noise: the same components, and the same shrunk values, as brute force."""
    rows, columns = sorted(matrix.shape)
    values = torch.linalg.svdvals(matrix.double()).tolist()
    wanted = [mean for g in values if (mean := component(g, s2, rows, columns)[1])]
    found = evbmf(matrix, noise=s2)
    assert found.rank == len(wanted), f"{found.rank} components, by brute force {len(wanted)}"
    assert np.allclose(found.values.tolist(), wanted, rtol=1e-3)


def check_estimated_noise(evbmf: Evbmf, matrix: torch.Tensor) -> None:
    """No variance has a smaller free energy than the one found."""
    rows, columns = sorted(matrix.shape)
    values = torch.linalg.svdvals(matrix.double()).numpy()
    found = evbmf(matrix)
    least = free_energy(values, found.noise, rows, columns)
    rivals = found.noise * np.exp(np.linspace(-2.0, 1.5, 6))
    assert all(least <= free_energy(values, s2, rows, columns) + 1e-4 * abs(least) for s2 in rivals)
    check_known_noise(evbmf, matrix, found.noise)


def check_scale_and_turn(evbmf: Evbmf, matrix: torch.Tensor) -> None:
    """The rank is that of the transpose, and of any multiple."""
    ranks = {evbmf(m).rank for m in (matrix, matrix.T, matrix * 1e-6, matrix * 1e12)}
    assert len(ranks) == 1
    assert np.isclose(evbmf(matrix * 1e3).noise, evbmf(matrix).noise * 1e6)
