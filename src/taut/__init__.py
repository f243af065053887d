"""taut: take the slack out of a neural network, and prove that nothing was lost."""

from taut import compressors, regularizers
from taut.apply import apply
from taut.budget import Budget, Recovery, Result, Shrink, compress
from taut.codec.files import inspect, load, load_state_dict, save, verify
from taut.deliver import deliver
from taut.errors import TautError
from taut.export.onnx import export_onnx
from taut.layers import Layer, find_layers
from taut.measure import measure
from taut.report import report
from taut.shrink import shrink
from taut.sweep import sweep
from taut.train import ProxOptimizer
from taut.version import VERSION as __version__

__all__ = [
    "Budget", "Layer", "ProxOptimizer", "Recovery", "Result", "Shrink", "TautError", "__version__", "apply", "compress",
    "compressors", "deliver", "export_onnx", "find_layers", "inspect", "load", "load_state_dict", "measure", "regularizers",
    "report", "save", "shrink", "sweep", "verify",
]  # fmt: skip
