"""Peers that turn a graph into one of 8-bit integers, with their recommended settings: ONNX Runtime's quantizer and NNCF."""

import tempfile
from pathlib import Path

import torch
from torch import nn

import taut
from taut.bench.data import Split
from taut.export.int8 import export_int8

CALIBRATION = 300
"""Training images whose activations are looked at: what NNCF takes if nothing else is said."""


def onnxruntime_int8(network: nn.Module, seen: Split) -> bytes:
    """Static quantization by ONNX Runtime, a scale a row, as ``taut export --int8`` calls it."""
    with tempfile.TemporaryDirectory() as folder:
        path, data = Path(folder, "int8.onnx"), [(seen.x[:CALIBRATION], seen.y[:CALIBRATION])]
        export_int8(network, path, seen.x[:1], data, samples=CALIBRATION)
        return path.read_bytes()


def nncf_int8(network: nn.Module, seen: Split) -> bytes:
    """Post-training quantization of the graph by NNCF, as its page shows it."""
    import nncf
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "plain.onnx")
        taut.export_onnx(network, path, seen.x[:1])
        plain = onnx.load(path)
        told = [{plain.graph.input[0].name: x[None].numpy()} for x in torch.unbind(seen.x[:CALIBRATION])]
        return nncf.quantize(plain, nncf.Dataset(told), subset_size=CALIBRATION).SerializeToString()
