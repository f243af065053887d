"""Removing neurons on every network of the table."""

import pytest
from laws import shrink_laws as laws

from taut.resize import resize
from taut.shrink import remove_zeros, shrink

CASES = pytest.mark.parametrize("case", laws.CASES, ids=lambda case: case.name)


@CASES
def test_equals_masking(case):
    laws.check_equals_masking(shrink, case)


@CASES
def test_really_smaller(case):
    laws.check_really_smaller(shrink, case)


@CASES
def test_input_untouched(case):
    laws.check_input_untouched(shrink, case)


@CASES
@pytest.mark.parametrize("importance", ["magnitude", "random"])
def test_deterministic(case, importance):
    laws.check_deterministic(shrink, case, importance=importance, seed=5)


@CASES
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_monotone(case, scope):
    laws.check_monotone(shrink, case, scope)


@CASES
def test_loads_into_fresh(case):
    laws.check_loads_into_fresh(shrink, resize, case)


@CASES
@pytest.mark.parametrize("how", ["unread", "unmade"])
def test_zeros_removed(case, how):
    laws.check_zeros_removed(remove_zeros, case, how)


@CASES
@pytest.mark.parametrize("how", ["unread", "unmade"])
def test_zeros_rounded(case, how):
    laws.check_zeros_rounded(remove_zeros, case, how)
