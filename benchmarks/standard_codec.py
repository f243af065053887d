"""The codec of the neural network coding standard (ISO/IEC 15938-17), package ``nncodec``, as a peer of the studies.

``pip install nncodec --no-deps`` builds it. What it imports for its data sets, which are not used, is replaced by nothing.
"""

import copy
import importlib.abc
import importlib.machinery
import sys
import tempfile
from time import perf_counter
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import nn


def coded(network: nn.Module, qp: int) -> tuple[bytes, nn.Module, float, float]:
    """The stream at one ``qp`` with the codec's defaults, the network read back, the seconds to encode and to decode.

    Counts of batches, which it takes no integers of 64 bits for and which no pass reads, stay out of the stream.
    """
    peer, state = nncodec(), {name: value for name, value in network.state_dict().items() if value.is_floating_point()}
    arrays = {name: value.numpy() for name, value in state.items()}
    with tempfile.TemporaryDirectory() as folder:  # it leaves its streams somewhere
        start = perf_counter()
        stream = peer.encode(arrays, args={"qp": qp, "verbose": False, "results": folder})
        encoded = perf_counter()
    decoded = peer.decode(stream)
    end = perf_counter()
    back = copy.deepcopy(network)
    read = {name: torch.as_tensor(np.array(decoded[name])).reshape(value.shape) for name, value in state.items()}
    back.load_state_dict(network.state_dict() | read)
    return bytes(stream), back, encoded - start, end - encoded


class _Nothing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for packages that are imported and not used."""

    names = ("torchvision", "pandas", "flwr", "timm", "wandb", "h5py", "tensorflow", "cv2", "ptflops", "datasets", "torchmetrics")

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in self.names else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        return MagicMock(name=spec.name, __path__=[], __spec__=spec, __name__=spec.name)

    def exec_module(self, module: Any) -> None:
        pass


def nncodec() -> Any:
    """The peer's module for networks."""
    nothing = _Nothing()
    sys.meta_path.insert(0, nothing)  # what is installed may not work beside this torch
    try:
        import nncodec.nn as peer
    finally:
        sys.meta_path.remove(nothing)
        for name in [name for name in sys.modules if name.split(".")[0] in nothing.names]:
            del sys.modules[name]
    return peer
