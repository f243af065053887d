"""The laws of quantizing column by column, on problems within a block, across blocks, and with inputs that are independent."""

import numpy as np
import pytest
import torch
from laws import surgeon_laws as laws
from laws.surgeon_laws import Case

from taut.numeric import surgeon
from taut.numeric.surgeon import inverse_root, quantize_columns

CASES = [
    Case(5, 12), Case(3, 63), Case(4, 64), Case(2, 65), Case(3, 150), Case(4, 30, alike=0.0), Case(4, 30, gain=1e4, most=40),
    Case(4, 30, gain=1e-3), Case(1, 1), Case(3, 20, seed=5),
]  # fmt: skip


def routine(w, moments, gain, step, bits):
    return quantize_columns(w, inverse_root(moments), gain, step, bits)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("check", [laws.check_is_the_textbooks, laws.check_error_is_the_quadratic_form])
def test_law(check, case):
    check(routine, case)


@pytest.mark.parametrize("alike", [0.0, 0.4, 0.8])
def test_near_the_best_of_all(alike):
    laws.check_near_the_best(routine, Case(1, 5, alike, gain=10.0, most=2))


def test_the_weights_given_are_not_changed():
    w, *rest = Case(4, 70).draw()
    before = w.copy()
    routine(w, *rest)
    assert np.array_equal(w, before)


@pytest.mark.parametrize("n", [1, 7, 80])
def test_the_root_is_that_of_the_inverse(n):
    x = torch.randn(2 * n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    moments = x.T @ x
    u = inverse_root(moments)
    assert np.array_equal(u, np.triu(u))
    np.testing.assert_allclose(u.T @ u @ laws.damped(moments), np.eye(n), atol=1e-9)


def test_inputs_that_were_never_seen_are_no_error():
    assert np.isfinite(inverse_root(torch.zeros(4, 4))).all()
    assert surgeon.DAMPING > 0
