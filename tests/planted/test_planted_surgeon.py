"""Each law of quantizing column by column turns red on a routine that breaks it."""

import numpy as np
import pytest
from laws import surgeon_laws as laws
from laws.surgeon_laws import Case
from laws.test_surgeon_laws import routine

from taut.numeric.surgeon import Bits, inverse_root, quantize_columns


def no_compensation(w, moments, gain, step, bits):
    """Every column by itself."""
    u = np.diag(1 / np.sqrt(np.diag(laws.damped(moments))))
    return quantize_columns(w, u, gain, step, bits)


def blocks_apart(w, moments, gain, step, bits):
    """What is left of a block is not handed on to the next."""
    u = inverse_root(moments)
    u[:64, 64:] = 0
    return quantize_columns(w, u, gain, step, bits)


def bits_are_free(w, moments, gain, step, bits):
    free = Bits(0 * bits.zero, 0 * bits.nonzero, 0 * bits.size)
    return quantize_columns(w, inverse_root(moments), gain, step, free)


def error_without_gain(w, moments, gain, step, bits):
    levels, error = routine(w, moments, gain, step, bits)
    return levels, error / gain.mean()


def turned_over(w, moments, gain, step, bits):
    """The last column first: as good, but another answer."""
    back = Bits(bits.zero[:, ::-1], bits.nonzero[:, ::-1], bits.size)
    levels, error = routine(np.ascontiguousarray(w[:, ::-1]), moments.flip(0, 1), gain, step, back)
    return levels[:, ::-1], error


FAULTS = [
    (laws.check_is_the_textbooks, no_compensation, Case(5, 12)),
    (laws.check_is_the_textbooks, blocks_apart, Case(3, 150)),
    (laws.check_is_the_textbooks, turned_over, Case(5, 12)),
    (laws.check_error_is_the_quadratic_form, no_compensation, Case(5, 12)),
    (laws.check_error_is_the_quadratic_form, error_without_gain, Case(5, 12)),
    (laws.check_near_the_best, no_compensation, Case(1, 5, 0.8, 10.0, 2)),
    (laws.check_near_the_best, bits_are_free, Case(1, 5, 0.4, 10.0, 2)),
]


@pytest.mark.parametrize(("law", "fault", "case"), FAULTS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_the_law_sees_the_fault(law, fault, case):
    law(routine, case)
    with pytest.raises(AssertionError):
        law(fault, case)
