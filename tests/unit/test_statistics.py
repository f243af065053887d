from itertools import product
from math import comb, isclose

import numpy as np
import pytest
from scipy.stats import binomtest

from taut.errors import TautError
from taut.statistics import mcnemar, paired_difference, wilson


def paired(both: int, lost: int, gained: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    before = np.repeat([True, True, False, False], [both, lost, gained, neither])
    after = np.repeat([True, False, True, False], [both, lost, gained, neither])
    return before, after


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 300), (300, 300), (7, 10), (9871, 10_000), (1, 10_000)])
def test_wilson_is_scipys(successes, n, level):
    expected = binomtest(successes, n).proportion_ci(level, method="wilson")
    assert wilson(successes, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("p", [0.5, 0.9, 0.98])
def test_wilson_covers_by_enumeration(p):
    """The chance that the interval holds the truth, summed over every outcome: near the level on average."""
    cover = []
    for n in range(50, 120):
        inside = [wilson(k, n)[0] <= p <= wilson(k, n)[1] for k in range(n + 1)]
        cover.append(sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1) if inside[k]))
    assert 0.94 < np.mean(cover) < 0.98


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (0, 6), (3, 3), (5, 9), (40, 17), (700, 640)])
def test_mcnemar_is_the_binomial_test(lost, gained):
    before, after = paired(20, lost, gained, 3)
    expected = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert isclose(mcnemar(before, after), expected, rel_tol=1e-9)


def test_mcnemar_by_enumeration():
    """Every way that the networks can disagree, counted."""
    for lost, gained in [(1, 4), (2, 5), (0, 8), (4, 4)]:
        n = lost + gained
        extreme = sum(abs(sum(coins) - n / 2) >= abs(lost - n / 2) for coins in product([0, 1], repeat=n))
        assert mcnemar(*paired(0, lost, gained, 0)) == extreme / 2**n


def test_mcnemar_of_many_examples_neither_overflows_nor_underflows():
    assert 0 <= mcnemar(*paired(0, 10_000, 0, 0)) < 1e-300
    assert mcnemar(*paired(0, 5_000, 5_000, 0)) == 1.0


@pytest.mark.parametrize(
    "table", [(90, 5, 3, 2), (98, 0, 0, 2), (100, 0, 0, 0), (0, 10, 0, 0), (0, 0, 0, 5), (1, 4, 4, 1), (9800, 40, 25, 135)]
)
def test_difference_lies_in_its_interval_and_turns_with_the_order(table):
    before, after = paired(*table)
    difference, low, high, p = paired_difference(before, after)
    assert difference == pytest.approx(after.mean() - before.mean(), abs=1e-12)
    assert -1 <= low <= difference <= high <= 1
    assert low < high
    assert paired_difference(after, before) == pytest.approx((-difference, -high, -low, p), abs=1e-12)
    wide = paired_difference(before, after, level=0.99)
    assert wide[1] <= low and high <= wide[2]


def test_difference_of_a_published_example():
    """Newcombe (1998) works out method 10 for 36 agreeing, 12 against 2 disagreeing, none wrong in both."""
    difference, low, high, _ = paired_difference(*paired(36, 2, 12, 0))
    assert (difference, low, high) == pytest.approx((0.2, 0.0569, 0.3404), abs=5e-5)


@pytest.mark.parametrize(("lost", "gained", "both"), [(0.1, 0.1, 0.7), (0.05, 0.15, 0.75), (0.02, 0.02, 0.94)])
def test_difference_covers_by_enumeration(lost, gained, both):
    """The chance that the interval holds the true difference, summed over every table of 30 examples."""
    n, cover = 30, 0.0
    shares = (both, lost, gained, 1 - both - lost - gained)
    for a, b, c in product(range(n + 1), repeat=3):
        d = n - a - b - c
        if d < 0:
            continue
        chance = comb(n, a) * comb(n - a, b) * comb(n - a - b, c)
        chance *= shares[0] ** a * shares[1] ** b * shares[2] ** c * shares[3] ** d
        if chance < 1e-6:
            continue
        _, low, high, _ = paired_difference(*paired(a, b, c, d))
        cover += chance * (low <= gained - lost <= high)
    assert cover > 0.93


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson(3, 2),
        lambda: wilson(0, 0),
        lambda: wilson(1, 2, level=1.0),
        lambda: mcnemar([True], [True, False]),
        lambda: mcnemar([], []),
        lambda: paired_difference([1, 0], [0, 1]),
        lambda: paired_difference([True], [True], level=0),
    ],
)
def test_bad_input_is_one_clear_error(call):
    with pytest.raises(TautError):
        call()
