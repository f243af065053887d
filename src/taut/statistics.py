"""How sure a measured accuracy is: an interval for one network, and a paired comparison of two on the same examples."""

from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from taut.errors import TautError


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval ``(low, high)`` for the proportion ``successes / n``.

    It stays inside [0, 1] and has a width even at 0 and n successes, where the textbook interval claims certainty. Source:
    Wilson, 1927.

    Raises:
        TautError: no trials, more successes than trials, or a level outside (0, 1).

    Example:
        >>> low, high = wilson(990, 1000)
        >>> round(low, 4), round(high, 4)
        (0.9817, 0.9946)
    """
    if not 0 <= successes <= n or n < 1:
        raise TautError(f"{successes} successes of {n} trials is no proportion: need 0 <= successes <= n and n >= 1")
    z = _quantile(level)
    share = successes / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # at the ends the exact bound is the end itself: rounding must not move it
    return (0.0 if successes == 0 else center - half), (1.0 if successes == n else center + half)


def mcnemar(before: ArrayLike, after: ArrayLike) -> float:
    """The exact two-sided p-value that two networks are right equally often, from their answers on the same examples.

    Only the examples on which exactly one of them is right tell anything: under the hypothesis each is a fair coin. Source:
    McNemar, 1947, with the binomial in place of its approximation.

    Example:
        >>> mcnemar([True, True, True, False], [False, False, False, False])
        0.25
    """
    _, lost, gained, _ = _table(before, after)
    n = lost + gained
    term = tail = 1
    for k in range(1, min(lost, gained) + 1):
        term = term * (n - k + 1) // k
        tail += term
    # whole numbers throughout: no rounding and no underflow for any number of examples
    return min(1.0, 2 * tail / 2**n)


def paired_difference(before: ArrayLike, after: ArrayLike, level: float = 0.95) -> tuple[float, float, float, float]:
    """How much more often ``after`` is right than ``before``, on the same examples: ``(difference, low, high, p_value)``.

    ``before`` and ``after`` are boolean, one entry an example. The interval is the square-and-add one for paired
    proportions (Newcombe, 1998, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", method 10), which has a width even when the networks agree everywhere; the p-value is :func:`mcnemar`'s.

    No examples, arrays of two lengths or kinds, or a level outside (0, 1) are a :class:`TautError`.

    Example:
        >>> difference, low, high, p = paired_difference([True] * 90 + [False] * 10, [True] * 88 + [False] * 12)
        >>> round(difference, 4), low < difference < high, p
        (-0.02, True, 0.5)
    """
    both, lost, gained, neither = _table(before, after)
    n = both + lost + gained + neither
    share_before, share_after = (both + lost) / n, (both + gained) / n
    low_before, high_before = wilson(both + lost, n, level)
    low_after, high_after = wilson(both + gained, n, level)
    tie = _correlation(both, lost, gained, neither)

    def reach(a: float, b: float) -> float:
        return sqrt(max(0.0, a * a - 2 * tie * a * b + b * b))

    difference = (gained - lost) / n
    low = difference - reach(share_after - low_after, high_before - share_before)
    high = difference + reach(high_after - share_after, share_before - low_before)
    return difference, max(-1.0, low), min(1.0, high), mcnemar(before, after)


def _correlation(both: int, lost: int, gained: int, neither: int) -> float:
    """The phi coefficient of the two answers, a positive one corrected for continuity as Newcombe's method 10 asks."""
    margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    if not margins:
        return 0.0
    cross: float = both * neither - lost * gained
    if cross > 0:
        cross = max(cross - (both + lost + gained + neither) / 2, 0)
    return cross / sqrt(margins)


def _table(before: ArrayLike, after: ArrayLike) -> tuple[int, int, int, int]:
    """Examples that both got right, that were lost, that were gained, that both got wrong."""
    first, second = np.asarray(before), np.asarray(after)
    if first.shape != second.shape or first.ndim != 1 or not first.size or first.dtype != bool or second.dtype != bool:
        raise TautError(
            f"a paired comparison needs two boolean arrays of one length, not {first.dtype} {first.shape} and "
            f"{second.dtype} {second.shape}"
        )
    both, lost, gained = (int(np.count_nonzero(part)) for part in (first & second, first & ~second, ~first & second))
    return both, lost, gained, first.size - both - lost - gained


def _quantile(level: float) -> float:
    if not 0 < level < 1:
        raise TautError(f"a confidence level lies between 0 and 1, not {level}")
    return NormalDist().inv_cdf(0.5 + level / 2)
