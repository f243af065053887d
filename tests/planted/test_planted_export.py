"""A graph that computes something else is refused, and nothing is left behind; and each export law can fail."""

import numpy as np
import onnx
import pytest
import torch
from laws.export_laws import (
    case,
    check_bits,
    check_decoded_once,
    check_gathered_only_where_smaller,
    check_outputs,
)

from taut.apply import apply
from taut.compressors.codebook import Codebook
from taut.errors import ParityError, TautError
from taut.export import gather
from taut.export import onnx as export
from taut.export.onnx import export_onnx


@pytest.fixture(scope="module")
def coded():
    model, example = case("residual")
    return apply(model, {"conv": Codebook(k=4), "fc": Codebook(k=4)}), example


@pytest.fixture(scope="module")
def good(coded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    return (export_onnx(coded[0], folder / "dense.onnx", coded[1], codebooks="off", way="trace"),
            export_onnx(coded[0], folder / "m.onnx", coded[1], way="trace"))  # fmt: skip


def corrupt(proto, name, change):
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor).copy()), name))
            return proto
    raise AssertionError(f"no initializer {name}: {[t.name for t in proto.graph.initializer]}")


def shift_index(values):
    values.reshape(-1)[:40] = (values.reshape(-1)[:40] + 1) % 4
    return values


def test_a_wrong_index_is_refused_and_leaves_nothing(coded, tmp_path, monkeypatch):
    def planted(*given):
        new, names = gather.gather_weights(*given)
        return corrupt(new, "fc.weight.indices", shift_index), names

    monkeypatch.setattr(export, "gather_weights", planted)
    with pytest.raises(ParityError, match="differ from torch's, by at most"):
        export_onnx(coded[0], tmp_path / "m.onnx", coded[1], way="trace")
    assert list(tmp_path.iterdir()) == []


def test_a_corrupted_weight_is_refused_and_the_older_file_stays(coded, tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(b"older")
    monkeypatch.setattr(export, "optimise", lambda proto: corrupt(gather.optimise(proto), "out.bias", lambda v: v + 0.01))
    with pytest.raises(ParityError):
        export_onnx(coded[0], tmp_path / "m.onnx", coded[1], way="trace")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"older"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_an_interrupted_export_leaves_nothing(coded, tmp_path, monkeypatch, stop):
    def planted(*_args, **_kwargs):
        raise stop("No space left on device")

    monkeypatch.setattr(export, "check_parity", planted)
    with pytest.raises(TautError if stop is OSError else stop):
        export_onnx(coded[0], tmp_path / "m.onnx", coded[1], way="trace")
    assert list(tmp_path.iterdir()) == []


def test_a_codebook_that_does_not_give_the_weight_back_is_refused(coded, tmp_path, monkeypatch):
    def planted(values):
        found = split(values)
        return found and (found[0], shift_index(found[1]))

    split = gather.split
    monkeypatch.setattr(gather, "split", planted)
    with pytest.raises(TautError, match="do not give the weight back"):
        export_onnx(coded[0], tmp_path / "m.onnx", coded[1], way="trace")


def test_a_model_that_fixes_its_batch_size_is_refused(tmp_path):
    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(x) * float(x.shape[0])

    with pytest.raises(ParityError, match="batch of"):
        export_onnx(Fixed(), tmp_path / "m.onnx", torch.randn(2, 4), way="trace")
    report = export_onnx(Fixed(), tmp_path / "m.onnx", torch.randn(2, 4), way="trace", dynamic_batch=False)
    assert report.checks == 2


def test_the_law_of_outputs_can_fail(coded, good, tmp_path):
    proto = corrupt(onnx.load(good[1].path), "fc.weight.indices", shift_index)
    onnx.save(proto, tmp_path / "bad.onnx")
    with pytest.raises(AssertionError, match="outputs differ"):
        check_outputs(tmp_path / "bad.onnx", *coded)


def test_the_law_of_bits_can_fail(coded, good, tmp_path):
    proto = corrupt(onnx.load(good[1].path), "fc.weight.codebook", lambda v: np.nextafter(v, np.float32(9)))
    onnx.save(proto, tmp_path / "bad.onnx")
    with pytest.raises(AssertionError, match="fc.weight"):
        check_bits(tmp_path / "bad.onnx", coded[0], good[1].indexed)


def test_the_law_of_sizes_can_fail(good, monkeypatch, coded, tmp_path):
    with pytest.raises(AssertionError):
        check_gathered_only_where_smaller(good[1], good[0])
    # indices used although they cost more
    monkeypatch.setattr(gather, "FIELD", -10_000)
    monkeypatch.setattr(export, "smallest", lambda proto, dense: _always(proto))
    model, example = case("grouped")
    dense = export_onnx(model, tmp_path / "dense.onnx", example, codebooks="off", way="trace")
    with pytest.raises(AssertionError):
        check_gathered_only_where_smaller(dense, export_onnx(model, tmp_path / "m.onnx", example, way="trace"))


def _always(proto):
    new, names = gather.gather_weights(proto)
    return gather.optimise(new), names


def test_the_law_of_decoding_once_can_fail(good, tmp_path):
    proto = onnx.load(good[1].path)
    # a codebook that arrives with every call cannot be folded
    tensor = next(t for t in proto.graph.initializer if t.name == "fc.weight.codebook")
    proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, onnx.TensorProto.FLOAT, list(tensor.dims)))
    onnx.save(proto, tmp_path / "bad.onnx")
    with pytest.raises(AssertionError):
        check_decoded_once(good[0].path, tmp_path / "bad.onnx", tmp_path)
