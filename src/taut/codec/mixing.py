"""Context mixing in whole numbers: many predictions of one bit become one, and all of them learn from the bit.

Predictions are logits in units of 1/256. A mixer adds them up with weights that follow the gradient of the code length, as a
logistic regression does online (Mahoney 2005, "Adaptive weighing of context models for lossless data compression"). There is no
floating point anywhere, so that both sides, on any machine, get the same frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from taut.codec.coder import PRECISION, TOTAL

Sizes = tuple[int, int, int]
"""The inputs of a model, how many of them are counters, and how slowly its mixers learn: by steps of ``2**-slow``."""
UNIT = 256
"""One in a logit."""
REACH = 12 * UNIT - 1
"""The largest logit."""
CERTAIN = 64
"""The least frequency of a bit."""
ONE = 1 << 16
"""A weight, or a probability, of one."""
COUNTERS = 4096
"""Counters of one input."""
SLOWEST = 255
"""A counter learns at least as fast as one that has seen so many bits."""


def _squash() -> np.ndarray:
    """Frequencies, ``2**24 / (1 + exp(-x / 256))`` for the logits ``-REACH … REACH``, by whole numbers of any length."""
    bits, root, term = 96, 0, 1 << 96
    for k in range(1, 24):  # the series of exp(1 / 256)
        root, term = root + term, term // (k * UNIT)
    table, power = np.zeros(2 * REACH + 1, dtype=np.int64), 1 << bits
    for x in range(REACH + 1):  # power is exp(x / 256)
        table[REACH + x] = (power << PRECISION) // (power + (1 << bits))
        table[REACH - x] = TOTAL - table[REACH + x]
        power = power * root >> bits
    return np.clip(table, CERTAIN, TOTAL - CERTAIN).astype(np.int32)


SQUASH = _squash()  # tables are narrow: numba writes them out into what it compiles, number by number
STRETCH = (np.searchsorted(SQUASH, (2 * np.arange(4096) + 1) << (PRECISION - 13)) - REACH).astype(np.int16)
"""The logit of a probability in units of 1/4096."""
LOG = (np.searchsorted(SQUASH, (np.arange(4096) << PRECISION) // (np.arange(4096) + UNIT)) - REACH).astype(np.int16)
"""The logarithm of a ratio in units of 1/256, itself in units of 1/256."""
RATE = (2 * ONE // (2 * np.arange(SLOWEST + 1) + 3)).astype(np.int32)
"""How far a counter moves towards a bit, after so many."""


@njit(cache=True, inline="always")
def take(coder: np.ndarray, ones: int) -> int:
    """Decode one bit under its frequency; ``coder`` holds the state of the ANS decoder, how many words are left, and those."""
    one, zero, state = np.uint64(ones), np.uint64(TOTAL - ones), coder[0]
    slot, rest = state & np.uint64(TOTAL - 1), state >> np.uint64(PRECISION)
    bit = 0 if slot < zero else 1
    now = rest * zero + slot if bit == 0 else rest * one + (slot - zero)
    if now < np.uint64(1 << 32) and coder[1] > 0:
        coder[1] -= np.uint64(1)
        now = now << np.uint64(32) | coder[np.uint64(2) + coder[1]]
    coder[0] = now
    return bit


def memory(inputs: Sequence[int], counters: int, weights: np.ndarray, chance: int) -> np.ndarray:
    """A model: its inputs, as they are at first, the weights of its mixers, a row each, and for each of its counters the chances
    and how often they were seen.

    It is one array, since compiled code counts references to each of several, for every bit.
    """
    head = np.concatenate([np.array(inputs, dtype=np.int64), weights.reshape(-1)])
    seen = np.zeros((counters * COUNTERS, 2), dtype=np.int64)
    seen[:, 0] = chance
    return np.concatenate([head, seen.reshape(-1)])


@njit(cache=True, inline="always")
def place(sizes: Sizes, model: np.ndarray, i: int, context: int) -> np.uint64:
    """Where in a model the chance of its ``i``-th counter at a context is; how often it was seen comes next.

    Unsigned, as are all places that are looked up for every bit: a signed one might count from the end, which is looked at.
    """
    return np.uint64(len(model) - 2 * (COUNTERS * (sizes[1] - i) - context))


@njit(cache=True, inline="always")
def stretch(chance: int) -> int:
    """The logit of a chance in units of 1/65536."""
    return STRETCH[np.uint64(chance >> 4)]


@njit(cache=True, inline="always")
def decide(
    sizes: Sizes, model: np.ndarray, mixer: int, context: np.ndarray, coder: np.ndarray, freqs: np.ndarray, at: int, bit: int
) -> int:
    """One bit: predicted by the counters at the ``context``, coded into ``freqs[at]`` or, without ``freqs``, decoded, and learnt.

    The inputs that are not counters come first, and are the caller's. A counter moves towards the bit by 1 / (n + 1.5) after n
    bits; the weights of the ``mixer`` move along the gradient of the bit's code length.
    """
    count, more, slow = sizes
    first, total = count * (1 + mixer), 0
    for i in range(more):
        model[count - more + i] = stretch(model[place(sizes, model, i, context[i])])
    for i in range(count):
        total += model[np.uint64(first + i)] * model[i]
    ones = SQUASH[np.uint64(min(max(total >> 16, -REACH), REACH) + REACH)]
    if len(freqs):
        freqs[at] = ones
    else:
        bit = take(coder, ones)
    error, half = (bit << 16) - (ones >> 8), 1 << (slow - 1)
    for i in range(count):
        model[np.uint64(first + i)] += (error * model[i] + half) >> slow
    for i in range(more):
        here = place(sizes, model, i, context[i])
        n = model[here + np.uint64(1)]
        model[here] += (((ONE - 1) * bit - model[here]) * RATE[np.uint64(n)]) >> 16
        model[here + np.uint64(1)] = min(n + 1, SLOWEST)
    return bit
