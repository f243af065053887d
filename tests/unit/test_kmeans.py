"""Optimal 1-D k-means against kmeans1d, brute force, and its own promises."""

import itertools

import kmeans1d
import numpy as np
import pytest

from taut.errors import TautError
from taut.numeric import kmeans as module
from taut.numeric.kmeans import kmeans_1d, nearest


def error(values, weights, centers, index):
    return float((weights * (values - centers[index]) ** 2).sum())


def brute_force(values, weights, k, keep_zero):
    """The least error over all ways to cut the sorted distinct values into intervals, one of them perhaps at zero."""
    points = np.unique(values)
    mass = np.array([weights[values == p].sum() for p in points])
    least = np.inf
    for clusters in range(1, min(k, points.size) + 1):
        for inner in itertools.combinations(range(1, points.size), clusters - 1):
            pieces = [(points[a:b], mass[a:b]) for a, b in itertools.pairwise([0, *inner, points.size])]
            free = [float((m * (p - (m @ p) / max(m.sum(), 1e-300)) ** 2).sum()) for p, m in pieces]
            zero = [float((m * p**2).sum()) for p, m in pieces]
            if not keep_zero or clusters < k:
                least = min(least, sum(free))
            if keep_zero:
                least = min(least, min(sum(free) - f + z for f, z in zip(free, zero, strict=True)))
    return least


@pytest.mark.parametrize("seed", range(40))
def test_equals_kmeans1d(seed):
    rng = np.random.default_rng(seed)
    values = np.round(rng.standard_t(3, rng.integers(1, 300)), rng.integers(1, 6))
    k = int(rng.integers(1, 20))
    centers, index = kmeans_1d(values, k)
    reference = kmeans1d.cluster(values.tolist(), min(k, values.size))
    least = error(values, 1, np.array(reference.centroids), np.array(reference.clusters))
    assert error(values, 1, centers, index) == pytest.approx(least, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("keep_zero", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_equals_brute_force_with_weights(seed, keep_zero):
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(size=rng.integers(1, 11)) + rng.choice([-2, 0, 0, 1]), rng.integers(0, 4))
    weights = rng.random(values.size) ** 4 * (rng.random(values.size) < 0.9)
    weights = weights if weights.any() else np.ones_like(values)
    k = int(rng.integers(1, 6))
    centers, index = kmeans_1d(values, k, weights, keep_zero)
    assert error(values, weights, centers, index) == pytest.approx(
        brute_force(values, weights, k, keep_zero), rel=1e-9, abs=1e-12
    )
    assert not keep_zero or 0.0 in centers


@pytest.mark.parametrize("keep_zero", [False, True])
@pytest.mark.parametrize("size", [1, 5, 3000, 20_000])
@pytest.mark.parametrize("k", [1, 2, 7, 64])
def test_shape_of_the_answer(size, k, keep_zero):
    values = np.random.default_rng(size + k).normal(size=size).astype(np.float32)
    centers, index = kmeans_1d(values, k, keep_zero=keep_zero)
    assert centers.dtype == np.float64 and index.dtype == np.int64 and index.shape == (size,)
    assert (np.diff(centers) > 0).all() and centers.size <= k and centers.size <= np.unique(values).size + keep_zero
    distance = np.abs(values[:500, None] - centers)
    assert np.array_equal(distance[np.arange(len(distance)), index[:500]], distance.min(1)), "not the nearest center"
    again = kmeans_1d(values, k, keep_zero=keep_zero)
    assert np.array_equal(again[0], centers) and np.array_equal(again[1], index)
    if not keep_zero or k < 2:
        return
    assert (centers == 0).sum() == 1


@pytest.mark.parametrize("keep_zero", [False, True])
def test_idempotent_bit_for_bit(keep_zero):
    values = np.random.default_rng(0).normal(size=9000)
    centers, index = kmeans_1d(values, 16, keep_zero=keep_zero)
    again, same = kmeans_1d(centers[index], 16, keep_zero=keep_zero)
    assert np.array_equal(again[same], centers[index])


@pytest.mark.parametrize("k", [4, 16, 64, 256])
@pytest.mark.parametrize(("name", "allowed"), [("normal", 5e-4), ("laplace", 5e-4), ("standard_cauchy", 5e-3)])
def test_histogram_is_near_the_optimum(name, allowed, k, monkeypatch):
    values = getattr(np.random.default_rng(1), name)(size=20_000)
    histogram = error(values, 1, *kmeans_1d(values, k))
    monkeypatch.setattr(module, "EXACT", values.size)
    optimum = error(values, 1, *kmeans_1d(values, k))
    assert optimum * (1 - 1e-9) <= histogram <= optimum * (1 + allowed)


@pytest.mark.parametrize("keep_zero", [False, True])
def test_very_many_centers_are_near_the_optimum(keep_zero, monkeypatch):
    values = np.random.default_rng(3).normal(size=70_000)
    monkeypatch.setattr(module, "MANY", 500)
    centers, index = kmeans_1d(values, 1000, keep_zero=keep_zero)
    assert centers.size <= 1000 and (0.0 in centers) >= keep_zero
    monkeypatch.undo()
    assert error(values, 1, centers, index) <= 1.1 * error(values, 1, *kmeans_1d(values, 1000, keep_zero=keep_zero))


def test_histogram_with_weights_and_zero_is_near_the_optimum(monkeypatch):
    rng = np.random.default_rng(2)
    values = np.r_[np.zeros(3000), rng.normal(0.3, 1, 9000)]
    weights = rng.random(values.size) ** 3
    histogram = error(values, weights, *kmeans_1d(values, 32, weights, True))
    monkeypatch.setattr(module, "EXACT", values.size)
    optimum = error(values, weights, *kmeans_1d(values, 32, weights, True))
    assert optimum * (1 - 1e-9) <= histogram <= optimum * (1 + 5e-4)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_any_scale(scale):
    values = np.array([-1.0, -0.9, 0.0, 0.05, 2.0])
    centers, index = kmeans_1d(values * scale, 3)
    assert index.tolist() == [0, 0, 1, 1, 2]
    assert np.allclose(centers / scale, [-0.95, 0.025, 2.0])


def test_far_from_zero_and_weights_of_any_size():
    values = 1000 + np.array([0.0, 0.001, 0.5, 0.501])
    assert np.allclose(kmeans_1d(values, 2)[0], [1000.0005, 1000.5005], rtol=0, atol=1e-9)
    light = kmeans_1d(values, 2, np.full(4, 1e-200))
    assert np.array_equal(light[0], kmeans_1d(values, 2)[0])
    # a weight of zero has no say, and is still assigned
    centers, index = kmeans_1d([0.0, 1.0, 50.0], 2, [1.0, 1.0, 0.0])
    assert centers.tolist() == [0.0, 1.0] and index.tolist() == [0, 1, 1]
    assert kmeans_1d([3.0, 3.0], 5, [0.0, 0.0])[0].tolist() == [3.0]


def test_zero_that_nobody_needs_is_kept():
    assert kmeans_1d([1.0, 2.0], 2, keep_zero=True)[0].tolist() == [0.0, 1.5]
    assert kmeans_1d([1.0, 2.0], 1, keep_zero=True)[0].tolist() == [0.0]
    assert kmeans_1d([1.0, 2.0], 3, keep_zero=True)[0].tolist() == [0.0, 1.0, 2.0]
    assert kmeans_1d([-0.0, 0.0], 3, keep_zero=True)[0].tolist() == [0.0]


def test_nearest_takes_the_lower_at_a_tie():
    assert nearest(np.array([-1.0, 1.0]), np.array([0.0, 1e-300])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([], 2), "no values"),
        (([1.0, np.nan], 2), "1 of 2 values are NaN"),
        (([1.0, np.inf], 2), "infinite"),
        (([1.0], 0), "k=0"),
        (([1.0, 2.0], 2, [1.0]), "1 weights for 2 values"),
        (([1.0, 2.0], 2, [1.0, -1.0]), "not negative"),
        (([1.0, 2.0], 2, [1.0, np.nan]), "finite"),
    ],
)
def test_errors(arguments, said):
    with pytest.raises(TautError, match=said):
        kmeans_1d(*arguments)
