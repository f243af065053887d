"""The ways that study ``peers`` compares: tools that can be installed, chained as their pages show, and taut.

A way is given a :class:`Task` and one setting, and gives what came out of it: networks and the whole files they are in. Those
that train may do so for ``epochs`` in all, with the same loss (labels and the original network's outputs), optimizer and data.
"""

import copy
import io
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import standard_codec
import torch
from int8_chains import nncf_int8, onnxruntime_int8
from safetensors.torch import save
from torch import nn

import taut
from taut.bench.data import Batches, Split, Splits
from taut.budget import Budget, Recovery, Shrink, compress
from taut.budget.recover import recover
from taut.objective import Objective
from taut.parametrizations import Entropy

QPS = (-24, -22, -20, -18, -16, -14, -12)
"""Of the standard's codec, from the largest file to the smallest."""
RATIOS = (0.6, 0.7, 0.75, 0.8, 0.85)
"""Of Torch-Pruning: the part of every layer's filters that goes."""
SIZES = (1 / 100, 1 / 150, 1 / 225, 1 / 340, 1 / 500)
"""Of the dense file, that entropy-penalised training aims at."""
SMALL = (1 / 340, 1 / 500, 1 / 610, 1 / 750)
"""The same, of a network that is narrow."""
WIDTHS = (0.3, 0.2)
"""What :class:`taut.budget.Shrink` leaves of the width before it."""
EVENLY = 0.25
"""The same, of every layer, as Torch-Pruning does: all widths are multiples of eight then."""
EVERYTHING = Budget(metric_drop=1.0)
"""The points of a curve are wanted, whatever they lose."""


@dataclass(frozen=True)
class Task:
    """A trained network, its data, and what each way may train: ``epochs`` in all at the learning rate ``lr``."""

    network: nn.Module
    splits: Splits
    batch: int
    augment: str
    epochs: int
    lr: float
    seed: int

    @property
    def train(self) -> Batches:
        return Batches(self.splits.train, self.batch, seed=self.seed, augment=self.augment)

    @property
    def val(self) -> Batches:
        return Batches(self.splits.val, 250, shuffle=False)


@dataclass(frozen=True)
class Found:
    """A network, as it is read back from ``file``, and how it came about; none if the file is a graph that runs as it is."""

    model: nn.Module | None
    file: bytes
    how: dict[str, Any]


def safetensors(task: Task, _: Any) -> Iterator[Found]:
    """The weights as they are, in 32 bits."""
    yield Found(task.network, save(task.network.state_dict()), {})


def zstd(task: Task, level: int) -> Iterator[Found]:
    """A general compressor on the same file; nothing is lost."""
    import zstandard

    yield Found(task.network, zstandard.ZstdCompressor(level=level).compress(save(task.network.state_dict())), {})


def zipnn(task: Task, _: Any) -> Iterator[Found]:
    """A compressor made for weights; nothing is lost."""
    import zipnn as peer

    file = bytearray(save(task.network.state_dict()))  # it overwrites what it is given
    yield Found(task.network, bytes(peer.ZipNN(bytearray_dtype="float32").compress(file)), {})


def torchao(task: Task, bits: int) -> Iterator[Found]:
    """Weights of linear layers on integers with one scale a row, by rounding; convolutions are not among what it quantizes."""
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    model = copy.deepcopy(task.network)
    quantize_(model, Int8WeightOnlyConfig() if bits == 8 else Int4WeightOnlyConfig())
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    plain = {name: v.dequantize() if hasattr(v, "dequantize") else v for name, v in model.state_dict().items()}
    back = copy.deepcopy(task.network)
    back.load_state_dict(plain)
    yield Found(back, file.getvalue(), {})


def integers(task: Task, quantize: Callable[[nn.Module, Split], bytes]) -> Iterator[Found]:
    """The graph of the network on 8-bit integers, activations too; nothing is trained."""
    yield Found(None, quantize(task.network, task.splits.train), {})


def standard(task: Task, _: Any) -> Iterator[Found]:
    """The standard's codec on the network as it was trained."""
    yield from _standard(task.network)


def _standard(network: nn.Module) -> Iterator[Found]:
    for qp in QPS:
        stream, back, _, _ = standard_codec.coded(network, qp)
        yield Found(back, stream, {"qp": qp})


def rate_aware(task: Task, drop: float) -> Iterator[Found]:
    """Without training: one price of a bit for all layers, as high as a drop in points allows."""
    result = compress(task.network, task.train, task.val, Budget(metric_drop=drop / 100), recover=False, seed=task.seed)
    yield _saved(task, result.model, {"max_drop": drop})


def pruned(task: Task, ratio: float) -> Iterator[Found]:
    """Torch-Pruning as its page shows it, all epochs of fine-tuning, then the standard's codec at each of its settings."""
    import torch_pruning as tp

    small, x = copy.deepcopy(task.network), task.splits.example_input
    importance, last = tp.importance.GroupMagnitudeImportance(p=2), list(small.modules())[-1]
    tp.pruner.BasePruner(small, x, importance=importance, pruning_ratio=ratio, ignored_layers=[last]).step()
    small.requires_grad_(True)
    how = Recovery(epochs=task.epochs, lr=task.lr)
    recover(small, task.network, task.train, Objective(), how, seed=task.seed, deadline=math.inf)
    small.eval()
    yield Found(small, save(small.state_dict()), {"qp": None})
    yield from _standard(small)


def entropy(task: Task, size: float) -> Iterator[Found]:
    """Entropy-penalised training alone, towards one size, for all epochs."""
    yield _compressed(task, [Entropy()], task.epochs, size, {})


def narrowed(task: Task, size: float) -> Iterator[Found]:
    """Both together: narrower layers, half of the epochs to recover, then entropy-penalised training for the other half."""
    for width in WIDTHS:
        methods = [Shrink(keep=width, step=width), Entropy()]
        yield _compressed(task, methods, task.epochs // 2, size, {"width": width})


def narrowed_evenly(task: Task, size: float) -> Iterator[Found]:
    """Both, with the same part of each layer, which leaves less arithmetic; a sixth of the epochs to recover, the rest with the
    entropy's penalty, which recovers too.
    """
    first = task.epochs // 6
    methods = [Shrink(keep=EVENLY, step=EVENLY, scope="layer", epochs=first), Entropy()]
    yield _compressed(task, methods, task.epochs - first, size, {"width": EVENLY, "scope": "layer"})


def _compressed(task: Task, methods: list[Any], epochs: int, size: float, how: dict[str, Any]) -> Found:
    recovery = Recovery(epochs=epochs, lr=task.lr, first=size)
    result = compress(
        task.network, task.train, task.val, EVERYTHING, methods=methods, recover=recovery, seed=task.seed, max_steps=len(methods)
    )
    return _saved(task, result.model, how)


def _saved(task: Task, model: nn.Module, how: dict[str, Any]) -> Found:
    """A network of taut, written and read back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.taut")
        taut.save(model, path)
        return Found(taut.load(path, into=copy.deepcopy(task.network)).eval(), path.read_bytes(), how)


@dataclass(frozen=True)
class Way:
    """``settings``, and what one of them gives; ``ending`` that of the file's name."""

    settings: tuple[Any, ...]
    make: Callable[[Task, Any], Iterator[Found]]
    ending: str = "bin"


WAYS = {
    "safetensors": Way((0,), safetensors, "safetensors"),
    "zstd": Way((19,), zstd, "zst"),
    "zipnn": Way((0,), zipnn, "znn"),
    "torchao": Way((8,), torchao, "pt"),
    "ONNX Runtime int8": Way((8,), lambda task, _: integers(task, onnxruntime_int8), "onnx"),
    "NNCF int8": Way((8,), lambda task, _: integers(task, nncf_int8), "onnx"),
    "nncodec": Way((0,), standard, "nnc"),
    "Torch-Pruning + nncodec": Way(RATIOS, pruned, "nnc"),
    "taut, not trained": Way((0.0, 0.5, 1.0), rate_aware, "taut"),
    "taut, entropy": Way(SIZES, entropy, "taut"),
    "taut, narrowed + entropy": Way(SIZES, narrowed, "taut"),
    "taut, narrowed evenly + entropy": Way(SMALL, narrowed_evenly, "taut"),
}


def named(way: str, setting: Any, how: dict[str, Any]) -> str:
    """The name of a file that is kept."""
    told = json.dumps(how).translate(str.maketrans("", "", '{}": '))
    return f"{way}-{setting:.4g}-{told}.{WAYS[way].ending}".replace(" ", "_").replace(",", "_")
