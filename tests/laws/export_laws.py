"""What every exported graph must do, as plain functions; and the models the table is made of."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from taut.codec.files import save
from taut.export.carried import draw, export_carried
from taut.layers import bake, call, evaluating


class Residual(nn.Module):
    """Convolutions with batch norms that have seen data, and a residual join."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 16, 32)
        self.out = nn.Linear(32, 10)
        for bn in (self.bn1, self.bn2):
            bn.running_mean.uniform_(-0.5, 0.5)
            bn.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(bn.weight, 0.5, 1.5)
            nn.init.uniform_(bn.bias, -0.5, 0.5)

    def forward(self, x):
        h = torch.relu(self.bn1(self.stem(x)))
        h = torch.relu(h + self.bn2(self.conv(h)))
        return self.out(torch.relu(self.fc(h.flatten(1))))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(40, 8)
        self.rnn = nn.LSTM(8, 8, batch_first=True, bidirectional=True)
        self.out = nn.Linear(16, 3)

    def forward(self, ids):
        return self.out(self.rnn(self.table(ids))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(40, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.out = nn.Linear(16, 3)

    def forward(self, ids):
        return self.out(self.block(self.table(ids)).mean(1))


class Keywords(nn.Module):
    """A dict in, a dict out, a scalar parameter, an argument that is no tensor, tied weights."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(40, 16)
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids, mask=None, double=False):
        h = self.table(ids) * self.scale
        if mask is not None:
            h = h * mask[..., None]
        logits = self.head(h)
        return {"logits": logits * 2 if double else logits, "state": (h.sum(1), None)}


def _ids():
    return torch.randint(0, 40, (3, 5))


# name: (model, example input)
CASES = {
    "residual": lambda: (Residual(), torch.randn(4, 1, 4, 4)),
    "recurrent": lambda: (Recurrent(), _ids()),
    "attention": lambda: (Attention(), (_ids(),)),
    "grouped": lambda: (
        nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(8, 24)),
        torch.randn(1, 4, 5, 5),
    ),
    "keywords": lambda: (Keywords(), {"ids": _ids(), "mask": torch.ones(3, 5), "double": True}),
}


def case(name):
    torch.manual_seed(1)
    model, example = CASES[name]()
    return model.eval(), example


def _arrays(value):
    if isinstance(value, torch.Tensor):
        return [value.numpy()]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [array for child in children for array in _arrays(child)]


def check_outputs(path: Path, model: nn.Module, example, atol: float = 1e-4) -> None:
    """A plain ONNX Runtime session gives torch's outputs: written apart from the library's own check, on its own inputs."""
    running = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [v.name for v in running.get_inputs()]
    for rows in (1, 2, 7):
        index = torch.arange(rows) % 1
        items = example if isinstance(example, dict) else dict(zip(names, example if isinstance(example, tuple) else (example,)))
        batch = {k: v[index] * 1 if isinstance(v, torch.Tensor) else v for k, v in items.items()}
        batch = {k: torch.randn_like(v) if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in batch.items()}
        with evaluating(model), torch.no_grad():
            want = _arrays(call(model, batch if isinstance(example, dict) else tuple(batch.values())))
        got = running.run(None, {name: batch[name].numpy() for name in names})
        assert len(want) == len(got)
        for a, b in zip(got, want, strict=True):
            assert a.shape == b.shape
            assert np.abs(a - b).max() <= atol, f"outputs differ by {np.abs(a - b).max()}"


def decoded(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Every weight that the graph decodes, restored by numpy: ``codebook[indices]``."""
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    casts = {n.output[0]: n.input[0] for n in proto.graph.node if n.op_type == "Cast" and n.input[0] in tensors}
    return {
        n.output[0]: tensors[n.input[0]][tensors[casts[n.input[1]]]]
        for n in proto.graph.node
        if n.op_type == "Gather" and n.input[1] in casts and n.input[0] in tensors
    }


def check_bits(path: Path, model: nn.Module, names: tuple[str, ...]) -> None:
    """The weights stored as indices are those of the model, bit for bit."""
    state = {k: v.numpy() for k, v in bake(model).state_dict().items()}
    found = decoded(onnx.load(path))
    for name in names:
        assert name in state, f"{name} is no tensor of the model"
        assert any(a.shape == state[name].shape and a.tobytes() == state[name].tobytes() for a in found.values()), name


def check_gathered_only_where_smaller(dense, gathered) -> None:
    """Indices are used if, and only if, the file gets smaller."""
    assert gathered.dense_bytes == dense.bytes == dense.path.stat().st_size
    assert gathered.bytes == gathered.path.stat().st_size
    assert not dense.indexed
    assert (gathered.bytes < dense.bytes) if gathered.indexed else (gathered.bytes == dense.bytes)


def check_travels(model: nn.Module, example, exported: Path, folder: Path, way: str) -> None:
    """From a file with its graph comes the ONNX file that the network's code gives, byte for byte; the weights are in it once."""
    plain = save(model, folder / "plain.taut")
    graph = draw(model, example, way=way)
    whole = save(model, folder / "whole.taut", graph=graph)
    carried = export_carried(folder / "whole.taut", folder / "carried.onnx")
    assert carried.path.read_bytes() == exported.read_bytes()
    kept = sum(len(t.raw_data) for t in onnx.load_model_from_string(graph).graph.initializer)
    assert whole - plain < 4000 and kept < 300, f"{whole - plain} bytes, of which {kept} are weights"
    for name in ("plain.taut", "whole.taut", "carried.onnx"):
        (folder / name).unlink()


def run_ops(path: Path, folder: Path) -> Counter:
    """The operations that ONNX Runtime executes, after its own optimisation."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def check_decoded_once(dense: Path, gathered: Path, folder: Path) -> None:
    """Opening the file restores the dense weights: what runs on every call is what the dense graph runs."""
    assert run_ops(gathered, folder) == run_ops(dense, folder)
