"""Each law of the codec turns red on a codec with one fault."""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laws import codec_laws as laws
from laws.codec_laws import Codec
from torch import Tensor

from taut.codec import symbols
from taut.codec.files import load_state_dict, record_sizes, save
from taut.compressors.base import Code
from taut.errors import FormatError


@dataclass(frozen=True, eq=False)
class PlantedAnythingCode(Code):
    """A code of three fields."""

    a: Any = None
    b: Any = None
    c: Any = None

    def decompress(self) -> Tensor:
        return self.a


class LosesTheSignOfZero(Codec):
    def decode(self, data: bytes) -> Any:
        value = super().decode(data)
        return value + 0.0 if isinstance(value, Tensor) else value


class LosesTheType(Codec):
    def decode(self, data: bytes) -> Any:
        return super().decode(data).to(torch.int32)


class LosesAField(Codec):
    def decode(self, data: bytes) -> Any:
        value = super().decode(data)
        return PlantedAnythingCode(value.a, value.b, None)


class GuessesTheSize(Codec):
    def size(self, value: Any) -> int:
        return super().size(value) + 1


class HoldsACounter(Codec):
    counter = itertools.count()

    def encode(self, value: Any) -> bytes:
        return super().encode(value) + bytes([next(self.counter) % 256])


class DoesNotModel(Codec):
    def encode(self, value: Any) -> bytes:
        return value.numpy().tobytes()


class Pads(Codec):
    def encode(self, value: Any) -> bytes:
        return super().encode(value) + bytes(32)


class ForgetsTheMask(Codec):
    def encode(self, value: Any) -> bytes:
        return b"\0"


LEVELS = torch.round(torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * 2).to(torch.int8)
DENSITIES = torch.rand(60, 1, generator=torch.Generator().manual_seed(1)) ** 3 * torch.ones(80)
MASK = torch.rand(60, 80, generator=torch.Generator().manual_seed(2)) < DENSITIES


@pytest.mark.parametrize(
    ("law", "codec", "case"),
    [
        (laws.check_roundtrip, LosesTheSignOfZero(), (torch.tensor([-0.0, 1.0]),)),
        (laws.check_roundtrip, LosesTheType(), (torch.tensor([1, 2]),)),
        (laws.check_roundtrip, LosesAField(), (PlantedAnythingCode(torch.ones(2), 1, 2),)),
        (laws.check_size, GuessesTheSize(), (torch.ones(2),)),
        (laws.check_repeats, HoldsACounter(), (torch.ones(2),)),
        (laws.check_near_entropy, DoesNotModel(), (LEVELS,)),
        (laws.check_never_expands, Pads(), (torch.ones(2),)),
        (laws.check_mask_near_densities, DoesNotModel(), (MASK, DENSITIES.double().numpy(), 0.95)),
        (laws.check_mask_near_densities, ForgetsTheMask(), (MASK, DENSITIES.double().numpy(), 0.95)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Codec) else None,
)
def test_a_faulty_codec_fails(law: Any, codec: Codec, case: tuple) -> None:
    law(Codec(), *case)
    with pytest.raises(AssertionError):
        law(codec, *case)


def file_of(tmp_path: Path) -> bytes:
    """Raw numbers, whose bits only the checksum guards."""
    save({"w": torch.randn(8, generator=torch.Generator().manual_seed(0))}, tmp_path / "m.taut")
    return (tmp_path / "m.taut").read_bytes()


def test_a_reader_without_checksum_fails(tmp_path: Path) -> None:
    def trusting(data: bytes) -> None:
        body = data[:-4]
        (tmp_path / "x.taut").write_bytes(body + zlib.crc32(body).to_bytes(4, "little"))
        load_state_dict(tmp_path / "x.taut")

    with pytest.raises(AssertionError, match="nothing was raised"):
        laws.check_damage(trusting, file_of(tmp_path), range(10, 40, 3), whole=True)


def test_a_reader_that_raises_something_else_fails(tmp_path: Path) -> None:
    def careless(data: bytes) -> None:
        np.frombuffer(data, np.uint32)[1 << 20]

    with pytest.raises(AssertionError, match="instead of FormatError"):
        laws.check_damage(careless, file_of(tmp_path), [8], whole=False)


def test_a_reader_that_hangs_or_fills_the_memory_fails() -> None:
    def slow(_: bytes) -> None:
        torch.ones(3000, 3000) @ torch.ones(3000, 3000)
        raise FormatError("late")

    def greedy(_: bytes) -> None:
        torch.ones(60 << 20)
        raise FormatError("too late")

    def trusting(_: bytes) -> None:
        return None

    with pytest.raises(AssertionError, match=r"it took [0-9.]+ s"):
        laws.check_hostile(slow, b"", seconds=0.001)
    with pytest.raises(AssertionError, match=r"it took \d+ MB"):
        laws.check_hostile(greedy, b"", megabytes=20.0)
    with pytest.raises(AssertionError, match="was read"):
        laws.check_hostile(trusting, b"")


def test_a_file_with_long_names_beside_its_records_fails() -> None:
    sizes = record_sizes({"w": LEVELS, "b": torch.ones(3)})
    laws.check_overhead(sum(sizes.values()) + 96, sizes, sizes)
    with pytest.raises(AssertionError):
        laws.check_overhead(sum(sizes.values()) + 97, sizes, sizes)


def test_the_reference_decoder_sees_a_changed_stream() -> None:
    freqs = np.array([1 << 23, 1 << 23])
    with pytest.raises(AssertionError):
        laws.decode_stream(b"\1\2\3\4\5\6\7\x08\x09", [(freqs, 4)])


def test_compiled_code_that_begins_too_late_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = symbols._take

    def late(state: Any, ends: Any, begin: Any, out: Any) -> None:
        right(state, ends, np.minimum(begin + 1, len(ends) - 2).astype(begin.dtype), out)

    freqs, data = np.array([1 << 22, 1 << 23, 1 << 22]), np.random.default_rng(0).bytes(200) + b"\1"
    laws.check_compiled(data, freqs, 200, 0, np.int32)
    monkeypatch.setattr(symbols, "_take", late)
    with pytest.raises(AssertionError, match="other symbols"):
        laws.check_compiled(data, freqs, 200, 0, np.int32)
