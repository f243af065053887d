"""The rivals that are penalties or projections, against slow references written from their papers' formulas."""

import itertools
import math

import numpy as np
import pytest
import torch

from taut.compressors import LowRank
from taut.errors import TautError
from taut.regularizers.force import Force
from taut.regularizers.hoyer_square import HoyerSquare
from taut.regularizers.learned_rank import LearnedRank
from taut.regularizers.trained_rank import TrainedRank

W = torch.randn(6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
CONV = torch.randn(4, 3, 3, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def hoyer_objective(z, w, t):
    squares = (z * z).sum(-1)
    ratio = np.where(squares > 0, np.abs(z).sum(-1) ** 2 / np.maximum(squares, 1e-300), 0)
    return t * ratio + 0.5 * ((z - w) ** 2).sum(-1)


@pytest.mark.parametrize("t", [0.02, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("w", [(1.5, -1.1, 0.7), (1.0, 1.0, 1.0), (2.0, 0.1, -0.1), (0.5, 0.4, 0.0), (3.0, 2.9, 2.8)], ids=str)
def test_hoyer_square_prox_against_a_grid_refined_on_every_support(w, t):
    w = np.array(w)
    least = 0.5 * (w * w).sum()
    for kept in itertools.product([0.0, 1.0], repeat=3):
        center, width = w / 2, 1.5 * np.abs(w).max()
        for _ in range(14):
            points = np.array(list(itertools.product(np.linspace(-width, width, 9), repeat=3))) + center
            values = hoyer_objective(points * kept, w, t)
            center, width = points[values.argmin()], width / 2
            least = min(least, values.min())
    found = HoyerSquare(1.0).prox(torch.tensor(w).reshape(1, 3), t).numpy()[0]
    assert hoyer_objective(found, w, t) <= least + 1e-9


def test_hoyer_square_value_and_groups():
    assert float(HoyerSquare(2.0).value(torch.ones(3, 4))) == pytest.approx(24.0)
    assert float(HoyerSquare(2.0, view="rows").value(W)) == pytest.approx(2 * float(W.norm(dim=1).sum() / W.norm()) ** 2)
    assert torch.allclose(HoyerSquare(1.0).value(W), HoyerSquare(1.0).value(1e-3 * W)), "the scale does not matter"
    # groups of parallel vectors are the one-dimensional problem of their lengths
    lengths = torch.tensor([[2.0, 1.0, 0.3]], dtype=torch.float64)
    direction = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    rows = HoyerSquare(1.0, view="rows").prox(lengths.T * direction, 0.4)
    assert torch.allclose(rows, HoyerSquare(1.0).prox(lengths, 0.4).T * direction)
    kept = HoyerSquare(1.0).prox(lengths, 0.4)
    assert kept[0, 0] > 2.0 and kept[0, 2] == 0, "large weights grow, small ones vanish"


def paper_force(w, norm):
    """Wen et al., section 3: the sum over all pairs, written as two loops."""
    u = [row / row.norm() for row in w]
    moves = []
    for i, row in enumerate(w):
        total = torch.zeros_like(row)
        for j, other in enumerate(u):
            if i != j:
                pull = other - u[i]
                total += pull / pull.norm() if norm == "l1" else pull
        moves.append(row.norm() * (total - (u[i] @ total) * u[i]))
    return torch.stack(moves)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_force_is_the_papers(norm):
    assert torch.allclose(Force(0.02, norm).prox(W, 0.5), W + 0.01 * paper_force(W, norm))
    filters = CONV.reshape(4, -1)
    assert torch.allclose(Force(0.02, norm).prox(CONV, 0.5).reshape(4, -1), filters + 0.01 * paper_force(filters, norm))
    energy = sum((u / u.norm() - v / v.norm()).norm() ** (1 if norm == "l1" else 2) for u, v in itertools.combinations(W, 2))
    assert float(Force(0.4, norm).value(W)) == pytest.approx(0.4 * float(energy) / (1 if norm == "l1" else 2))
    # it is the gradient of the value, row by row scaled by the squared length
    leaf = W.clone().requires_grad_()
    Force(1.0, norm).value(leaf).backward()
    assert torch.allclose(-leaf.grad * W.square().sum(1, keepdim=True), paper_force(W, norm))


def test_force_leads_to_low_rank_and_leaves_zero_rows():
    w = W.clone()
    w[2] = 0
    for _ in range(400):
        w = Force(0.01).prox(w, 1.0)
    s = torch.linalg.svdvals(w)
    assert s[1] < 1e-3 * s[0] and not w[2].any()
    with pytest.raises(TautError, match="'l1'"):
        Force(norm="l3")


@pytest.mark.parametrize("energy", [0.5, 0.9, 1.0])
def test_trained_rank_is_the_truncated_decomposition_and_the_subgradient(energy):
    u, s, vt = np.linalg.svd(W.numpy(), full_matrices=False)
    held = np.cumsum(s**2) / (s**2).sum()
    k = next(k for k in range(1, len(s) + 1) if held[k - 1] >= energy - 1e-12)
    expected = (u[:, :k] * s[:k]) @ vt[:k] - 0.02 * u[:, :k] @ vt[:k]
    assert np.allclose(TrainedRank(0.04, energy).prox(W, 0.5).numpy(), expected)
    with pytest.raises(TautError, match="share"):
        TrainedRank(energy=1.5)


def test_trained_rank_keeps_the_rank_however_short_the_step():
    for step in (1e-6, 1e-2):
        assert int(torch.linalg.matrix_rank(TrainedRank(0.1, 0.6).prox(W, step), rtol=1e-9)) < 5
    spatial = TrainedRank(0.0, 0.5, view="matrix2").prox(CONV, 1.0)
    assert int(torch.linalg.matrix_rank(spatial.permute(0, 2, 1, 3).reshape(12, 6), rtol=1e-9)) < 6


def rank_objective(w, alpha, mu):
    """Every rank's price and distance, by really decomposing: rank 0 is the zero weight, full rank the dense one."""
    full = min(w.shape)
    found = [0.5 * mu * float(w.square().sum())]
    for r in range(1, full + 1):
        code = LowRank(rank=r).compress(w)
        found.append(alpha * code.cost().parameters + 0.5 * mu * float((w - code.decompress()).square().sum()))
    return found


@pytest.mark.parametrize(("alpha", "mu"), [(1e-3, 1.0), (0.02, 1.0), (0.1, 1.0), (1.0, 1.0), (0.1, 20.0)])
def test_learned_rank_against_every_rank(alpha, mu):
    priced = LearnedRank(alpha, mu)
    every = rank_objective(W, alpha, mu)
    assert float(priced.value(W)) == pytest.approx(min(every))
    rank = priced.rank(W)
    assert every[rank] == pytest.approx(min(every))
    compressed = LowRank(rank=rank).compress(W).decompress() if rank else torch.zeros_like(W)
    assert torch.allclose(priced.c_step(W), compressed, atol=1e-9)
    ranks = [priced.rank(W, tightening) for tightening in (0.1, 0.5, 1.0, 2.0, 100.0)]
    assert ranks == sorted(ranks), "a tighter pull never asks for a smaller rank"


def test_learned_rank_least_strength():
    priced = LearnedRank(alpha=0.01)
    least = priced.least_strength(W)
    assert LearnedRank(0.01, 1.001 * least).rank(W) >= 1 and LearnedRank(0.01, 0.999 * least).rank(W) == 0
    assert priced.least_strength(torch.zeros(3, 4)) == math.inf
    with pytest.raises(TautError, match="view"):
        LearnedRank(view="rows")
