"""A slow reader of what is coded by neighbours, in plain Python from docs/format.md alone: the reference of the compiled one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from math import prod

Row = list[int]


@cache
def squash(y: int) -> int:
    """``2**24 E / (E + 1)`` for ``E = exp(y / 256)``, by the series of the exponential in fractions."""
    if y < 0:
        return min(max(2**24 - _upper(-y), 64), 2**24 - 64)
    return min(max(_upper(y), 64), 2**24 - 64)


@cache
def _upper(y: int) -> int:
    e, term = Fraction(0), Fraction(1)
    for k in range(1, 60):
        e, term = e + term, term * Fraction(y, 256) / k
    return 2**24 * e.numerator // (e.numerator + e.denominator)


@cache
def least(target: int) -> int:
    """The least logit whose frequency is at least the target."""
    return next(y for y in range(-3071, 3072) if squash(y) >= target)


def stretch(q: int) -> int:
    return least((2 * (q >> 4) + 1) << 11)


def log(r: int) -> int:
    return least(r * 2**24 // (r + 256))


class Stream:
    """The coder of docs/format.md."""

    def __init__(self, data: bytes) -> None:
        data += bytes(-len(data) % 4)
        self.words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
        self.state = 0
        while self.words and self.state < 1 << 32:
            self.state = self.state << 32 | self.words.pop()

    def bit(self, ones: int) -> int:
        slot, zeros = self.state % 2**24, 2**24 - ones
        bit = int(slot >= zeros)
        self.state = (self.state >> 24) * (ones if bit else zeros) + slot - bit * zeros
        if self.state < 1 << 32 and self.words:
            self.state = self.state << 32 | self.words.pop()
        return bit


class Mixer:
    """Mixers that share their counters, each with its own weights."""

    def __init__(self, stream: Stream, start: int, weights: list[int], slow: int) -> None:
        self.stream, self.start, self.slow = stream, start, slow
        self.weights: dict[int, Row] = defaultdict(lambda: list(weights))
        self.counters: dict[tuple[int, int], Row] = {}

    def bit(self, mixer: int, inputs: Row, contexts: Row, lend: bool = False) -> int:
        """``lend``: a counter that has seen nothing takes the chance of the first."""
        found = []
        for i, context in enumerate(contexts):
            counter = self.counters.setdefault((i, context), [self.start, 0])
            if lend and not counter[1]:
                counter[0] = self.counters[0, contexts[0]][0]
            found.append(counter)
        x = inputs + [stretch(chance) for chance, _ in found]
        weights = self.weights[mixer]
        total = sum(v * y for v, y in zip(weights, x, strict=True)) >> 16
        ones = squash(min(max(total, -3071), 3071))
        bit = self.stream.bit(ones)
        error = 2**16 * bit - (ones >> 8)
        for i, y in enumerate(x):
            weights[i] += (error * y + 2 ** (self.slow - 1)) >> self.slow
        for counter in found:
            chance, n = counter
            counter[:] = [chance + ((65535 * bit - chance) * (2**17 // (2 * n + 3)) >> 16), min(n + 1, 255)]
        return bit


def varints(data: bytes) -> Iterator[int]:
    value = shift = 0
    for byte in data:
        value, shift = value | (byte & 127) << shift, shift + 7
        if byte < 128:
            yield value
            value = shift = 0


def neighbours(head: list[int], shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(s, p, slowness) of the numbers that say how."""
    kind, slow = head[0] >> 2, 14 + head[0] % 4
    kernel = prod(shape[2:])
    s = shape[-1] if len(shape) >= 4 and 1 < shape[-1] < kernel else 0
    p = kernel if kernel > 1 else 0
    return {0: (0, 0, slow), 1: (s, p, slow)}.get(kind) or (head[1], head[2], slow)


def before(row: Row, c: int, s: int, p: int) -> tuple[int, ...]:
    """a, b, d, e, g, k."""

    def at(back: int) -> int:
        return row[c - back] if 0 < back <= c else 0

    return at(1), at(2), *((at(s), at(s - 1), at(s + 1)) if s else (0, 0, 0)), at(p)


def pair(chances: Row, c: int, away: int) -> int:
    """Twice a column's chance and those of two others, itself where there are none."""
    left = chances[c - away] if c >= away else chances[c]
    return 2 * chances[c] + left + (chances[c + away] if c + away < len(chances) else chances[c])


def read_mask(head: bytes, stream: Stream, shape: tuple[int, ...]) -> list[Row]:
    """``head``: without the mode."""
    ones, *how = varints(head)
    (s, p, slow), columns = neighbours(how, shape), prod(shape[1:])
    start = max(1, 2**16 * ones // prod(shape))
    mixer = Mixer(stream, start, [2**16 // 14, 2**14, 2**14] + [2**16 // 14] * 5, slow)
    chances, rows = [start] * columns, []
    above, higher = [0] * columns, [0] * columns
    for r in range(shape[0]):
        row, sums = [0] * columns, 0
        for c, own in enumerate(chances):
            near = pair(chances, c, 1)
            q = (near + (pair(chances, c, s) if s else near)) >> 3
            a, b, d, e, g, k = before(row, c, s, p)
            m, f, y = a + b + d + e + g, sum(row[:c]), stretch(q)
            z = log(min((f + 1) * 2**24 // (sums + 2**16), 4095))
            level = [min(max((v + 2048) >> 7, 0), 23) for v in (y + z, stretch(own))]
            contexts = [
                a + 2 * b + 4 * d + 8 * e + 16 * g + 32 * k + 64 * above[c],
                24 * m + level[0],
                24 * (above[c] + 2 * higher[c] + 4 * a + 8 * k) + level[0],
                24 * min(f, 15) + level[1],
            ]
            row[c] = mixer.bit(min(m, 3), [stretch(own), y, z, 128], contexts)
            sums += q
        chances = [q + ((65535 * b - q) * (2**32 // (r + 10)) >> 32) for q, b in zip(chances, row, strict=True)]
        above, higher = row, above
        rows.append(row)
    return rows


def half_octaves(total: int, count: int) -> int:
    return sum((16 * total // count) ** 2 >= 2**k for k in range(9, 16)) if count else 8


def read_values(head: bytes, stream: Stream, mask: list[Row], shape: tuple[int, ...], common: int | None = None) -> Row:
    """``head``: without the mode; the whole numbers at the places of the mask."""
    low, last, negative, *how = varints(head)
    low = low // 2 if low % 2 == 0 else -(low + 1) // 2
    (s, p, slow), most = neighbours(how, shape), (negative, last + 1 - negative)
    signs, counts = Mixer(stream, 2**15, [2**14] * 6, slow), Mixer(stream, 2**15, [2**14] * 4, slow)
    columns, found = prod(shape[1:]), []
    above, higher = [0] * columns, [0] * columns
    for places in mask:
        row = [0] * columns
        for c in (c for c, there in enumerate(places) if there):
            column = [matrix_row[c] for matrix_row in found if matrix_row[c]]
            so_far = [v for v in row[:c] if v]
            near = before(row, c, s, p)
            sa, sb, sd, se, sg, sk, su, sh, s2 = (
                1 if v > 0 else 2 if v < 0 else 0
                for v in (*near, above[c], higher[c], row[c - 2 * s] if 0 < 2 * s <= c else 0)
            )
            positive = int(most[0] == 0)
            if most[0] and most[1]:
                shares = [(sum(v > 0 for v in group), len(group)) for group in (so_far, column)]
                inputs = [stretch(2**16 * (2 * up + 1) // (2 * n + 2)) for up, n in shares]
                contexts = [sa + 3 * sd + 9 * se + 27 * sg, sk + 3 * sa + 9 * sb, su + 3 * sa + 9 * sh, sd + 3 * s2 + 9 * sk]
                positive = signs.bit(0, inputs, contexts)
            beside = half_octaves(sum(w * abs(v) for w, v in zip((2, 1, 2, 1, 1, 1), near, strict=True)), 2)
            means = [half_octaves(sum(map(abs, group)), len(group)) for group in (column, so_far)]
            j = 1
            while j < most[positive]:
                t = min(j, 20)
                contexts = [2 * t + positive, 9 * t + beside, 81 * t + 9 * means[0] + means[1]]
                if not counts.bit(t, [128], contexts, lend=True):
                    break
                j += 1
            row[c] = j if positive else -j
        found.append(row)
        above, higher = row, above
    numbers = [low + negative + v - (v > 0) for matrix_row in found for v in matrix_row if v]
    return [v + (common is not None and v >= common) for v in numbers]
