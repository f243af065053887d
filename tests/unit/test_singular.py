"""Singular values against plain decompositions in double precision."""

import pytest
import torch

from taut.errors import TautError
from taut.numeric import singular
from taut.numeric.shrinkage import shrink_rows, soft_threshold
from taut.numeric.singular import rank_for_energy, shrink_singular_values, singular_values, svd
from taut.numeric.symmetric import eigh


def matrix(rows, columns, rank=None, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    if rank is None:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype)
    left, right = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((rows, rank), (rank, columns)))
    return (left @ right).to(dtype)


MATRICES = {
    "square": matrix(20, 20),
    "tall": matrix(90, 7),
    "wide": matrix(7, 90),
    "rank 2": matrix(15, 40, rank=2),
    "zero": torch.zeros(5, 3),
    "ill": matrix(12, 30) * torch.logspace(0, -9, 12)[:, None],
    "large values": matrix(8, 8) * 1e30,
    "small values": matrix(8, 8) * 1e-30,
}
CASES = pytest.mark.parametrize("w", MATRICES.values(), ids=MATRICES)


def reference_shrink(w, threshold):
    u, s, vt = torch.linalg.svd(w.double(), full_matrices=False)
    return (u * (s - threshold).clamp_min(0)) @ vt


def assert_thin_svd(parts, w, tolerance):
    u, s, vt = (p.double() for p in parts)
    size = float(torch.linalg.matrix_norm(w.double(), 2)) or 1.0
    assert torch.allclose(u * s @ vt, w.double(), rtol=0, atol=tolerance * size)
    assert torch.allclose(s, torch.linalg.svdvals(w.double()), rtol=0, atol=tolerance * size)
    eye = torch.eye(s.numel(), dtype=torch.float64)
    assert torch.allclose(u.mT @ u, eye, atol=1e-5) and torch.allclose(vt @ vt.mT, eye, atol=1e-5)
    assert bool((s.diff() <= 0).all()) and bool((s >= 0).all())


@CASES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_svd(w, dtype):
    assert_thin_svd(svd(w.to(dtype)), w.to(dtype), 1e-5)
    assert svd(w.to(dtype))[0].dtype == dtype


@CASES
def test_fallback_is_a_thin_svd_too(w, monkeypatch):
    def fails(*_args, **_keywords):
        raise torch.linalg.LinAlgError("svd: the algorithm failed to converge")

    expected = singular_values(w)
    monkeypatch.setattr(torch.linalg, "svd", fails)
    parts, values = svd(w), None
    monkeypatch.undo()
    assert_thin_svd(parts, w, 1e-5)
    monkeypatch.setattr(torch.linalg, "svdvals", fails)
    values = singular_values(w)
    monkeypatch.undo()
    assert torch.allclose(values, expected, rtol=0, atol=1e-5 * float(expected.max()))


@CASES
@pytest.mark.parametrize("share", [0.0, 1e-4, 0.3, 0.99, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shrink_equals_the_exact_one(w, share, dtype):
    w = w.to(dtype)
    largest = float(torch.linalg.matrix_norm(w.double(), 2))
    kept = w.clone()
    shrunk = shrink_singular_values(w, share * largest)
    assert torch.equal(w, kept) and shrunk.dtype == dtype
    tolerance = 2e-7 if dtype == torch.float32 else 1e-14
    assert torch.allclose(shrunk.double(), reference_shrink(w, share * largest), rtol=0, atol=tolerance * largest)
    if share == 0:
        assert torch.equal(shrunk, w)
    if share > 1:
        assert not shrunk.any()


def test_subtraction_beats_rebuilding_in_fp32():
    w = matrix(200, 300)
    exact = reference_shrink(w, 1e-3)
    u, s, vt = torch.linalg.svd(w, full_matrices=False)
    rebuilt = (u * (s - 1e-3).clamp_min(0)) @ vt
    ours = shrink_singular_values(w, 1e-3)
    assert float((ours.double() - exact).norm()) < 0.1 * float((rebuilt.double() - exact).norm())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    w = matrix(6, 9, dtype=dtype)
    assert svd(w)[1].dtype == torch.float32
    shrunk = shrink_singular_values(w, 0.5)
    assert shrunk.dtype == dtype
    assert torch.equal(shrunk, shrink_singular_values(w.float(), 0.5).to(dtype))


def test_gradient_of_singular_values_at_zero_has_no_nan():
    for w in (torch.zeros(4, 3), matrix(4, 3, rank=1)):
        leaf = w.clone().requires_grad_()
        singular_values(leaf).sum().backward()
        assert bool(torch.isfinite(leaf.grad).all())


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty(shape):
    assert singular_values(torch.zeros(shape)).numel() == 0
    assert shrink_singular_values(torch.zeros(shape), 1.0).shape == shape


@pytest.mark.parametrize(
    ("values", "energy", "rank"),
    [
        ([3.0, 2.0, 1.0], 0.0, 0),
        ([3.0, 2.0, 1.0], 9 / 14, 1),
        ([3.0, 2.0, 1.0], 9.1 / 14, 2),
        ([1.0, 3.0, 2.0], 0.9, 2),
        ([3.0, 2.0, 1.0], 1.0, 3),
        ([3.0, 2.0, 0.0], 1.0, 2),
        ([0.0, 0.0], 0.9, 0),
        ([], 0.5, 0),
    ],
)
def test_rank_for_energy(values, energy, rank):
    assert rank_for_energy(torch.tensor(values), energy) == rank


def test_errors():
    bad = torch.ones(2, 2)
    bad[0, 0] = torch.nan
    for call in (svd, singular_values, lambda w: shrink_singular_values(w, 1.0)):
        with pytest.raises(TautError, match="1 NaN or infinite"):
            call(bad)
        with pytest.raises(TautError, match=r"shape \(2, 2, 2\)"):
            call(torch.ones(2, 2, 2))
        with pytest.raises(TautError, match="int64"):
            call(torch.ones(2, 2, dtype=torch.int64))
    for threshold in (-1.0, float("nan")):
        with pytest.raises(TautError, match="threshold"):
            shrink_singular_values(torch.ones(2, 2), threshold)
    with pytest.raises(TautError, match="between 0 and 1"):
        rank_for_energy(torch.ones(2), 1.5)


def test_shrinkage_is_exact_at_zero_and_makes_exact_zeros():
    w = matrix(5, 6)
    assert torch.equal(soft_threshold(w, 0.0), w) and torch.equal(shrink_rows(w, 0.0), w)
    assert not soft_threshold(w, float(w.abs().max())).any()
    assert not shrink_rows(w, float(w.norm(dim=1).max()) * 1.001).any()
    assert singular.working(w) is w


@pytest.mark.parametrize("how", ["an error", "NaN"])
def test_where_single_precision_fails_double_is_used(monkeypatch, how):
    given = torch.linalg.eigh

    def failing(m):
        if m.dtype == torch.float64:
            return given(m)
        if how == "an error":
            raise torch.linalg.LinAlgError("linalg.eigh: The algorithm failed to converge")
        return given(m)[0], torch.full_like(m, torch.nan)

    w = matrix(12, 20)
    gram = w @ w.T
    monkeypatch.setattr(torch.linalg, "eigh", failing)
    values, vectors = eigh(gram)
    assert values.dtype == vectors.dtype == torch.float32
    torch.testing.assert_close(vectors * values @ vectors.T, gram)


@pytest.mark.parametrize("seed", range(40))
def test_eigenvectors_where_most_rows_are_zero(seed):
    """Single precision fails on many of these as they are."""
    draw = torch.Generator().manual_seed(seed)
    live, rank = (int(torch.randint(low, high, (1,), generator=draw)) for low, high in ((0, 190), (1, 60)))
    w = torch.zeros(300, 400)
    w[torch.randperm(300, generator=draw)[:live]] = matrix(live, 400, rank=rank, seed=seed)
    gram = w @ w.T
    values, vectors = eigh(gram)
    size = max(float(values.abs().max()), 1e-30)
    assert (values.diff() >= 0).all()
    assert float((vectors.T @ vectors - torch.eye(300)).abs().max()) < 1e-5
    assert float((vectors * values @ vectors.T - gram).abs().max()) < 1e-5 * size


def test_no_decomposition_says_why():
    with pytest.raises(TautError, match=r"\(3, 3\): 1 of its values are NaN or infinite; lower the learning rate"):
        eigh(torch.diag(torch.tensor([1.0, torch.nan, 2.0])))
