"""Files as a user meets them: saving, loading, looking in, and everything that can go wrong on the way."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from taut.codec import files, writer
from taut.codec.files import TensorInfo, file_size, inspect, load, load_state_dict, record_sizes, save, sizes, verify
from taut.codec.reader import TautFile
from taut.codec.records import encode
from taut.compressors import Chain, Codebook, LowRank, Prune
from taut.compressors.base import _same
from taut.errors import FormatError, LayerError, TautError
from taut.layers import Alias, codes, find_layers, put


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.fc1, self.fc2 = nn.Linear(6 * 36, 30), nn.Linear(30, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.conv(x))).flatten(1)
        return self.fc2(torch.relu(self.fc1(x)))


def compressed() -> Net:
    torch.manual_seed(0)
    net = Net()
    net(torch.randn(8, 1, 8, 8))
    layers = find_layers(net)
    put(net, layers["conv"], Codebook(k=4).compress(layers["conv"].weight.detach()))
    put(net, layers["fc1"], Chain(Prune(density=0.2), Codebook(k=8)).compress(layers["fc1"].weight.detach()))
    put(net, layers["fc2"], LowRank(rank=2).compress(layers["fc2"].weight.detach()))
    return net.eval()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.taut"


def test_outputs_come_back_bit_for_bit(path: Path) -> None:
    net = compressed()
    written = save(net, path)
    assert written == os.path.getsize(path) == file_size(net)
    back = load(path, Net()).eval()
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(back(x), net(x))
    for name, value in codes(net).items():
        assert _same(codes(back)[name], value), name


def test_the_checksum_is_the_last_four_bytes(path: Path) -> None:
    import zlib

    save(compressed(), path)
    data = path.read_bytes()
    assert int.from_bytes(data[-4:], "little") == zlib.crc32(data[:-4])


def test_equal_bytes_on_every_run(tmp_path: Path) -> None:
    for name in "ab":
        save(compressed(), tmp_path / name, meta={"z": 1, "a": [1, 2]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_dense_tensors_and_sizes(path: Path) -> None:
    net = compressed()
    save(net, path)
    dense, records = load_state_dict(path), record_sizes(net)
    assert list(dense) == list(codes(net)) == list(Net().state_dict()) == list(records)
    assert torch.equal(dense["fc1.weight"], net.fc1.weight)
    for name, value in codes(net).items():
        assert records[name] == len(encode(value))
    assert sizes(net) == (records, os.path.getsize(path))


def test_inspect_says_where_the_bytes_go(path: Path) -> None:
    net = compressed()
    save(net, path, meta={"by": "test"})
    info = inspect(path)
    found = {t.name: t for t in info.tensors}
    assert {n: found[n].chain for n in ("conv.weight", "fc1.weight", "fc2.weight", "bn.bias")} == {
        "conv.weight": "Codebook", "fc1.weight": "Prune -> Codebook", "fc2.weight": "LowRank", "bn.bias": "dense",
    }
    assert set(found["fc1.weight"].parts) == {"values.centroids", "values.indices", "mask", "header"}
    assert found["fc1.weight"].shape == (30, 216) and found["bn.num_batches_tracked"].dtype == "int64"
    assert {n: t.bytes for n, t in found.items()} == record_sizes(net)
    for tensor in info.tensors:
        assert sum(tensor.parts.values()) == tensor.bytes and min(tensor.parts.values()) >= 0
    assert info.bytes == os.path.getsize(path) == info.overhead + sum(t.bytes for t in info.tensors)
    assert info.meta == {"by": "test"}
    assert info.ratio == pytest.approx(4 * sum(t.numel() for t in Net().state_dict().values()) / info.bytes)
    assert TensorInfo("w", "dense", (8,), "float32", 4).bits_per_weight == 4.0


def test_meta_costs_nothing_when_empty_and_must_be_json(path: Path) -> None:
    net = nn.Linear(2, 2)
    assert file_size(net) == file_size(net, {}) < file_size(net, {"a": 1})
    save(net, path, meta={"a": [1, {"b": None}]})
    with TautFile(path) as file:
        assert file.meta == {"a": [1, {"b": None}]}
    for bad in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises(TautError, match="JSON"):
            save(net, path, meta=bad)


def test_ties_are_stored_once(path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
            self.out.weight = self.embed.weight

    net = Tied()
    assert save(net, path) < 1.2 * 4 * 50 * 16
    dense = load_state_dict(path)
    assert dense["out.weight"] is dense["embed.weight"]
    back = load(path, Tied())
    assert back.out.weight is back.embed.weight and torch.equal(back.out.weight, net.out.weight)
    assert inspect(path).tensors[1].chain == "= embed.weight"


def test_a_tie_to_nothing_is_refused(path: Path) -> None:
    with pytest.raises(TautError, match="tied to 'b'"):
        save({"a": Alias("b")}, path)
    assert not path.exists()


def test_original_shapes_come_back(path: Path) -> None:
    net = nn.Linear(4, 3)
    plain = file_size(net)
    net.__dict__["_taut_dense_shapes"] = {"weight": (3, 9), "elsewhere": (7,)}
    save(net, path)
    with TautFile(path) as file:
        assert file.dense_shapes == {"weight": (3, 9), "elsewhere": (7,)}
    assert file_size(net) - plain <= 24


def test_reading_one_tensor_decodes_no_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = {"a": torch.randn(600, 600), "b": torch.arange(10), "c": torch.randn(3)}
    save(big, path)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with TautFile(path) as file:
        assert file.names() == ["a", "b", "c"]
        assert torch.equal(file.tensor("b"), big["b"]) and torch.equal(file.tensor("c"), big["c"])
        with pytest.raises(FormatError, match=r"m\.taut: tensor 'a': its checksum"):
            file.tensor("a")
        with pytest.raises(FormatError, match="checksum"):
            file.verify()
    for read in (load_state_dict, verify):
        with pytest.raises(FormatError, match="checksum"):
            read(path)


def test_every_flip_in_the_index_of_a_large_file_is_seen(path: Path) -> None:
    save({"a": torch.randn(600, 600), "b": torch.arange(10)}, path)
    data = path.read_bytes()
    for at in [*range(5), *range(len(data) - 60, len(data))]:
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(FormatError):
            load_state_dict(path)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"])
def test_a_write_that_fails_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    save(nn.Linear(2, 2), path)
    old = path.read_bytes()

    def fail(_: int) -> None:
        raise error

    monkeypatch.setattr(writer.os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else TautError, match="disk is full|^$"):
        save(nn.Linear(3, 3), path)
    assert path.read_bytes() == old and os.listdir(path.parent) == ["m.taut"]


def test_a_tensor_that_cannot_be_stored_is_named_and_nothing_is_left(path: Path) -> None:
    with pytest.raises(TautError, match=r"bad: .*complex"):
        save({"good": torch.ones(3), "bad": torch.ones(3, dtype=torch.complex64)}, path)
    assert not os.listdir(path.parent)


@pytest.mark.parametrize("where", ["missing/m.taut", "."])
def test_a_place_that_cannot_be_written(tmp_path: Path, where: str) -> None:
    with pytest.raises(TautError, match="cannot be written"):
        save(nn.Linear(2, 2), tmp_path / where)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("hello, this is no model")
    messages = {"empty": "not a .taut file", "text": "not a .taut file", "none": "No such file", ".": "directory"}
    for name, message in messages.items():
        with pytest.raises(FormatError, match=message):
            load_state_dict(tmp_path / name)


def test_another_network_is_refused(path: Path) -> None:
    save(compressed(), path)
    with pytest.raises(LayerError):
        load(path, nn.Linear(300, 300))


def test_limits_can_be_raised_by_hand(path: Path) -> None:
    save({"w": torch.zeros(3000, 3000)}, path)
    with pytest.raises(FormatError, match="max_elements=9000000"):
        load_state_dict(path)
    assert load_state_dict(path, max_elements=9_000_000)["w"].shape == (3000, 3000)
    assert load(path, Zero()).w.shape == (3000, 3000)


class Zero(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3000, 3000))


def test_unknown_names_are_listed(path: Path) -> None:
    save(nn.Linear(2, 2), path)
    with TautFile(path) as file, pytest.raises(FormatError, match="no tensor 'w'; the file holds 2: weight, bias"):
        file.code("w")


def test_states_are_saved_like_models(tmp_path: Path) -> None:
    net = compressed()
    state: dict[str, Any] = codes(net)
    save(net, tmp_path / "a")
    save(state, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert files.state_of(state)[1] == {}
