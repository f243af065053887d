"""Graphs that travel in a file: what is refused, and what is left when it is."""

import os

import onnx
import pytest
import torch
from torch import nn

import taut
from taut.codec.reader import TautFile
from taut.compressors import Chain, Codebook, LowRank, Quantize
from taut.errors import FormatError, TautError
from taut.export.carried import draw, export_carried


def network(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    return taut.apply(net, {"0": Quantize(bits=4), "3": Chain(LowRank(rank=3), Quantize(bits=6)), "5": Codebook(k=4)}).eval()


X = torch.randn(2, 1, 6, 6)


@pytest.fixture(scope="module")
def graph():
    return draw(network(), X, way="trace")


def changed(graph, change):
    proto = onnx.load_model_from_string(graph)
    change(proto)
    return proto.SerializeToString()


def place(text):
    def change(proto):
        next(t for t in proto.graph.initializer if t.name == "5.weight").doc_string = text

    return change


def outside(proto):
    tensor = proto.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def outside_in_a_node(proto):
    attribute = proto.graph.node[0].attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.external_data.add(key="location", value="/etc/passwd")


def no_such_operation(proto):
    proto.graph.node[0].op_type = "Frobnicate"


HOSTILE = {
    "not a graph": (lambda graph: b"\xff" * 40, "is damaged"),
    "cut": (lambda graph: graph[:-7], "damaged|does not open"),
    "another record": (lambda graph: changed(graph, place('["3.bias","",[0,1]]')), "'5.weight' is not where"),
    "no record": (lambda graph: changed(graph, place('["7.weight","",[0,1]]')), "there is no tensor '7.weight'"),
    "no part": (lambda graph: changed(graph, place('["3.weight","third",[0,1]]')), "'5.weight' is not where"),
    "axes turned": (lambda graph: changed(graph, place('["5.weight","",[1,0]]')), "not those that the graph was drawn with"),
    "axes that are none": (lambda graph: changed(graph, place('["5.weight","",[0,5]]')), "'5.weight' is not where"),
    "not a place": (lambda graph: changed(graph, place("[" * 5000)), "'5.weight' is not where"),
    "other files": (lambda graph: changed(graph, outside), "names other files"),
    "other files in a node": (lambda graph: changed(graph, outside_in_a_node), "names other files"),
    "an unknown operation": (lambda graph: changed(graph, no_such_operation), "does not open"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_graph_that_is_wrong_is_refused_and_nothing_is_left(tmp_path, graph, kind):
    make, words = HOSTILE[kind]
    taut.save(network(), tmp_path / "m.taut", graph=make(graph))
    with pytest.raises(FormatError, match=words):
        export_carried(tmp_path / "m.taut", tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == ["m.taut"]


def test_the_graph_of_other_weights_is_refused(tmp_path, graph):
    taut.save(network(seed=1), tmp_path / "m.taut", graph=graph)
    with pytest.raises(FormatError, match="not those that the graph was drawn with"):
        export_carried(tmp_path / "m.taut", tmp_path / "m.onnx")


def test_a_file_without_a_graph_says_how_to_have_one(tmp_path):
    taut.save(network(), tmp_path / "m.taut")
    with pytest.raises(TautError, match=r"no graph travels in this file.*--graph"):
        export_carried(tmp_path / "m.taut", tmp_path / "m.onnx")


def test_a_file_with_a_graph_is_read_like_any_other(tmp_path, graph):
    net = network()
    taut.save(net, tmp_path / "m.taut", graph=graph, meta={"who": "me"})
    taut.verify(tmp_path / "m.taut")
    loaded = taut.load(tmp_path / "m.taut", into=nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))).eval()  # fmt: skip
    assert torch.equal(loaded(X), net(X))
    with TautFile(tmp_path / "m.taut") as file:
        assert file.graph == graph and file.meta == {"who": "me"}


def test_other_batch_sizes_run_and_indices_can_be_left_out(tmp_path, graph):
    taut.save(network(), tmp_path / "m.taut", graph=graph)
    small = export_carried(tmp_path / "m.taut", tmp_path / "m.onnx")
    plain = export_carried(tmp_path / "m.taut", tmp_path / "p.onnx", codebooks="off")
    assert small.indexed and not plain.indexed and small.bytes < plain.bytes
    running = taut.runtime.session(tmp_path / "m.onnx")
    x = torch.randn(5, 1, 6, 6)
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(running.run(None, {small.inputs[0]: x.numpy()})[0]), network()(x), atol=1e-5)
