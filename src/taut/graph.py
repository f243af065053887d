"""A model as an ONNX graph, in one of two ways.

``torch.export`` is exact about control flow and batch sizes and takes seconds; tracing takes a hundredth of that and records one
path through the model. What ships is exported, candidates that are only timed are traced; each is the other's fallback.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from taut.errors import ExtraError, TautError
from taut.flat import Flat, flatten, input_names, rebuild, with_batch
from taut.layers import bake, batch_size, call, check_model

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

CHATTY = ("torch.onnx", "torch.export", "torch._dynamo", "torch.fx", "onnxscript", "onnx_ir")
WAYS = ("export", "trace")
LARGEST = 2**31 - 2**20  # one protobuf message, so one ONNX file, holds at most 2 GiB


def extra(package: str, name: str) -> ModuleType:
    """Import an optional ``package``; if it is missing the error names the extra ``name`` that brings it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ExtraError(package, name) from error


def ways_of(way: str) -> tuple[str, ...]:
    """The ways that are tried: one, or for ``auto`` all."""
    if way not in ("auto", *WAYS):
        raise TautError(f'way={way!r}; choose "auto", "export" or "trace"')
    return WAYS if way == "auto" else (way,)


@dataclass(frozen=True)
class Graph:
    """An ONNX graph, the names of its inputs and outputs, and the way it was made (``export`` or ``trace``)."""

    proto: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    way: str


def to_graph(model: nn.Module, example_input: Any, *, dynamic_batch: bool = True, opset: int = 18,
             ways: Sequence[str] = WAYS) -> Graph:  # fmt: skip
    """The graph of ``model``, coded or plain, with dense weights; not yet optimised.

    ``ways`` are tried in order; if none works, the error tells what each said. The model is not changed.
    """
    extra("onnx", "onnx")
    extra("onnxscript", "onnx")
    check_model(model)
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if size > LARGEST:
        raise TautError(f"the model takes {size:,} bytes and one ONNX file holds at most 2 GiB; convert it to half precision")
    # two rows: a dimension of one would be taken for a constant, and more would only cost time
    example = with_batch(example_input, 2) if dynamic_batch else example_input
    plain = bake(model).cpu().eval()
    names = input_names(model, example)
    tensors = [tensor.cpu() for _, tensor in flatten(example)]
    outputs = _output_names(plain, rebuild(example, iter(tensors)), names)
    job = _Job(Flat(plain, example), tensors, names, outputs, batch_size(example) if dynamic_batch else None, opset)
    said = []
    for way in ways:
        try:
            with quiet(), torch.no_grad():
                proto = job.export() if way == "export" else job.trace()
            return Graph(_restore_names(proto), tuple(names), tuple(outputs), way)
        # an exporter may raise anything at all; the next way, or the error below, answers
        except Exception as error:
            log.debug("%s failed", way, exc_info=True)
            said.append(f"{way}: {type(error).__name__}: {_first_lines(error)}")
    hint = "; if the model fixes its batch size, pass dynamic_batch=False" if dynamic_batch else ""
    raise TautError(f"{type(model).__name__} cannot be turned into an ONNX graph{hint}. " + " | ".join(said))


def _first_lines(error: Exception) -> str:
    """The cause's message, short: exporters wrap it in pages."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return " ".join(lines[:3])[:400]


def _output_names(model: nn.Module, example: Any, inputs: Sequence[str]) -> list[str]:
    with torch.no_grad():
        found = flatten(call(model, example))
    if not found:
        raise TautError(f"{type(model).__name__} returns no tensor; an ONNX graph needs one")
    return [f"output_{name}" if name in inputs or name.isdigit() else name for name, _ in found]


@dataclass(frozen=True)
class _Job:
    flat: Flat
    tensors: list[Tensor]
    inputs: list[str]
    outputs: list[str]
    rows: int | None
    opset: int

    def _batched(self, tensor: Tensor) -> bool:
        return self.rows is not None and tensor.dim() > 0 and tensor.shape[0] == self.rows

    def export(self) -> onnx.ModelProto:
        shapes = tuple({0: torch.export.Dim.DYNAMIC} if self._batched(t) else None for t in self.tensors)
        program = torch.onnx.export(
            self.flat, tuple(self.tensors), dynamo=True, dynamic_shapes=(shapes,) if self.rows else None, optimize=False,
            opset_version=self.opset, input_names=self.inputs, output_names=self.outputs, verbose=False,
        )  # fmt: skip
        proto = program.model_proto
        batch = {v.type.tensor_type.shape.dim[0].dim_param for v, t in zip(proto.graph.input, self.tensors, strict=True)
                 if self._batched(t)}  # fmt: skip
        for value in (*proto.graph.input, *proto.graph.output):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param in batch:
                    dim.dim_param = "batch"
        return proto

    def trace(self) -> onnx.ModelProto:
        onnx = extra("onnx", "onnx")
        axes = {name: {0: "batch"} for name, t in zip(self.inputs, self.tensors, strict=True) if self._batched(t)}
        stream = io.BytesIO()
        torch.onnx.export(
            self.flat, tuple(self.tensors), stream, dynamo=False, dynamic_axes=axes, opset_version=self.opset,
            input_names=self.inputs, output_names=self.outputs, verbose=False,
            # weights stay as the model names and holds them; evaluation mode is the model's own
            do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE,
        )  # fmt: skip
        return onnx.load_model_from_string(stream.getvalue())


def _restore_names(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Weights named as in the model: without the prefix that :class:`Flat` gives them."""
    new = {t.name: t.name.removeprefix("model.") for t in proto.graph.initializer}
    taken = {o for node in proto.graph.node for o in node.output} | {i.name for i in proto.graph.input}
    new = {old: name for old, name in new.items() if name not in taken}
    for tensor in proto.graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    for value in (*proto.graph.output, *proto.graph.value_info):
        value.name = new.get(value.name, value.name)
    for node in proto.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
    return proto


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' talk off the user's screen; fused attention off, which hides its layers from them."""
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
