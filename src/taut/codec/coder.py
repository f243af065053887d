"""The entropy coder: one ANS stream (constriction) driven by integer frequencies that sum to 2**24.

Every model is a list of integer frequencies, each at least 1. They are handed to constriction as whole numbers that sum to its
own free weight, so its fixed-point model is exactly ours: decoding depends on integer arithmetic alone (a test decodes the same
bytes with a 20-line decoder in plain Python). ANS is a stack: an :class:`Encoder` collects its steps and pushes them last first.

The words are little-endian; the zero bytes at the end of the last word are dropped. A stream is at most four bytes longer than
its information content: the symbol that is pushed first takes a whole slot of 24 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import constriction
import numpy as np

from taut.codec.symbols import PRECISION, take_symbols
from taut.errors import FormatError

TOTAL = 1 << PRECISION
CHUNK = 1 << 20  # symbols converted at a time, so that a large tensor is never held as 32-bit symbols
MAX_ALPHABET = 1 << 13
MANY = 1 << 14  # symbols that are worth a table

_model = constriction.stream.model
_Ans = constriction.stream.stack.AnsCoder
_BINARY = _model.Categorical(perfect=False)


def normalise(weights: np.ndarray) -> np.ndarray:
    """Integer weights to integer frequencies: at least 1 each, sum 2**24; the rounding goes to the first largest weight.

    Example:
        >>> normalise(np.array([3, 0, 1]))
        array([12582911,        1,  4194304])
    """
    weights = weights.astype(np.int64)
    count, total = len(weights), int(weights.sum())
    freqs = 1 + weights * (TOTAL - count) // max(total, 1)
    freqs[int(np.argmax(weights))] += TOTAL - int(freqs.sum())
    return freqs


def code_bits(counts: np.ndarray, freqs: np.ndarray) -> float:
    """Bits that symbols with these counts take under these frequencies."""
    return float((counts * (PRECISION - np.log2(freqs))).sum())


def histogram(symbols: np.ndarray, low: int, size: int) -> np.ndarray:
    """Counts of ``low … low + size - 1``, a chunk at a time."""
    counts = np.zeros(size, dtype=np.int64)
    for chunk in _chunks(symbols):
        counts += np.bincount((chunk.astype(np.int64) - low), minlength=size)
    return counts


def _chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    return (array[i : i + CHUNK] for i in range(0, len(array), CHUNK))


def _static(freqs: np.ndarray):  # noqa: ANN202 - constriction has no types
    return _model.Categorical((freqs - 1).astype(np.float32), perfect=False)


def _pairs(ones: np.ndarray) -> np.ndarray:
    """Frequencies of 0 and 1 as constriction takes them, less the one it adds; below 2**24, so exact in 32 bits."""
    return np.stack([TOTAL - 1 - ones, ones - 1], axis=1).astype(np.float32)


class Encoder:
    """Steps to be coded, in the order in which they will be decoded, and their exact cost in ``bits``."""

    def __init__(self) -> None:
        self.steps: list[tuple] = []
        self.bits = 0.0

    def static(self, symbols: np.ndarray, freqs: np.ndarray, low: int = 0, counts: np.ndarray | None = None) -> None:
        """Symbols ``low …`` under one model."""
        if len(symbols) == 0 or len(freqs) == 1:
            return
        counts = histogram(symbols, low, len(freqs)) if counts is None else counts
        self.bits += code_bits(counts, freqs)
        self.steps.append(("static", symbols, freqs, low))

    def uniform(self, symbols: np.ndarray, bits: int) -> None:
        """Symbols of ``bits`` bits (at most 16), all equally likely."""
        if bits and len(symbols):
            self.bits += bits * len(symbols)
            self.steps.append(("uniform", symbols, bits))

    def binary(self, symbols: np.ndarray, ones: np.ndarray) -> None:
        """Zeros and ones, each with its own frequency of a one."""
        if len(symbols):
            self.bits += float((PRECISION - np.log2(np.where(symbols, ones, TOTAL - ones))).sum())
            self.steps.append(("binary", symbols, ones))

    def extend(self, other: Encoder) -> None:
        """Everything another encoder collected, after what is here."""
        self.steps += other.steps
        self.bits += other.bits

    def finish(self) -> bytes:
        """The stream."""
        coder = _Ans()
        for step in reversed(self.steps):
            _PUSH[step[0]](coder, *step[1:])
        return coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


def _push_static(coder, symbols: np.ndarray, freqs: np.ndarray, low: int) -> None:  # noqa: ANN001
    model = _static(freqs)
    for chunk in reversed(list(_chunks(symbols))):
        coder.encode_reverse((chunk.astype(np.int64) - low).astype(np.int32), model)


def _push_uniform(coder, symbols: np.ndarray, bits: int) -> None:  # noqa: ANN001
    model = _model.Uniform(1 << bits)
    for chunk in reversed(list(_chunks(symbols))):
        coder.encode_reverse(chunk.astype(np.int32), model)


def _push_binary(coder, symbols: np.ndarray, ones: np.ndarray) -> None:  # noqa: ANN001
    for start in reversed(range(0, len(symbols), CHUNK)):
        part = slice(start, start + CHUNK)
        coder.encode_reverse(symbols[part].astype(np.int32), _BINARY, _pairs(ones[part]))


_PUSH: dict[str, Callable[..., None]] = {"static": _push_static, "uniform": _push_uniform, "binary": _push_binary}


class Decoder:
    """The steps read back, in order."""

    def __init__(self, data: bytes | memoryview) -> None:
        raw = bytes(data)
        if raw.endswith(b"\0"):
            raise FormatError("the coded stream ends in a zero byte, which no writer leaves")
        words = np.frombuffer(raw + b"\0" * (-len(raw) % 4), dtype="<u4").astype(np.uint32)
        self.length = 8 * len(raw)
        self._coder = _Ans(words) if len(words) else _Ans()

    @property
    def bits(self) -> int:
        """Bits still in the stream."""
        return self._coder.num_valid_bits()

    def static(self, count: int, freqs: np.ndarray, low: int = 0, dtype: np.dtype | type = np.int32) -> np.ndarray:
        """``count`` symbols ``low …`` under one model."""
        out = np.full(count, low, dtype=dtype)
        if len(freqs) > 1 and count >= MANY:
            self.mixed(lambda coder: take_symbols(coder, freqs, out))
        elif len(freqs) > 1:
            out += self._coder.decode(_static(freqs), count).astype(dtype)
        return out

    def uniform(self, count: int, bits: int) -> np.ndarray:
        """``count`` symbols of ``bits`` bits."""
        if not bits or not count:
            return np.zeros(count, dtype=np.int32)
        return self._coder.decode(_model.Uniform(1 << bits), count)

    def binary(self, ones: np.ndarray) -> np.ndarray:
        """One symbol for each frequency of a one."""
        return self._coder.decode(_BINARY, _pairs(ones))

    def mixed(self, run: Callable[[np.ndarray], object]) -> None:
        """Let compiled code decode under frequencies that it makes as it goes: see :func:`taut.codec.mixing.take`."""
        words = self._coder.get_compressed()
        state, left = 0, len(words)
        while left and state < 1 << 32:
            left -= 1
            state = state << 32 | int(words[left])
        coder = np.concatenate([np.array([state, left], dtype=np.uint64), words])
        run(coder)
        state, left = int(coder[0]), int(coder[1])
        top = [state & 0xFFFFFFFF, state >> 32]
        while top and not top[-1]:
            top.pop()
        words = np.concatenate([words[:left], np.array(top, dtype=np.uint32)])
        self._coder = _Ans(words) if len(words) else _Ans()

    def close(self) -> None:
        """Raise unless exactly everything was read."""
        if not self._coder.is_empty():
            raise FormatError("the coded stream holds more than its tensors")
