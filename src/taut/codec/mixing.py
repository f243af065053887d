"""Context mixing in whole numbers: many predictions of one bit become one, and all of them learn from the bit.

Predictions are logits in units of 1/256. A mixer adds them up with weights that follow the gradient of the code length, as a
logistic regression does online (Mahoney 2005, "Adaptive weighing of context models for lossless data compression"). There is no
floating point anywhere, so that both sides, on any machine, get the same frequencies.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from taut.codec.coder import PRECISION, TOTAL

Coder = tuple[np.ndarray, np.ndarray, np.ndarray]
"""The state of the ANS decoder, how many of its words are left, and the words."""
Model = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Inputs; the weights of mixers, one after the other; for each of the last inputs, ``COUNTERS`` chances, and how many bits they
have seen."""
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
    return np.clip(table, CERTAIN, TOTAL - CERTAIN)


SQUASH = _squash()
STRETCH = (np.searchsorted(SQUASH, (2 * np.arange(4096) + 1) << (PRECISION - 13)) - REACH).astype(np.int64)
"""The logit of a probability in units of 1/4096."""
LOG = (np.searchsorted(SQUASH, (np.arange(4096) << PRECISION) // (np.arange(4096) + UNIT)) - REACH).astype(np.int64)
"""The logarithm of a ratio in units of 1/256, itself in units of 1/256."""
RATE = 2 * ONE // (2 * np.arange(SLOWEST + 1) + 3)
"""How far a counter moves towards a bit, after so many."""


@njit(cache=True, inline="always")
def take(coder: Coder, ones: int) -> int:
    """Decode one bit under its frequency."""
    state, left, words = coder
    one, zero = np.uint64(ones), np.uint64(TOTAL - ones)
    slot, rest = state[0] & np.uint64(TOTAL - 1), state[0] >> np.uint64(PRECISION)
    bit = 0 if slot < zero else 1
    now = rest * zero + slot if bit == 0 else rest * one + (slot - zero)
    if now < np.uint64(1 << 32) and left[0] > 0:
        left[0] -= 1
        now = now << np.uint64(32) | np.uint64(words[left[0]])
    state[0] = now
    return bit


@njit(cache=True, inline="always")
def decide(model: Model, mixer: int, context: np.ndarray, slow: int, coder: Coder, freqs: np.ndarray, at: int, bit: int) -> int:
    """One bit: predicted by the counters at the ``context``, coded into ``freqs[at]`` or, without ``freqs``, decoded, and learnt.

    The inputs that are not counters come first, and are the caller's. A counter moves towards the bit by 1 / (n + 1.5) after n
    bits; the weights of the ``mixer`` move along the gradient of the bit's code length.
    """
    inputs, weights, chances, seen = model
    count, more = len(inputs), len(context)
    first, own = mixer * count, count - more
    for i in range(more):
        inputs[own + i] = STRETCH[chances[i * COUNTERS + context[i]] >> 4]
    total = 0
    for i in range(count):
        total += weights[first + i] * inputs[i]
    ones = SQUASH[min(max(total >> 16, -REACH), REACH) + REACH]
    if len(freqs):
        freqs[at] = ones
    else:
        bit = take(coder, ones)
    error, half = (bit << 16) - (ones >> 8), 1 << (slow - 1)
    for i in range(count):
        weights[first + i] += (error * inputs[i] + half) >> slow
    for i in range(more):
        place = i * COUNTERS + context[i]
        n = seen[place]
        chances[place] += (((ONE - 1) * bit - chances[place]) * RATE[n]) >> 16
        seen[place] = min(n + 1, SLOWEST)
    return bit
