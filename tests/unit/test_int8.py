"""Graphs of 8-bit integers: what is written is what is scored, and what cannot be written leaves nothing behind."""

import onnxruntime.quantization
import pytest
import torch
from torch import nn

import taut
from taut.compressors import Chain, Codebook, LowRank, Quantize
from taut.errors import BudgetError, TautError
from taut.export import int8
from taut.export.int8 import Running, export_int8
from taut.measure import evaluate
from taut.runtime import session


def batches(count, seed):
    """Rows of images of which a class has more light in one half."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (count,), generator=draw)
    x = 0.5 * torch.randn(count, 1, 8, 8, generator=draw)
    x[:, :, :4] += y[:, None, None, None].float()
    return list(zip(x.split(64), y.split(64), strict=True))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(72, 256), nn.ReLU(), nn.Linear(256, 2),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for x, y in 5 * batches(640, 0):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


X, VAL = torch.zeros(1, 1, 8, 8), batches(500, 1)


CODED = {"3": Codebook(k=16), "6": Chain(LowRank(rank=30), Quantize(bits=8))}


@pytest.mark.parametrize("plan", [{}, CODED], ids=["plain", "coded"])
def test_what_is_told_is_measured_on_the_file(net, plan, tmp_path):
    model = taut.apply(net, plan).eval()
    report = export_int8(model, tmp_path / "m.onnx", X, VAL, calibration=batches(640, 0), way="trace")
    assert report.bytes == (tmp_path / "m.onnx").stat().st_size < report.float_bytes
    assert report.weights == (5 if plan else 4)  # low rank makes two of one
    assert report.before.metric == pytest.approx(evaluate(model, VAL).metric)
    again = evaluate(Running(session(tmp_path / "m.onnx")), VAL)
    assert (again.loss, again.metric, again.count) == (report.after.loss, report.after.metric, 500)
    assert report.after.metric > report.before.metric - 0.01 > 0.9
    assert 0 < report.latency_low <= report.latency <= report.latency_high
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_quantizer_that_spoils_the_weights_is_seen(net, tmp_path, monkeypatch):
    right = onnxruntime.quantization.quantize_static

    def spoiled(model, out, reader, **settings):
        graph = onnx.load(model)
        for tensor in graph.graph.initializer:
            if len(tensor.dims) > 1:
                values = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(-values, tensor.name))
        right(graph, out, reader, **settings)

    onnx = pytest.importorskip("onnx")
    monkeypatch.setattr(onnxruntime.quantization, "quantize_static", spoiled)
    report = export_int8(net, tmp_path / "m.onnx", X, VAL, way="trace")
    assert report.after.metric < report.before.metric - 0.1


def test_calibration_sees_so_many_inputs_and_no_more(net, tmp_path):
    reader = int8._Reader(_float(net, tmp_path), VAL, 150)
    sizes = []
    while (arrays := reader.get_next()) is not None:
        sizes.append([len(array) for array in arrays.values()])
    assert sizes == [[64], [64], [22]]


def _float(net, folder):
    taut.export_onnx(net, folder / "float.onnx", X, way="trace")
    return session(folder / "float.onnx")


def test_named_inputs_without_targets_are_held_against_the_network(tmp_path):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = nn.Embedding(50, 32), nn.Linear(32, 5)

        def forward(self, ids, mask):
            return self.out((self.table(ids) * mask[..., None]).mean(1))

    torch.manual_seed(0)
    model = Tokens().eval()
    data = [{"ids": torch.randint(0, 50, (40, 6)), "mask": torch.ones(40, 6)} for _ in range(3)]
    example = {"ids": torch.zeros(2, 6, dtype=torch.long), "mask": torch.ones(2, 6)}
    report = export_int8(model, tmp_path / "m.onnx", example, data, way="trace")
    assert report.before.metric == 1.0 and report.after.metric > 0.95 and report.after.count == 120


def test_what_cannot_be_written_leaves_what_was_there(net, tmp_path):
    (tmp_path / "m.onnx").write_text("before")
    with pytest.raises(TautError, match="found no weight"):
        export_int8(nn.Sequential(nn.Flatten(), nn.ReLU()), tmp_path / "m.onnx", X, VAL)
    with pytest.raises(BudgetError, match="validation data is empty"):
        export_int8(net, tmp_path / "m.onnx", X, [])
    with pytest.raises(TautError, match="cannot put the graph on 8-bit integers"):
        export_int8(net, tmp_path / "m.onnx", X, [torch.zeros(4, 2, 8, 8)], way="trace")
    with pytest.raises(TautError, match="is no folder"):
        export_int8(net, tmp_path / "none" / "m.onnx", X, VAL)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
