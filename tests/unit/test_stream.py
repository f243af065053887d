"""Checkpoints without a model: the error bound, types, shards, memory, and bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from taut.codec.decoding import decode_file
from taut.codec.files import load_state_dict, verify
from taut.codec.reader import TautFile
from taut.codec.stream import compress_file
from taut.errors import FormatError, TautError


def checkpoint() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(128, 128, generator=g),
        "b.weight": torch.randn(128, 64, generator=g).bfloat16(),
        "half": (torch.randn(100, 100, generator=g) * 0.02).half(),
        "double": torch.randn(50, 50, generator=g).double(),
        "heavy": torch.randn(100, 100, generator=g) ** 5,
        "sparse": torch.randn(100, 100, generator=g) * (torch.rand(100, 100, generator=g) < 0.05),
        "zeros": torch.zeros(64, 64),
        "norm": torch.randn(300, generator=g),
        "tiny": torch.randn(3, 3, generator=g),
        "steps": torch.tensor(5),
        "empty": torch.zeros(0, 5),
        "flags": torch.tensor([[True, False]] * 300),
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_file(checkpoint(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.mark.parametrize("bound", [0.3, 0.01, 0.001])
def test_the_error_of_every_tensor_is_bounded(tmp_path: Path, source: Path, bound: float) -> None:
    summary = compress_file(source, tmp_path / "w.taut", bound)
    before, after = checkpoint(), load_state_dict(tmp_path / "w.taut")
    assert set(after) == set(before)
    for name, w in before.items():
        back = after[name]
        assert back.dtype == w.dtype and back.shape == w.shape, name
        error = float((back.double() - w.double()).norm()), float(w.double().norm())
        assert error[0] <= bound * error[1], name
        if name in ("norm", "tiny", "steps", "empty", "zeros", "flags"):
            assert torch.equal(back, w), name
        elif name == "a.weight":
            assert error[0] >= 0.99 * bound * error[1], "the step could be larger"
    assert summary.quantized == 6 and summary.tensors == 12 and 0 < summary.max_error <= bound
    assert summary.bytes_after == os.path.getsize(tmp_path / "w.taut")
    assert summary.bytes_before == sum(w.numel() * w.itemsize for w in before.values())


def test_a_larger_bound_is_a_smaller_file(tmp_path: Path, source: Path) -> None:
    sizes = [compress_file(source, tmp_path / "w.taut", bound).bytes_after for bound in (0.001, 0.01, 0.1, 0.5)]
    assert sizes == sorted(sizes, reverse=True)
    # log2(10) bits less a weight for each tenfold error
    assert sizes[0] - sizes[1] > 2.5 / 8 * (128 * 128 + 128 * 64)


def test_decoding_gives_safetensors_that_the_library_reads(tmp_path: Path, source: Path) -> None:
    compress_file(source, tmp_path / "w.taut", 0.01)
    seen = []
    written = decode_file(tmp_path / "w.taut", tmp_path / "back.safetensors", lambda *step: seen.append(step))
    assert written == os.path.getsize(tmp_path / "back.safetensors")
    dense = load_state_dict(tmp_path / "w.taut")
    with safe_open(tmp_path / "back.safetensors", "pt") as file:
        assert sorted(file.keys()) == sorted(dense)
        for name in file.keys():  # noqa: SIM118 - not a dict
            back = file.get_tensor(name)
            assert back.dtype == dense[name].dtype and torch.equal(back, dense[name]), name
    assert seen[-1][0] == seen[-1][1] and len(seen) == 12


def test_shards(tmp_path: Path) -> None:
    first, second = {"a": torch.randn(20, 30), "b": torch.ones(3)}, {"c": torch.randn(30, 20)}
    parts = {"one.safetensors": first, "two.safetensors": second}
    for name, part in parts.items():
        save_file(part, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    where = {tensor: name for name, part in parts.items() for tensor in part}
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    compress_file(index, tmp_path / "w.taut", 0.01)
    assert list(load_state_dict(tmp_path / "w.taut")) == ["a", "b", "c"]
    broken = {"beside": {"a": "../one.safetensors"}, "in no shard": {"z": "one.safetensors"}, "weight_map": None}
    for message, bad in broken.items():
        index.write_text(json.dumps({"weight_map": bad}))
        with pytest.raises(TautError, match=message):
            compress_file(index, tmp_path / "w.taut", 0.01)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_weights_are_named_and_nothing_is_left(tmp_path: Path, bad: float) -> None:
    w = torch.randn(20, 20)
    w[3, 4] = bad
    save_file({"fine": torch.ones(20, 20), "layer.weight": w}, tmp_path / "w.safetensors")
    with pytest.raises(TautError, match=r"'layer\.weight': 1 of 400 values are NaN or infinite"):
        compress_file(tmp_path / "w.safetensors", tmp_path / "w.taut", 0.01)
    assert os.listdir(tmp_path) == ["w.safetensors"]


@pytest.mark.parametrize("bound", [0.0, -1.0, 1.0, float("nan")])
def test_bounds_that_are_none(tmp_path: Path, source: Path, bound: float) -> None:
    with pytest.raises(TautError, match="max_error"):
        compress_file(source, tmp_path / "w.taut", bound)


def test_sources_that_are_none(tmp_path: Path, source: Path) -> None:
    data = source.read_bytes()
    broken = {
        "empty": b"", "text": b"hello" * 10, "cut": data[:-500], "head": data[:30], "json": (9).to_bytes(8, "little") + b"[" * 9,
        "nest": (50_000).to_bytes(8, "little") + b"[" * 50_000,
        "lies": (90).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[99999999],"data_offsets":[0,399999996]}}'.ljust(90),
    }
    for name, content in broken.items():
        (tmp_path / f"{name}.safetensors").write_bytes(content)
        with pytest.raises(TautError, match=name):
            compress_file(tmp_path / f"{name}.safetensors", tmp_path / "w.taut", 0.01)
    with pytest.raises(TautError, match="No such file"):
        compress_file(tmp_path / "none.safetensors", tmp_path / "w.taut", 0.01)
    assert not (tmp_path / "w.taut").exists()


def test_decoding_damage_leaves_the_target(tmp_path: Path, source: Path) -> None:
    compress_file(source, tmp_path / "w.taut", 0.01)
    data = (tmp_path / "w.taut").read_bytes()
    (tmp_path / "w.taut").write_bytes(data[:-9] + b"\0" + data[-8:])
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(FormatError):
        decode_file(tmp_path / "w.taut", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"old"


def test_files_say_that_they_hold_weights_only(tmp_path: Path, source: Path) -> None:
    compress_file(source, tmp_path / "w.taut", 0.01)
    verify(tmp_path / "w.taut")
    with TautFile(tmp_path / "w.taut") as file:
        assert file.index.weights_only


MEASURE = """
import resource, sys, torch
from taut.codec.decoding import decode_file
from taut.codec.stream import compress_file
from taut.codec.bounded import Bounded
torch.set_num_threads(1)
with Bounded(99):  # what torch loads for its meta device is not ours to count
    torch.empty(2, 2, device="meta") * torch.empty(2, 2, device="meta")
compress_file(sys.argv[4], sys.argv[2], 0.05)
decode_file(sys.argv[2], sys.argv[3])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
compress_file(sys.argv[1], sys.argv[2], 0.05)
compressed = peak()
decode_file(sys.argv[2], sys.argv[3])
print((compressed - before) * 1024, (peak() - before) * 1024)
"""


def test_memory_is_a_small_multiple_of_the_largest_tensor(tmp_path: Path) -> None:
    """Six tensors of 16 MB: at most four times one of them, however many there are."""
    save_file({f"w{i}": torch.randn(2048, 2048) for i in range(6)}, tmp_path / "w.safetensors")
    paths = [str(tmp_path / name) for name in ("w.safetensors", "w.taut", "back.safetensors", "small.safetensors")]
    save_file({"w": torch.randn(100, 100)}, paths[3])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, env=environment, check=True)
    compressing, both = map(int, done.stdout.split())
    assert compressing < 4 * 16 * 2**20 and both < 4 * 16 * 2**20, f"{compressing / 2**20:.0f} and {both / 2**20:.0f} MB"
    assert len(load_file(paths[2])) == 6


def test_two_workers_write_the_same_files_byte_for_byte(tmp_path: Path, source: Path) -> None:
    told: list[tuple[int, int, str]] = []
    for workers in (1, 2):
        summary = compress_file(source, tmp_path / f"{workers}.taut", 0.01, workers=workers)
        decode_file(tmp_path / f"{workers}.taut", tmp_path / f"{workers}.out", lambda *step: told.append(step), workers=workers)
        assert summary.quantized == 6
    assert [name for *_, name in told] == 2 * list(load_state_dict(tmp_path / "1.taut"))
    for kind in ("taut", "out"):
        assert (tmp_path / f"1.{kind}").read_bytes() == (tmp_path / f"2.{kind}").read_bytes()


def test_what_a_worker_finds_wrong_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    bad = {f"w{i}": torch.full((20, 20), float("nan") if i == 3 else 1.0) for i in range(6)}
    save_file(bad, tmp_path / "w.safetensors")
    with pytest.raises(TautError, match="'w3': 400 of 400 values are NaN"):
        compress_file(tmp_path / "w.safetensors", tmp_path / "w.taut", 0.01, workers=2)
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_over_ray_the_file_is_the_same(tmp_path: Path, source: Path) -> None:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        for name, how in (("here", {}), ("there", {"ray": True})):
            compress_file(source, tmp_path / name, 0.01, **how)
    finally:
        ray.shutdown()
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()
