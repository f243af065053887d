"""ONNX Runtime, opened the same way everywhere: the processor, a fixed number of threads, all graph optimisations."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taut.errors import TautError
from taut.flat import flatten
from taut.graph import extra

if TYPE_CHECKING:
    import onnxruntime


def processor() -> str:
    """The processor's name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine() or "cpu"


def session(path: str | Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU with a fixed number of threads and all graph optimisations."""
    ort = extra("onnxruntime", "onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # the runtime raises a dozen unrelated classes
    except Exception as error:
        raise TautError(f"{path}: ONNX Runtime cannot load this graph: {error}") from error


def feed(running: onnxruntime.InferenceSession, example_input: Any) -> dict[str, Any]:
    """The arrays a session wants: a dict by name, anything else in the order of the graph's inputs."""
    names = [value.name for value in running.get_inputs()]
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in flatten(example_input)}
    if isinstance(example_input, dict) and set(names) <= set(arrays):
        return {name: arrays[name] for name in names}
    if len(arrays) < len(names):
        raise TautError(f"the graph has the inputs {', '.join(names)}; the example input has {len(arrays)} tensors")
    return dict(zip(names, arrays.values(), strict=False))
