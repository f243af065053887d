"""The last step to a faster graph: ONNX Runtime's own quantizer puts it on 8-bit integers, and what that did is measured.

It goes on top of the smaller structure: low-rank factors, narrower layers. Whether integers are faster depends on the processor
and on the shapes, and small layers often lose; so both graphs are timed in turn, and both are scored on the same data.
"""

from __future__ import annotations

import logging
import platform
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from taut.errors import TautError
from taut.export.gather import optimise
from taut.export.onnx import check_folder, new_file, write_proto
from taut.flat import with_batch
from taut.graph import extra, to_graph, ways_of
from taut.latency import ratios_files
from taut.measure import Evaluation, evaluate
from taut.objective import Objective, batches_of, inputs_of
from taut.runtime import feed, session

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True)
class Int8Report:
    """What was written, and what it changed.

    ``bytes``: the file's length, ``float_bytes``: that of the same graph in floating point; ``weights``: how many are integers;
    ``before`` and ``after``: loss and metric of both graphs on the data; ``latency``: how many times as long the integers
    take, the median of five pairs of fresh sessions, timed in turn at batch ``batch`` on one thread, from ``latency_low`` to
    ``latency_high``.
    """

    path: Path
    bytes: int
    float_bytes: int
    weights: int
    before: Evaluation
    after: Evaluation
    latency: float
    latency_low: float
    latency_high: float
    batch: int


def export_int8(
    model: nn.Module, path: str | Path, example_input: Any, data: Iterable, *, calibration: Iterable | None = None,
    samples: int = 512, batch: int = 1, reduce_range: bool | None = None, opset: int = 18, way: str = "auto",
) -> Int8Report:  # fmt: skip
    """Write ``model``, coded or plain, as an ONNX graph of 8-bit integers, quantized by ONNX Runtime (static, a scale a row).

    ``data``: batches, as for :func:`taut.compress`: both graphs are scored on all of them, against their targets or, without any,
    against ``model``. ``calibration``: batches, the same if not given, on whose first ``samples`` inputs the ranges of all
    activations are seen. ``reduce_range``: weights of 7 bits, since processors without VNNI instructions saturate their sums
    (ONNX Runtime, *Quantize ONNX models*); ``None``: on those alone. ``batch``: rows of the batch that is timed. ``way``: as for
    :func:`taut.export_onnx`. The file appears whole or not at all.

    Raises:
        TautError: no weight can be quantized, the graph does not run, or nothing can be written at ``path``.
        ExtraError: without the extra ``onnx``.

    Example:
        >>> model, folder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)), tempfile.TemporaryDirectory()
        >>> report = export_int8(model, Path(folder.name, "m.onnx"), torch.zeros(1, 64), [torch.randn(100, 64)])
        >>> report.weights, report.bytes < report.float_bytes, report.after.metric > 0.9
        (2, True, True)
        >>> folder.cleanup()
    """
    check_folder(Path(path))
    data = batches_of(data, "validation")
    seen = data if calibration is None else batches_of(calibration, "calibration")
    with tempfile.TemporaryDirectory(prefix="taut-") as folder, new_file(Path(path)) as temporary:
        plain = Path(folder, "float.onnx")
        write_proto(plain, optimise(to_graph(model, example_input, opset=opset, ways=ways_of(way)).proto))
        narrow = _saturates() if reduce_range is None else reduce_range
        _quantize(plain, temporary, _Reader(session(plain), seen, samples), narrow)
        weights = _integers(temporary)
        if not weights:
            raise TautError("ONNX Runtime's quantizer found no weight that it can put on 8-bit integers; nothing was written")
        objective = Objective(original=model)
        before, after = (evaluate(Running(session(p)), data, objective) for p in (plain, temporary))
        times = list(ratios_files({"before": plain, "after": temporary}, with_batch(example_input, batch)))
        sizes = temporary.stat().st_size, plain.stat().st_size
    return Int8Report(Path(path), *sizes, weights, before, after, median(times), min(times), max(times), batch)


def _quantize(plain: Path, out: Path, reader: _Reader, reduce_range: bool) -> None:
    quantization = extra("onnxruntime.quantization", "onnx")
    kinds = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
    try:
        with _quiet():
            quantization.quantize_static(plain, out, reader, per_channel=True, reduce_range=reduce_range, **kinds)
    except TautError:
        raise
    # the runtime raises a dozen unrelated classes
    except Exception as error:
        raise TautError(f"ONNX Runtime cannot put the graph on 8-bit integers: {error}; nothing was written") from error


class Running(nn.Module):
    """A graph in ONNX Runtime, called like the network it came from."""

    def __init__(self, running: onnxruntime.InferenceSession) -> None:
        super().__init__()
        self.running = running

    def forward(self, *inputs: Any, **named: Any) -> Tensor | tuple[Tensor, ...]:
        """The graph's outputs; one of them alone, or all in a tuple."""
        found = self.running.run(None, feed(self.running, named or (inputs if len(inputs) > 1 else inputs[0])))
        tensors = tuple(torch.from_numpy(array) for array in found)
        return tensors[0] if len(tensors) == 1 else tensors


class _Reader:
    """The quantizer asks for one batch after the other."""

    def __init__(self, running: onnxruntime.InferenceSession, data: Iterable, samples: int) -> None:
        self.batches = self._feeds(running, data, samples)

    @staticmethod
    def _feeds(running: onnxruntime.InferenceSession, data: Iterable, samples: int) -> Iterator[dict[str, np.ndarray]]:
        left = samples
        for batch in data:
            if left <= 0:
                return
            arrays = feed(running, inputs_of(batch))
            yield {name: array[:left] for name, array in arrays.items()}
            left -= min(len(array) for array in arrays.values())

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or ``None`` at the end."""
        return next(self.batches, None)


def _saturates() -> bool:
    """Whether 8-bit products overflow 16 bits on this processor: x86 without VNNI. Where it is not known, yes."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i686"):
        return False
    flags = Path("/proc/cpuinfo")
    return not (flags.exists() and "vnni" in flags.read_text())


def _integers(path: Path) -> int:
    """How many weights of a graph are 8-bit integers of more than one dimension."""
    onnx = extra("onnx", "onnx")
    tensors = onnx.load(path).graph.initializer
    return sum(t.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) and len(t.dims) > 1 for t in tensors)


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer advises steps that the graph has behind it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
