"""The laws of the codec, as functions of the codec under test, so that a broken one can be shown to fail them."""

from __future__ import annotations

import re
import resource
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from taut.codec import coder, records
from taut.compressors.base import _same
from taut.errors import FormatError, TautError


class Codec:
    """The codec under test; ``encode`` works without what was encoded before."""

    def encode(self, value: Any) -> bytes:
        records._recent._records.clear()
        return records.encode(value)

    def decode(self, data: bytes) -> Any:
        return records.decode(data, max_elements=1 << 26)

    def size(self, value: Any) -> int:
        return records.size(value)


def check_roundtrip(codec: Codec, value: Any) -> None:
    """Every bit, type and shape comes back."""
    back = codec.decode(codec.encode(value))
    assert _same(back, value), f"{value} came back as {back}"


def check_size(codec: Codec, value: Any) -> None:
    """``size`` is the length of the record."""
    assert codec.size(value) == len(codec.encode(value))


def check_repeats(codec: Codec, value: Any) -> None:
    """Equal bytes on every run."""
    assert codec.encode(value) == codec.encode(value)


def entropy_bits(values: np.ndarray) -> float:
    """Bits of the values under their own empirical frequencies: the oracle for a static model."""
    _, counts = np.unique(values, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def check_near_entropy(codec: Codec, value: Tensor) -> None:
    """At most 0.2 % above the empirical entropy, plus 16 bytes, plus 6 bits for each symbol of the alphabet."""
    flat = value.reshape(-1).numpy()
    alphabet = int(flat.max()) - int(flat.min()) + 1
    bound = 1.002 * entropy_bits(flat) + 8 * 16 + 6 * alphabet
    found = 8 * len(codec.encode(value))
    assert found <= bound, f"{found} bits, at most {bound:.0f} allowed, entropy {entropy_bits(flat):.0f}"


def check_never_expands(codec: Codec, value: Tensor) -> None:
    """At most 16 bytes longer than the raw numbers (a bit for a boolean)."""
    raw = -(-value.numel() // 8) if value.dtype == torch.bool else value.numel() * value.itemsize
    assert len(codec.encode(value)) <= raw + 16


def check_mask_near_densities(codec: Codec, mask: Tensor, densities: np.ndarray, share: float) -> None:
    """Where rows and columns have their own densities, the mask takes at most ``share`` of the bits of one density, and no
    fewer than the densities' own entropy allows."""
    one = entropy_bits(mask.numpy().reshape(-1))
    p = np.clip(densities, 1e-12, 1 - 1e-12)
    own = float(-(np.where(mask.numpy(), np.log2(p), np.log2(1 - p))).sum())
    found = 8 * len(codec.encode(mask))
    assert found <= share * one, f"{found} bits against {one:.0f} of one density and {own:.0f} of the densities themselves"
    assert found >= 0.9 * own, f"{found} bits are fewer than {own:.0f}: the mask cannot be in there"


def damaged(data: bytes, positions: Iterable[int]) -> Iterable[tuple[str, bytes]]:
    """The data cut at each position, and with one bit flipped there."""
    for at in positions:
        yield f"cut at {at}", data[:at]
        yield f"bit {at % 8} of byte {at} flipped", data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


def check_damage(read: Callable[[bytes], Any], data: bytes, positions: Iterable[int], whole: bool) -> None:
    """Damage raises :class:`FormatError`, and nothing else. Without a checksum (``whole`` false) it may also go unseen."""
    for what, broken in damaged(data, positions):
        try:
            read(broken)
        except FormatError:
            continue
        except BaseException as error:
            raise AssertionError(f"{what}: {type(error).__name__} instead of FormatError: {error}") from error
        assert not whole, f"{what}: nothing was raised"


def peak_megabytes(fresh: bool) -> float:
    """The most memory the process has held; since the last ``fresh`` call where the system can tell (Linux)."""
    status, marks = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not marks.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if fresh:
        marks.write_text("5")
    return int(re.search(r"VmHWM:\s+(\d+)", status.read_text()).group(1)) / 1024


def check_hostile(read: Callable[[bytes], Any], data: bytes, seconds: float = 5.0, megabytes: float = 300.0) -> str:
    """A hostile file raises :class:`FormatError` in bounded time and memory; returns the message."""
    before, start = peak_megabytes(fresh=True), time.monotonic()
    try:
        read(data)
    except FormatError as error:
        message = str(error)
    except (TautError, MemoryError, RecursionError, RuntimeError, ValueError) as error:
        raise AssertionError(f"{type(error).__name__} instead of FormatError: {error}") from error
    else:
        raise AssertionError("a hostile file was read")
    took, grown = time.monotonic() - start, peak_megabytes(fresh=False) - before
    assert took < seconds, f"it took {took:.1f} s"
    assert grown < megabytes, f"it took {grown:.0f} MB"
    return message


def check_overhead(length: int, names: Iterable[str], sizes: dict[str, int]) -> None:
    """The file minus its records: at most 64 bytes and 16 for each tensor."""
    overhead, allowed = length - sum(sizes.values()), 64 + 16 * len(list(names))
    assert 0 <= overhead <= allowed, f"{overhead} bytes of overhead, {allowed} allowed"


def sealed(body: bytes) -> bytes:
    """The body with a valid checksum: what an attacker would write."""
    return body + zlib.crc32(body).to_bytes(4, "little")


def decode_stream(data: bytes, steps: list[tuple[np.ndarray, int]]) -> list[int]:
    """The reference decoder of docs/format.md: symbols of a stream, by whole-number arithmetic alone.

    ``steps``: (frequencies, how many symbols), in order. The stream must end empty.
    """
    words = list(np.frombuffer(data + b"\0" * (-len(data) % 4), "<u4"))
    state = int(words.pop()) if words else 0
    state = state << 32 | int(words.pop()) if words else state
    out = []
    for freqs, count in steps:
        starts = [0, *np.cumsum(freqs).tolist()]
        for _ in range(count):
            slot = state & 0xFFFFFF
            symbol = next(s for s in range(len(freqs)) if starts[s + 1] > slot)
            state = (state >> 24) * int(freqs[symbol]) + slot - starts[symbol]
            if state < 1 << 32 and words:
                state = state << 32 | int(words.pop())
            out.append(symbol)
    assert state == 0 and not words
    return out


def check_compiled(data: bytes, freqs: np.ndarray, count: int, low: int, dtype: np.dtype | type) -> None:
    """Compiled code and constriction read the same symbols from any stream, whole or not, and leave the same behind."""
    found = []
    for many in (1, 1 << 62):
        with patch.object(coder, "MANY", many):
            dec = coder.Decoder(data)
            before = dec.uniform(3, 16)
            symbols = dec.static(count, freqs, low, dtype)
            assert symbols.dtype == dtype
            found.append([*before.tolist(), *symbols.tolist(), *dec.uniform(3, 16).tolist(), dec.bits])
    assert found[0] == found[1], "compiled code reads other symbols"
