"""The codec's laws over random code trees, tables of tensors, and files that are damaged or hostile."""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from laws import codec_laws as laws
from laws.codec_laws import Codec
from laws.compressor_laws import Case, compress, discovered, rungs
from torch import Tensor, nn

from taut.codec import ints, records
from taut.codec.coder import TOTAL, Encoder, normalise
from taut.codec.container import MAGIC, VERSION
from taut.codec.files import file_size, load, load_state_dict, record_sizes, save, verify
from taut.codec.models import encode_adaptive
from taut.codec.tensors import DTYPES, TENSOR
from taut.codec.wire import Reader, unzigzag, varint, zigzag
from taut.compressors.base import Code, Compressor
from taut.compressors.codebook import CodebookCode
from taut.compressors.low_rank import LowRankCode
from taut.compressors.prune import PruneCode
from taut.compressors.quantize import QuantizeCode
from taut.errors import FormatError, TautError
from taut.layers import Alias

CODEC = Codec()
SHAPES = [(), (0,), (1,), (7,), (3, 0, 2), (5, 9), (40, 30), (4, 3, 3, 3), (300,), (1,) * 9]
KINDS = ["noise", "small", "constant", "sparse", "few", "normal"]


@dataclass(frozen=True, eq=False)
class CodecLawCode(Code):
    """A code that may hold anything that a file can hold."""

    a: Any = None
    b: Any = None
    c: Any = None

    def decompress(self) -> Tensor:
        return self.a


def make(dtype: torch.dtype, shape: tuple[int, ...], kind: str, seed: int) -> Tensor:
    """A tensor of the dtype: random bits, few small values, one value, mostly zeros, a palette, or a bell curve."""
    g = torch.Generator().manual_seed(seed)
    count = math.prod(shape)
    if kind == "noise" and dtype != torch.bool:
        return torch.randint(0, 256, (count * dtype.itemsize,), generator=g, dtype=torch.uint8).view(dtype).reshape(shape)
    normal = torch.randn(count, generator=g, dtype=torch.float64) * 3
    numbers = {
        "small": torch.randint(0, 5, (count,), generator=g).double(),
        "constant": torch.full((count,), 3.0),
        "sparse": normal.round() * (torch.rand(count, generator=g) < 0.1),
        "few": torch.tensor([0.0, -0.0, 1.5, math.nan, -math.inf])[torch.randint(0, 5, (count,), generator=g)],
    }.get(kind, normal)
    if not dtype.is_floating_point:
        numbers = numbers.nan_to_num(0.0, 9.0, -9.0)
        if "uint" in str(dtype):
            return numbers.abs().to(torch.uint8).to(dtype).reshape(shape)
    return numbers.to(dtype).reshape(shape)


tensors = st.builds(make, st.sampled_from(DTYPES), st.sampled_from(SHAPES), st.sampled_from(KINDS), st.integers(0, 1 << 30))
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 63) - 1), st.floats(allow_nan=False), st.text(max_size=8)
)
fields = st.recursive(
    st.one_of(tensors, scalars, st.lists(st.integers(0, 500), max_size=4).map(tuple)),
    lambda inner: st.builds(CodecLawCode, inner, inner, inner),
    max_leaves=6,
)
trees = st.builds(CodecLawCode, tensors, fields, fields)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(trees)
def test_any_code_comes_back_bit_for_bit(code: CodecLawCode) -> None:
    laws.check_roundtrip(CODEC, code)
    laws.check_size(CODEC, code)
    laws.check_repeats(CODEC, code)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_any_tensor_comes_back_and_never_grows(dtype: torch.dtype, kind: str) -> None:
    for seed, shape in enumerate(SHAPES):
        tensor = make(dtype, shape, kind, seed)
        laws.check_roundtrip(CODEC, tensor)
        laws.check_never_expands(CODEC, tensor)


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([math.nan, -0.0, 0.0, 1e-45, -math.inf]),
        torch.tensor([0x7FC00001, 0x7F800001, -1], dtype=torch.int32).view(torch.float32),
        torch.tensor([2**63 - 1, -(2**63), 0, -1, 1]),
        torch.tensor(0),
        torch.tensor(True),
        torch.arange(24.0).reshape(4, 6).t(),
        torch.randn(50, 50).half().float(),
        torch.randn(50, 50).bfloat16().float(),
        torch.tensor([6e-8, 1.5, -0.0, math.inf]).half().float(),
    ],
    ids=lambda v: f"{v.dtype}{tuple(v.shape)}",
)
def test_special_numbers(values: Tensor) -> None:
    laws.check_roundtrip(CODEC, values)


def test_the_methods_own_codes() -> None:
    mask = torch.rand(30, 40) < 0.2
    count = int(mask.sum())
    book = CodebookCode(torch.randn(7), torch.randint(0, 7, (count,), dtype=torch.uint8), True)
    for code in (
        PruneCode(book, mask),
        LowRankCode(torch.randn(9, 2), QuantizeCode(torch.tensor(0.1), torch.ones(2, 8, dtype=torch.int8)), (9, 8), "matrix"),
        QuantizeCode(torch.rand(30), torch.randint(-900, 900, (30, 4), dtype=torch.int16)),
    ):
        laws.check_roundtrip(CODEC, code)
        laws.check_size(CODEC, code)


@pytest.mark.parametrize("method", discovered([]), ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_every_rung_of_every_method(method: Compressor, dtype: torch.dtype) -> None:
    for case in (Case((6, 11), dtype), Case((4, 3, 3, 2), dtype, "sparse"), Case((5,), dtype)):
        for rung in rungs(method, case.shape):
            code = compress(rung, case.weight(), case.stats())
            laws.check_roundtrip(CODEC, code)
            laws.check_size(CODEC, code)
            laws.check_repeats(CODEC, code)
            assert torch.equal(CODEC.decode(CODEC.encode(code)).decompress(), code.decompress())


def levels(scale: float, count: int, dtype: torch.dtype) -> Tensor:
    return torch.round(torch.randn(count, generator=torch.Generator().manual_seed(1)) * scale).to(dtype)


@pytest.mark.parametrize(
    "symbols",
    [
        levels(0.4, 50_000, torch.int8),
        levels(3.0, 50_000, torch.int8),
        levels(3.0, 400, torch.int8),
        levels(40.0, 200_000, torch.int16),
        (torch.arange(9000) % 16).to(torch.uint8),
        torch.poisson(torch.full((20_000,), 4.0), generator=torch.Generator().manual_seed(2)).to(torch.uint8),
        (torch.rand(60_000, generator=torch.Generator().manual_seed(3)) < 0.003).to(torch.uint8),
    ],
    ids=["peaked", "bell", "short", "wide", "uniform", "poisson", "rare"],
)
def test_length_is_near_the_entropy(symbols: Tensor) -> None:
    laws.check_near_entropy(CODEC, symbols)


def test_wide_numbers_cost_little_more_than_their_entropy() -> None:
    """A bell of standard deviation s has log2(s sqrt(2 pi e)) bits; size classes may cost 2 % more."""
    wide = levels(2e5, 50_000, torch.int32)
    ideal = 50_000 * math.log2(2e5 * math.sqrt(2 * math.pi * math.e))
    assert ideal < 8 * len(CODEC.encode(wide)) < 1.02 * ideal


def test_masks_use_the_densities_of_rows_and_columns() -> None:
    g = torch.Generator().manual_seed(0)
    densities = 0.2 * torch.rand(300, 1, generator=g) ** 2 * torch.rand(784, generator=g) ** 6
    mask = torch.rand(300, 784, generator=g) < densities
    laws.check_mask_near_densities(CODEC, mask, densities.double().numpy(), 0.9)
    for view in (mask, mask.t().contiguous(), mask.reshape(100, 3, 28, 28)):
        laws.check_roundtrip(CODEC, view)


def test_large_tensors_are_split_where_their_first_rows_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file as where all is tried; where columns tell nothing, no split is tried on the whole."""
    rng = np.random.default_rng(0)
    there = rng.random((300, 200)) < np.linspace(0.001, 0.6, 200)
    told = torch.from_numpy(there * rng.integers(1, 4, (300, 200)))
    noise = torch.from_numpy(np.rint(rng.normal(size=(300, 200))).astype(np.int64))
    whole, split, tried = CODEC.encode(told), ints._split, []
    monkeypatch.setattr(ints, "LARGE", 1 << 12)
    monkeypatch.setattr(ints, "SAMPLE", 1 << 13)
    monkeypatch.setattr(ints, "_split", lambda values, *more: tried.append(len(values)) or split(values, *more))
    assert CODEC.encode(told) == whole and told.numel() in tried
    tried.clear()
    CODEC.encode(noise)
    assert tried and noise.numel() not in tried


def test_a_plain_mask_costs_one_density() -> None:
    laws.check_near_entropy(CODEC, (torch.rand(200, 300, generator=torch.Generator().manual_seed(0)) < 0.05).to(torch.uint8))
    mask = torch.rand(200, 300, generator=torch.Generator().manual_seed(0)) < 0.05
    assert 8 * len(CODEC.encode(mask)) < laws.entropy_bits(mask.numpy().reshape(-1)) + 8 * 16


def test_half_precision_values_take_two_bytes_and_exponents_are_coded() -> None:
    w = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    assert len(CODEC.encode(w)) < 0.87 * 4 * 4000
    assert len(CODEC.encode(w.half().float())) < 2 * 4000
    assert len(CODEC.encode(w.bfloat16().float())) < 0.75 * 2 * 4000
    assert len(CODEC.encode(torch.ones(4000))) < 10


def test_a_plain_python_decoder_reads_the_stream() -> None:
    """No float is in the format: the 20 lines of docs/format.md decode what constriction encoded."""
    rng = np.random.default_rng(0)
    steps, enc, expected = [], Encoder(), []
    for size in (2, 3, 17, 300, 5000):
        freqs = normalise(rng.integers(0, 50, size) ** 3 + (np.arange(size) == 0))
        assert freqs.sum() == TOTAL and freqs.min() >= 1
        symbols = rng.integers(0, size, 200).astype(np.int32)
        enc.static(symbols, freqs)
        steps.append((freqs, 200))
        expected += symbols.tolist()
    ones = rng.integers(1, TOTAL - 1, 100)
    bits = rng.integers(0, 2, 100).astype(np.int32)
    enc.binary(bits, ones)
    steps += [(np.array([TOTAL - one, one]), 1) for one in ones]
    enc.uniform(np.arange(16, dtype=np.int32), 4)
    steps.append((np.full(16, TOTAL // 16), 16))
    data = enc.finish()
    assert laws.decode_stream(data, steps) == expected + bits.tolist() + list(range(16))
    # the symbol pushed first takes a whole slot of 24 bits, and the last byte may not be full
    assert -8 < 8 * len(data) - enc.bits < 24 + 8 + 0.0005 * len(expected)


LAW_OF_SYMBOLS = {
    "two": np.array([1 << 23, 1 << 23]),
    "one nearly certain": np.array([1, TOTAL - 2, 1]),
    "the last nearly certain": np.array([1] * 99 + [TOTAL - 99]),
    "a bell": normalise(np.exp(-((np.arange(300) - 150) ** 2) / 800) * 1e6),
    "all alike": normalise(np.ones(4096, dtype=np.int64)),
    "the largest alphabet": normalise(np.random.default_rng(0).integers(0, 50, 8192) ** 4),
    "one in front of many small": normalise(np.array([1 << 20] + [1] * 8000)),
}


@pytest.mark.parametrize("freqs", LAW_OF_SYMBOLS.values(), ids=LAW_OF_SYMBOLS)
@pytest.mark.parametrize("kind", ["written", "cut", "noise", "empty"])
def test_compiled_code_reads_what_constriction_reads(freqs: np.ndarray, kind: str) -> None:
    rng = np.random.default_rng(1)
    enc = Encoder()
    enc.uniform(rng.integers(0, 1 << 16, 3).astype(np.int32), 16)
    enc.static(rng.choice(len(freqs), 3000, p=freqs / TOTAL).astype(np.int32), freqs)
    enc.uniform(rng.integers(0, 1 << 16, 3).astype(np.int32), 16)
    written = enc.finish()
    data = {"written": written, "cut": written[: len(written) // 3], "noise": rng.bytes(2000) + b"\1", "empty": b""}[kind]
    data = data.rstrip(b"\0")
    laws.check_compiled(data, freqs, 3000, 0, np.int32)
    laws.check_compiled(data, freqs, 3000, -100, np.int16)
    if len(freqs) <= 256:
        laws.check_compiled(data, freqs, 3000, 0, np.uint8)
        laws.check_compiled(data, freqs, 3000, -128, np.int8)


def test_the_adaptive_model_pays_half_a_logarithm_a_parameter() -> None:
    """Krichevsky and Trofimov: (k - 1) / 2 · log2 n bits above the entropy, and a fifth more for refitting at block ends."""
    symbols = np.random.default_rng(0).choice(6, 5000, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    enc = Encoder()
    encode_adaptive(enc, symbols, 6)
    assert enc.bits - laws.entropy_bits(symbols) < 1.2 * 2.5 * math.log2(5000) + 8


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_numbers_on_the_wire(value: int) -> None:
    assert unzigzag(zigzag(value)) == value
    assert Reader(varint(zigzag(value))).signed() == value


@pytest.mark.parametrize(
    "value",
    [
        torch.randn(3, dtype=torch.complex64),
        CodecLawCode([1]),
        CodecLawCode(object()),
        CodecLawCode(1 << 70),
        torch.eye(3).to_sparse(),
    ],
    ids=["complex", "list", "object", "big", "sparse"],
)
def test_what_a_file_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(TautError, match=r"cannot be stored|a file can hold|does not fit"):
        records.encode(value)


def nest(depth: int) -> CodecLawCode:
    code = CodecLawCode(1)
    for _ in range(depth):
        code = CodecLawCode(code)
    return code


def test_depth_is_bounded_on_both_sides() -> None:
    laws.check_roundtrip(CODEC, nest(20))
    with pytest.raises(TautError, match="deeper"):
        records.encode(nest(40))
    with pytest.raises(FormatError, match="deeper"):
        records.decode(b"\0" + bytes([records.TUPLE, 1]) * 5000 + b"\0")


# files


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(16, 5)


def state() -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    mask = torch.rand(16, 20, generator=g) < 0.3
    return {
        "a.weight": PruneCode(torch.randn(int(mask.sum()), generator=g), mask),
        "a.bias": torch.randn(16, generator=g),
        "a.steps": torch.tensor(7),
        "b.weight": Alias("a.weight"),
        "c": CodebookCode(torch.randn(4, generator=g), torch.randint(0, 4, (9, 9), generator=g, dtype=torch.uint8), False),
    }


def reader(tmp_path: Any, read: Any) -> Any:
    def run(data: bytes) -> Any:
        path = tmp_path / "x.taut"
        path.write_bytes(data)
        return read(path)

    return run


@pytest.mark.parametrize("read", [load_state_dict, verify], ids=["load", "verify"])
def test_every_cut_and_flip_is_seen(tmp_path: Any, read: Any) -> None:
    path = tmp_path / "m.taut"
    save(state(), path, meta={"note": 1})
    data = path.read_bytes()
    laws.check_damage(reader(tmp_path, read), data, range(len(data)), whole=True)


def test_damage_with_a_valid_checksum_is_one_clear_error(tmp_path: Any) -> None:
    """Whatever the bytes say, the answer is a value or a FormatError."""
    path = tmp_path / "m.taut"
    save(state(), path)
    body = path.read_bytes()[:-4]
    run = reader(tmp_path, load_state_dict)
    laws.check_damage(lambda broken: run(laws.sealed(broken)), body, range(5, len(body), 4), whole=False)


def test_damaged_records_are_one_clear_error() -> None:
    for value in state().values():
        if not isinstance(value, Alias):
            record = records.encode(value)
            laws.check_damage(records.decode, record, range(len(record)), whole=False)


def test_random_bytes_are_one_clear_error() -> None:
    rng = random.Random(0)
    for _ in range(1500):
        start = bytes([rng.randrange(4), TENSOR | rng.randrange(8) << 3 | rng.randrange(3)])
        data = start + rng.randbytes(rng.randrange(24))
        laws.check_damage(records.decode, data + b"\0", [len(data)], whole=False)


def wrap(record: bytes, name: bytes = b"w") -> bytes:
    """A file around one record, undeflated, with a valid checksum."""
    index = varint(1) + name + b"\0" + varint(len(record))
    return laws.sealed(MAGIC + bytes([VERSION]) + record + index + b"\0" + varint(len(index))[::-1])


def tensor_record(dtype: int, shape: tuple[int, ...], head: bytes, stream: bytes = b"") -> bytes:
    return varint(len(stream)) + bytes([TENSOR | dtype << 3 | len(shape)]) + b"".join(map(varint, shape)) + head + stream


def low_rank(rows: int) -> bytes:
    """Two factors of ones that multiply out to ``rows`` squared."""
    ones = bytes([1]) + np.float32(1).tobytes()
    tags = bytes([TENSOR | 2])
    shapes = tags + varint(rows) + varint(1) + tags + varint(1) + varint(rows)
    small = bytes([records.TUPLE, 2]) + (bytes([records.INT]) + varint(zigzag(rows))) * 2
    cls = bytes([records.KNOWN + records.CLASSES.index("LowRankCode")])
    return b"\0" + cls + shapes + small + bytes([records.STRING, 6]) + b"matrix" + ones + ones


HOSTILE = {
    "huge zeros": tensor_record(0, (1 << 16, 1 << 15), b"\0"),
    "huge shape": tensor_record(0, (1 << 40, 1 << 40), b"\0"),
    "huge and empty": tensor_record(0, (1 << 60, 0), b""),
    "huge raw": tensor_record(0, (1 << 20,), b"\2"),
    "huge constant integers": tensor_record(9, (1 << 30,), b"\0\0"),
    "huge mask": tensor_record(4, (1 << 30,), b"\0"),
    "huge mask of one density": tensor_record(4, (1 << 30,), b"\3\1", b"\1"),
    "huge adaptive": tensor_record(5, (1 << 21,), b"\4\0\3", b"\1"),
    "huge alphabet": tensor_record(9, (99,), b"\2\0" + varint(1 << 40), b"\1"),
    "many rows": tensor_record(4, (1 << 15, 64), bytes([4, 0]) + varint(5), b"\1"),
    "factors that multiply out": low_rank(1 << 20),
    "a tuple without end": b"\0" + bytes([records.TUPLE]) + varint(1 << 50),
    "a stream longer than the file": varint(1 << 50) + b"\x80",
    "an unknown class": b"\0" + bytes([records.NAMED, 6]) + b"system\0",
    "an unknown class number": b"\0" + bytes([records.SMALL - 1]),
    "nested without end": b"\0" + bytes([records.TUPLE, 1]) * 100_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_fast_and_small(tmp_path: Any, name: str) -> None:
    message = laws.check_hostile(reader(tmp_path, load_state_dict), wrap(HOSTILE[name]))
    assert "x.taut" in message and "'w'" in message or "pass max_elements" in message


def test_what_a_model_can_hold_bounds_what_its_file_may_declare(tmp_path: Any) -> None:
    run = reader(tmp_path, lambda path: load(path, nn.Linear(3, 2)))
    laws.check_hostile(run, wrap(tensor_record(0, (1 << 20,), b"\0"), b"weight"))


def test_hostile_indexes_end_fast(tmp_path: Any) -> None:
    run = reader(tmp_path, load_state_dict)
    head = MAGIC + bytes([VERSION])
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(b"\0" * (1 << 26)) + packer.flush()
    lies = [(0, varint(1 << 60)), (0, b"\3a\0"), (0, b"\1a\0\0\0"), (16, b"\0\2[]")]
    for flags, index in [(2, bomb), *lies]:
        laws.check_hostile(run, laws.sealed(head + index + bytes([flags]) + varint(len(index))[::-1]))


def test_newer_files_say_so(tmp_path: Any) -> None:
    message = laws.check_hostile(reader(tmp_path, load_state_dict), laws.sealed(MAGIC + bytes([VERSION + 1]) + bytes(40)))
    assert f"written by a newer taut, format {VERSION + 1}; this one reads up to {VERSION}: pip install -U taut" in message


def deep(count: int) -> nn.Module:
    return nn.ModuleDict({f"layer{i}": Small() for i in range(count)})


@pytest.mark.parametrize("model", [nn.Linear(2, 1), Small(), deep(30)], ids=["tiny", "small", "deep"])
def test_overhead(model: nn.Module) -> None:
    sizes = record_sizes(model)
    laws.check_overhead(file_size(model), sizes, sizes)


def test_a_tiny_network_costs_tens_of_bytes() -> None:
    assert file_size(nn.Linear(2, 1)) <= 4 * 3 + 40
