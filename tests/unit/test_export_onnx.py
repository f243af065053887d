"""The export's own behaviour: names, inputs of every form, what it refuses, and that it stays quiet."""

import logging
import sys
import warnings

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws.export_laws import Residual, case, check_bits, check_outputs
from torch import nn

from taut.apply import apply
from taut.compressors.codebook import Codebook
from taut.compressors.low_rank import LowRank
from taut.compressors.prune import Prune
from taut.errors import ExtraError, TautError
from taut.export.gather import gather_weights, optimise, split
from taut.export.onnx import export_onnx
from taut.flat import flatten, input_names, rebuild, with_batch
from taut.graph import to_graph

SMALL = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """One export through torch.export, shared: the residual network, its second convolution on a codebook."""
    model, example = case("residual")
    model = apply(model, {"conv": Codebook(4), "fc": LowRank(4)})
    report = export_onnx(model, tmp_path_factory.mktemp("exported") / "m.onnx", example)
    check_outputs(report.path, model, example)
    check_bits(report.path, model, report.indexed)
    return report


def test_the_report_tells_what_was_written(exported):
    proto = onnx.load(exported.path)
    onnx.checker.check_model(proto, full_check=True)
    assert exported.bytes == exported.path.stat().st_size
    assert exported.indexed == ("conv.weight",)
    assert exported.way == "export"
    assert (exported.inputs, exported.outputs) == (("x",), ("output",))
    assert proto.opset_import[0].version == exported.opset == 18
    assert 0 <= exported.max_difference <= 1e-4
    assert exported.checks == 6


def test_the_graph_has_the_compressed_structure(exported):
    tensors = {t.name: tuple(t.dims) for t in onnx.load(exported.path).graph.initializer}
    assert tensors["fc.0.weight"] == (4, 128)
    assert tensors["fc.1.weight"] == (32, 4)
    assert tensors["conv.weight.indices"] == (8, 8, 3, 3)
    assert tensors["conv.weight.codebook"][0] <= 4


def test_a_low_rank_layer_in_a_transformer_stays_two_layers():
    model, example = case("attention")
    model = apply(model, {"block.linear1": LowRank(2)})
    names = {t.name for t in to_graph(model, example, ways=("trace",)).proto.graph.initializer}
    assert {"block.linear1.0.weight", "block.linear1.1.weight"} <= names


def test_the_file_holds_no_paths_of_this_machine(exported):
    assert __file__.rpartition("/")[0].encode() not in exported.path.read_bytes()
    assert b"site-packages" not in exported.path.read_bytes()


def test_the_same_model_gives_the_same_bytes(tmp_path):
    paths = [export_onnx(SMALL, tmp_path / f"{i}.onnx", torch.randn(2, 4), way="trace").path for i in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_model_is_not_changed(tmp_path):
    model, example = Residual().train(), torch.randn(2, 1, 4, 4)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    export_onnx(model, tmp_path / "m.onnx", example, way="trace")
    assert all(m.training for m in model.modules())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_it_is_quiet(tmp_path, capfd, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_onnx(SMALL, tmp_path / "m.onnx", torch.randn(2, 4))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_named(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExtraError, match=rf"{package} is not installed.*taut\[onnx\]"):
        export_onnx(SMALL, tmp_path / "m.onnx", torch.randn(2, 4))
    assert list(tmp_path.iterdir()) == []


class Branches(nn.Module):
    """What torch.export cannot follow and tracing can."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x) if float(x.detach().abs().sum()) >= 0 else self.fc(-x)


def test_tracing_is_the_fallback(tmp_path):
    assert export_onnx(Branches(), tmp_path / "m.onnx", torch.randn(2, 4)).way == "trace"
    with pytest.raises(TautError, match="Branches cannot be turned into an ONNX graph.*export:"):
        export_onnx(Branches(), tmp_path / "n.onnx", torch.randn(2, 4), way="export")


class Nothing(nn.Module):
    def forward(self, x):
        return None


def broken():
    model = nn.Sequential(nn.Linear(4, 2))
    model[0].weight.data[0, 0] = float("nan")
    return model


@pytest.mark.parametrize(
    ("model", "keywords", "said"),
    [
        (SMALL, {"codebooks": "always"}, 'choose "auto" or "off"'),
        (SMALL, {"way": "magic"}, 'choose "auto", "export" or "trace"'),
        (SMALL, {"path": "missing/m.onnx"}, "is no folder"),
        (SMALL, {"path": "."}, "is a folder"),
        (SMALL, {"example": torch.zeros(0, 4)}, "empty batch"),
        (Nothing(), {}, "returns no tensor"),
        (broken(), {}, "NaN or infinite"),
    ],
)
def test_bad_input_gets_one_clear_error(model, keywords, said, tmp_path):
    keywords = dict(keywords)
    path, example = tmp_path / keywords.pop("path", "m.onnx"), keywords.pop("example", torch.zeros(2, 4))
    with pytest.raises(TautError, match=said):
        export_onnx(model, path, example, **keywords)
    assert list(tmp_path.iterdir()) == []


def test_half_precision_and_double(tmp_path):
    for dtype, tolerance in ((torch.float16, 1e-2), (torch.float64, 1e-9)):
        model = apply(nn.Sequential(nn.Linear(16, 64)).to(dtype), {"*": Codebook(4)})
        report = export_onnx(model, tmp_path / "m.onnx", torch.randn(2, 16, dtype=dtype), atol=tolerance, way="trace")
        assert report.indexed == ("0.weight",)
        assert report.bytes < report.dense_bytes


def test_a_pruned_weight_takes_two_bytes_an_element(tmp_path):
    model = apply(nn.Sequential(nn.Linear(128, 128)), {"*": Prune(0.1)})
    report = export_onnx(model, tmp_path / "m.onnx", torch.randn(2, 128), way="trace")
    assert report.bytes < 0.7 * report.dense_bytes


# --- gather ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(1, 3000), st.sampled_from(["float16", "float32", "float64"]), st.integers(0, 99))
def test_split_restores_every_bit(values, size, dtype, seed):
    rng = np.random.default_rng(seed)
    book = rng.standard_normal(values).astype(dtype)
    book[0] = -0.0
    if values > 1:
        book[1] = 0.0
    weight = book[rng.integers(0, values, size)]
    found, indices = split(weight)
    assert found[indices].tobytes() == weight.tobytes()
    assert indices.dtype == (np.uint8 if len(found) <= 256 else np.uint16)


def test_split_gives_up_on_dense_weights():
    assert split(np.random.default_rng(0).standard_normal(200_000).astype(np.float32)) is None
    assert split(np.arange(65_537, dtype=np.float32)) is None
    assert split(np.arange(65_536, dtype=np.float32))[1].dtype == np.uint16


def test_indices_only_where_smaller_tensor_by_tensor():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2))
    for layer in model:
        layer.weight.data = layer.weight.data.sign()
    proto = to_graph(model, torch.randn(2, 64), ways=("trace",)).proto
    new, names = gather_weights(proto)
    # 512 bytes of the second weight hardly pay for two nodes and a codebook; its bias never does
    assert names[0] == "0.weight"
    assert "1.bias" not in names
    assert new.ByteSize() < proto.ByteSize()
    assert optimise(new).ByteSize() < optimise(proto).ByteSize()


# --- flat -----------------------------------------------------------------------------------------------------------------


def test_flatten_and_rebuild_are_inverse():
    value = {"a": torch.zeros(2), "b": (torch.ones(3), None, [torch.ones(1)]), "flag": True}
    names, tensors = zip(*flatten(value), strict=True)
    assert names == ("a", "b_0", "b_2_0")
    back = rebuild(value, iter([t + 1 for t in tensors]))
    assert back["flag"] is True
    assert back["b"][1] is None
    assert [t.tolist() for _, t in flatten(back)] == [[1, 1], [2, 2, 2], [2]]


def test_inputs_are_named_after_the_arguments():
    class Two(nn.Module):
        def forward(self, left, right=None, *rest):
            return left

    z = torch.zeros(2)
    assert input_names(Two(), z) == ["left"]
    assert input_names(Two(), (z, (z, z), z)) == ["left", "right_0", "right_1", "input_2"]
    assert input_names(Two(), {"right": z, "left": z}) == ["right", "left"]


def test_with_batch_repeats_rows_only():
    example = {"x": torch.arange(6).reshape(2, 3), "table": torch.zeros(5, 3), "flag": True, "scalar": torch.tensor(1.0)}
    five = with_batch(example, 5)
    assert five["x"].tolist() == [[0, 1, 2], [3, 4, 5]] * 2 + [[0, 1, 2]]
    assert five["table"].shape == (5, 3)
    assert five["scalar"].dim() == 0
    with pytest.raises(TautError, match="at least one input"):
        with_batch(example, 0)
