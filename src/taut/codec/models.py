"""Entropy models: how a model's parameters are stored, and how both sides derive the same integer frequencies from them.

Three models of small integers ``0 … k - 1``: a *table* of rounded counts, a *geometric* one with two parameters, and an
*adaptive* one that stores nothing and is refitted to what came before, at block ends.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from taut.codec.coder import Decoder, Encoder, code_bits, normalise
from taut.errors import FormatError

# round(64 * 2**(i/16)): a count is stored as a class, the rounded logarithm of the count
OCTAVE = np.array([64, 67, 70, 73, 76, 79, 83, 87, 91, 95, 99, 103, 108, 112, 117, 123], dtype=np.int64)
GRAINS = (1, 2, 4, 8, 16)  # classes an octave
SPREAD_BITS = 11  # bits of the alphabet of a table's class differences
MAX_CLASS = 32 * 16 + 1


def count_classes(counts: np.ndarray, grain: int) -> np.ndarray:
    """Class 0 for a count of 0, else 1 plus the logarithm rounded to ``grain`` steps an octave."""
    return np.where(counts > 0, 1 + np.rint(grain * np.log2(np.maximum(counts, 1))), 0).astype(np.int64)


def class_weights(classes: np.ndarray, grain: int) -> np.ndarray:
    """The counts that classes stand for, in 64ths."""
    octave, part = np.divmod((np.maximum(classes, 1) - 1) * (16 // grain), 16)
    return np.where(classes > 0, OCTAVE[part] << octave, 0)


def encode_adaptive(enc: Encoder, symbols: np.ndarray, size: int, decaying: bool = False) -> None:
    """Symbols below ``size`` under counts of what came before, refitted at block ends."""
    weights = _prior(size, decaying)
    for start, stop in _blocks(len(symbols)):
        block = symbols[start:stop]
        counts = np.bincount(block, minlength=size)
        enc.static(block, normalise(weights), counts=counts)
        weights += 32 * counts


def decode_adaptive(dec: Decoder, count: int, size: int, decaying: bool = False) -> np.ndarray:
    """The inverse of :func:`encode_adaptive`."""
    weights = _prior(size, decaying)
    out = np.zeros(count, dtype=np.int32)
    for start, stop in _blocks(count):
        out[start:stop] = dec.static(stop - start, normalise(weights))
        weights += 32 * np.bincount(out[start:stop], minlength=size)
    return out


def _prior(size: int, decaying: bool) -> np.ndarray:
    """Half an observation each (Krichevsky and Trofimov), or one, a half, a quarter … of one where small symbols are likely."""
    symbols = np.arange(size, dtype=np.int64)
    return np.maximum(1, 32 >> np.minimum(symbols, 6)) if decaying else np.full(size, 16, dtype=np.int64)


def _blocks(count: int) -> list[tuple[int, int]]:
    ends = [0]
    while ends[-1] < count:
        ends.append(min(count, ends[-1] + max(8, ends[-1] // 4)))
    return list(zip(ends, ends[1:], strict=False))


def encode_table(enc: Encoder, counts: np.ndarray) -> tuple[int, np.ndarray]:
    """Store rounded counts at the grain that makes table and symbols shortest; returns (grain's index, frequencies)."""
    best: tuple[float, int, Encoder, np.ndarray] | None = None
    for index, grain in enumerate(GRAINS):
        trial = Encoder()
        classes = count_classes(counts, grain)
        steps = np.diff(classes, prepend=0)
        folded = np.where(steps >= 0, 2 * steps, -2 * steps - 1)
        size = int(folded.max()) + 1
        trial.uniform(np.array([size - 1], dtype=np.int32), SPREAD_BITS)
        encode_adaptive(trial, folded, size, decaying=True)
        freqs = normalise(class_weights(classes, grain))
        bits = trial.bits + code_bits(counts, freqs)
        if best is not None and bits >= best[0]:
            break  # finer grains cost more table from here on
        best = bits, index, trial, freqs
    assert best is not None
    enc.extend(best[2])
    return best[1], best[3]


def decode_table(dec: Decoder, size: int, index: int) -> np.ndarray:
    """The frequencies that :func:`encode_table` stored."""
    if index >= len(GRAINS):
        raise FormatError(f"a table of counts has the unknown grain {index}")
    spread = int(dec.uniform(1, SPREAD_BITS)[0]) + 1
    folded = decode_adaptive(dec, size, spread, decaying=True).astype(np.int64)
    classes = np.cumsum(np.where(folded & 1, -(folded + 1) // 2, folded // 2))
    if len(classes) == 0 or classes.min() < 0 or classes.max() > MAX_CLASS or classes.max() == 0:
        raise FormatError("a table of counts is out of range")
    return normalise(class_weights(classes, GRAINS[index]))


@lru_cache(maxsize=256)
def geometric(size: int, centre: int, at_centre: int, decay: int) -> np.ndarray:
    """Frequencies falling by a constant factor on both sides of ``centre``.

    ``at_centre``: its probability in 256ths; ``decay``: one less the factor is ``(8 + decay % 8) / 16 * 2**-(decay // 8)``.
    """
    factor = 65536 - ((8 + decay % 8) << 12 >> (decay // 8))
    reach = max(centre, size - 1 - centre)
    side = np.zeros(reach + 1, dtype=np.int64)
    weight = 1 << 34
    for distance in range(1, reach + 1):
        side[distance] = weight
        weight = weight * factor >> 16
        if not weight:
            break
    weights = side[np.abs(np.arange(size) - centre)]
    total = max(int(weights.sum()) >> 8, 1)
    weights >>= max(0, total.bit_length() - 24)  # so that no product below overflows
    weights[centre] = max(1, (int(weights.sum()) * at_centre) // (256 - at_centre))
    return normalise(weights >> max(0, int(weights.sum()).bit_length() - 38))


def fit_geometric(counts: np.ndarray) -> tuple[int, int, int]:
    """(centre, at_centre, decay) of :func:`geometric`, from counts."""
    centre = int(np.argmax(counts))
    total, top = int(counts.sum()), int(counts[centre])
    rest = total - top
    distance = float((np.abs(np.arange(len(counts)) - centre) * counts).sum()) / max(rest, 1)
    gap = 1.0 / max(distance, 1.07)
    exponent = min(12, max(0, int(np.floor(-np.log2(gap)))))
    mantissa = min(7, max(0, round(gap * 16 * 2.0**exponent) - 8))
    return centre, min(255, max(1, round(256 * top / total))), 8 * exponent + mantissa
