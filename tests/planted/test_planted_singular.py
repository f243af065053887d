"""Each law of thresholding singular values turns red on a method that breaks it."""

import pytest
import torch
from laws import singular_laws as laws
from laws.test_singular_laws import MATRICES, PATHS, way

from taut.numeric import polar, subspace


def rebuilt_hard(w, threshold, memory):
    """Hard instead of soft thresholding."""
    u, s, vt = torch.linalg.svd(w, full_matrices=False)
    return (u * (s * (s > threshold))) @ vt


def gram_in_single(w, threshold, memory):
    """Small singular values are lost in the rounding of their squares."""
    squares, u = torch.linalg.eigh(w @ w.mT)
    s = squares.clamp_min(0).sqrt()
    return w - (u * (threshold / s.clamp_min(threshold))) @ (u.mT @ w)


def in_place(w, threshold, memory):
    return w.copy_(laws.exact(w, threshold))


def rows_only(w, threshold, memory):
    """The lengths of rows in place of singular values: right for a matrix of orthogonal rows only."""
    norms = w.norm(dim=1, keepdim=True)
    return w * (1 - threshold / norms.clamp_min(threshold))


def soft_rank(w, threshold, memory):
    """Small values are only made small."""
    u, s, vt = torch.linalg.svd(w.double(), full_matrices=False)
    return ((u * torch.where(s > threshold, s - threshold, 0.02 * s)) @ vt).to(w)


def overwrites(w, threshold, memory):
    """The memory's tensor is used again in place."""
    memory.setdefault("basis", torch.zeros(w.shape)).add_(w)
    return laws.exact(w, threshold).to(w)


def wide(name, share=0.05):
    return MATRICES[name], share * float(torch.linalg.matrix_norm(MATRICES[name], 2)), 0.0


FAULTS = [
    (laws.check_one_call, rebuilt_hard, wide("wide")),
    (laws.check_one_call, gram_in_single, wide("ill", 1e-5)),
    (laws.check_one_call, in_place, wide("wide")),
    (laws.check_turned_over, rows_only, wide("wide")),
    (laws.check_path, rows_only, (*PATHS["slow"], 0.05)),
    (laws.check_rank, soft_rank, (*PATHS["low rank"], 0.0)),
    (laws.check_memory, overwrites, (*PATHS["slow"], 0.0)),
]


@pytest.mark.parametrize(("law", "fault", "case"), FAULTS, ids=lambda x: getattr(x, "__name__", "case"))
def test_planted_fault_is_found(law, fault, case):
    with pytest.raises(AssertionError):
        law(fault, case[0].clone() if isinstance(case[0], torch.Tensor) else case[0], *case[1:])


def test_a_basis_that_is_never_replaced_is_found(monkeypatch):
    monkeypatch.setattr(subspace, "TOLERANCE", float("inf"))
    with pytest.raises(AssertionError):
        laws.check_path(way("subspace"), *PATHS["turning"], 0.05)


def test_a_subspace_that_looks_at_nothing_new_is_found(monkeypatch):
    monkeypatch.setattr(subspace, "_probe", lambda w, q, seed: (q[:, :0], torch.zeros(())))
    monkeypatch.setattr(subspace, "GUARD", 0)
    with pytest.raises(AssertionError):
        laws.check_path(way("subspace"), *PATHS["arriving"], 0.05)


def test_polar_iterations_that_end_early_are_found(monkeypatch):
    monkeypatch.setattr(polar, "TOLERANCE", 1e3)
    with pytest.raises(AssertionError):
        laws.check_one_call(way("polar"), *wide("wide")[:2], 1e-3)


def test_every_law_has_a_planted_fault():
    assert {name for name in vars(laws) if name.startswith("check_")} == {law.__name__ for law, _, _ in FAULTS}
