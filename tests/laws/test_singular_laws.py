"""Every way of thresholding singular values against the exact one, alone and along a training."""

from functools import partial

import pytest
import torch
from laws import singular_laws as laws

from taut.numeric.thresholding import METHODS, threshold_singular_values

# of what a step changes
TOLERANCE = {"svd": 0.0, "gram": 0.0, "polar": 1e-3, "subspace": 0.05, "auto": 0.05}


def way(method):
    return partial(lambda method, w, threshold, memory: threshold_singular_values(w, threshold, method, memory), method)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def low_rank(rows, columns, rank, seed=0):
    return normal(rows, rank, seed=seed) @ normal(rank, columns, seed=seed + 1) / rank**0.5


def few_rows(live, rank):
    """Most rows zero, as group sparsity leaves them: single precision fails on the Gram matrix of many such."""
    w = torch.zeros(300, 400)
    w[torch.randperm(300, generator=torch.Generator().manual_seed(live))[:live]] = low_rank(live, 400, rank, seed=rank)
    return w


MATRICES = {
    "wide": normal(40, 70),
    "tall": normal(70, 30),
    "square": normal(48, 48),
    "low rank": low_rank(40, 60, 5),
    "ill": normal(24, 40) * torch.logspace(0, -6, 24)[:, None],
    "one": normal(1, 1),
    "large": 1e25 * normal(20, 30),
    "small": 1e-25 * normal(20, 30),
    **{f"{live} rows of 300": few_rows(live, rank) for live, rank in ((98, 10), (106, 29), (110, 29), (21, 5))},
}
SHARES = (1e-3, 0.05, 0.5)  # thresholds, as shares of the largest singular value


def steady(count, size, shape, seed):
    return [size * normal(*shape, seed=seed + i) for i in range(count)]


def arriving(count):
    """Low rank with a little noise, and from the fifth call a direction that was not there."""
    new = torch.outer(normal(64, seed=8), normal(96, seed=9)) / 40
    return [low_rank(64, 96, 4), *(c + new * (4 <= i < 8) for i, c in enumerate(steady(count, 2e-3, (64, 96), 50)))]


PATHS = {  # a start, the changes between two calls, and the threshold
    "slow": ([normal(60, 90), *steady(8, 2e-3, (60, 90), 10)], 0.02),
    "turning": ([normal(60, 90), *steady(6, 0.4, (60, 90), 20)], 0.05),
    "low rank": ([low_rank(64, 96, 4), *steady(8, 2e-3, (64, 96), 30)], 0.1),
    "falling": ([normal(60, 90), *steady(10, 0.05, (60, 90), 40)], 1.6),
    "arriving": (arriving(10), 0.1),
    "tall": ([low_rank(96, 64, 6), *steady(6, 2e-3, (96, 64), 60)], 0.1),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("w", MATRICES.values(), ids=MATRICES)
def test_one_call(method, w):
    size = float(torch.linalg.matrix_norm(w.double(), 2))
    for share in SHARES:
        laws.check_one_call(way(method), w, share * size, TOLERANCE[method])
        laws.check_turned_over(way(method), w, share * size, TOLERANCE[method])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("path", "threshold"), PATHS.values(), ids=PATHS)
def test_along_a_training(method, path, threshold):
    laws.check_path(way(method), path, threshold, TOLERANCE[method])
    laws.check_memory(way(method), path, threshold, TOLERANCE[method])


@pytest.mark.parametrize("method", ["svd", "gram", "subspace"])
@pytest.mark.parametrize("name", ["low rank", "arriving", "tall"])
def test_low_rank_stays_exact(method, name):
    laws.check_rank(way(method), *PATHS[name], TOLERANCE[method])


def test_a_slow_training_takes_one_decomposition_and_a_low_rank_keeps_few_directions():
    memory = laws.check_path(way("subspace"), *PATHS["slow"], 0.05)
    assert memory["fresh"] == 1 and memory["calls"] == 8 and memory["basis"].shape == (60, 60)
    memory = laws.check_path(way("subspace"), *PATHS["low rank"], 0.05)
    assert memory["fresh"] == 1 and memory["basis"].shape == (64, 12)


@pytest.mark.parametrize("method", ["gram", "subspace", "polar"])
def test_double_precision(method):
    w = MATRICES["wide"].double()
    laws.check_one_call(way(method), w, 0.5, TOLERANCE[method] if method != "gram" else 1e-9)
