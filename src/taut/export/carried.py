"""A graph that travels in a ``.taut`` file: small on the way, a standard ONNX file where it arrives, without the network's code.

The graph is stored without its weights. Each of them is in the file already, as a code; the graph says which record it is, which
part of its code (a low-rank layer is two weights), and how its axes are ordered. What is found in no record stays in the graph.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from taut.codec.files import State, state_of
from taut.codec.reader import TautFile
from taut.compressors.base import Code, dense
from taut.errors import FormatError, TautError
from taut.export.gather import optimise, strip
from taut.export.onnx import new_file, smallest, write_proto
from taut.graph import extra, to_graph, ways_of
from taut.layers import Alias
from taut.runtime import session

if TYPE_CHECKING:
    import onnx

SUM = "taut.weights"
"""The key of the weights' checksum among the graph's notes."""
LEAST = 16
"""Bytes of a weight from which on it is looked for in the records."""


@dataclass(frozen=True)
class CarriedReport:
    """What was written: ``bytes`` the file's length, ``indexed`` the weights that are stored as indices into a codebook."""

    path: Path
    bytes: int
    indexed: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def draw(
    model: nn.Module, example_input: Any, *, dynamic_batch: bool = True, opset: int = 18, way: str = "auto"
) -> bytes:  # fmt: skip
    """The graph of a compressed network without its weights, for :func:`taut.save`.

    ``example_input`` and the other settings as for :func:`taut.export_onnx`. It takes about a kilobyte for ten layers.

    Raises:
        TautError: the network cannot be turned into a graph.
        ExtraError: without the extra ``onnx``.

    Example:
        >>> import tempfile
        >>> from taut.codec.files import save
        >>> model, folder = nn.Sequential(nn.Linear(4, 2)).eval(), tempfile.TemporaryDirectory()
        >>> _ = save(model, Path(folder.name, "m.taut"), graph=draw(model, torch.zeros(1, 4)))
        >>> report = export_carried(Path(folder.name, "m.taut"), Path(folder.name, "m.onnx"))
        >>> report.bytes == report.path.stat().st_size, report.inputs, report.outputs
        (True, ('input',), ('output',))
        >>> folder.cleanup()
    """
    onnx = extra("onnx", "onnx")
    # the optimisation where it arrives folds what follows from the shapes
    graph = to_graph(model, example_input, dynamic_batch=dynamic_batch, opset=opset, ways=ways_of(way))
    proto = strip(graph.proto, shapes=False)
    found = list(_parts(state_of(model)[0]))
    crc = 0
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        crc = zlib.crc32(np.ascontiguousarray(values).tobytes(), crc)
        place = next(_places(tensor.name, values, found), None) if values.nbytes >= LEAST else None
        if place is not None:
            for kind in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(kind)
            tensor.doc_string = json.dumps(place, separators=(",", ":"))
    onnx.helper.set_model_props(proto, {SUM: str(crc)})
    return bytes(proto.SerializeToString(deterministic=True))


def _parts(state: State) -> Iterator[tuple[str, str, Tensor]]:
    """Every tensor that the codes of a state give: the record, where in its tree, the dense tensor."""
    for name, value in state.items():
        if isinstance(value, Alias):
            continue
        yield name, "", dense(value).detach()
        if isinstance(value, Code):
            yield from _inner(name, "", value)


def _inner(name: str, path: str, code: Code) -> Iterator[tuple[str, str, Tensor]]:
    for field, part in code.parts().items():
        at = f"{path}.{field}" if path else field
        yield name, at, dense(part).detach()
        if isinstance(part, Code):
            yield from _inner(name, at, part)


def _places(wanted: str, values: np.ndarray, found: list[tuple[str, str, Tensor]]) -> Iterator[list[Any]]:
    """Where a weight of the graph is in the file: record, part, and the axes' order; the record of its own name first."""
    target = torch.from_numpy(np.ascontiguousarray(values).view(f"u{values.itemsize}").astype(np.int64))
    for name, path, tensor in sorted(found, key=lambda part: part[0] != wanted):
        if tensor.numel() != target.numel() or tensor.element_size() != values.itemsize or values.ndim > 5:
            continue
        bits = _bits(tensor)
        for order in itertools.permutations(range(values.ndim)):
            if torch.equal(target.permute(order).reshape(-1), bits):
                yield [name, path, list(order)]


def _bits(tensor: Tensor) -> Tensor:
    flat = tensor.cpu().contiguous().reshape(-1)
    return torch.from_numpy(flat.view(torch.uint8).numpy().view(f"u{tensor.element_size()}").astype(np.int64))


def export_carried(file: str | Path, path: str | Path, *, codebooks: str = "auto") -> CarriedReport:
    """Write the network in a ``.taut`` file as ONNX, from the graph that travels in it; none of the network's code is needed.

    Its weights are those that were saved, which a checksum proves, so that the file is the one that :func:`taut.export_onnx`
    writes where the code is. ``codebooks`` as there. The file appears whole or not at all. A graph is run by ONNX Runtime,
    so it deserves the trust of any ONNX file: it may not name other files.

    Raises:
        TautError: no graph travels in the file.
        FormatError: the file is cut, damaged or hostile.
        ExtraError: without the extra ``onnx``.
    """
    onnx, path = extra("onnx", "onnx"), Path(path)
    with TautFile(file) as source:
        if not source.graph:
            raise TautError(
                f"{file}: no graph travels in this file; name the network's code (--model), or save the file with a graph: "
                "taut compress --graph, or taut.save(..., graph=taut.export.carried.draw(model, example))"
            )
        proto = _filled(onnx, source)
    plain = optimise(proto)
    best, indexed = smallest(proto, plain) if codebooks == "auto" else (plain, ())
    with new_file(path) as temporary:
        write_proto(temporary, best)
        try:
            running = session(temporary)
        # the runtime raises a dozen unrelated classes
        except Exception as error:
            raise FormatError(f"{file}: the graph that travels in it does not open: {error}") from error
        inputs, outputs = (tuple(v.name for v in some) for some in (running.get_inputs(), running.get_outputs()))
        return CarriedReport(path, temporary.stat().st_size, indexed, inputs, outputs)


def _filled(onnx: Any, source: TautFile) -> onnx.ModelProto:
    """The graph with its weights from the records, proven to be those that it was drawn with."""
    try:
        proto = onnx.load_model_from_string(source.graph)
    except Exception as error:  # protobuf's own classes are private
        raise FormatError(f"{source.path}: the graph that travels in it is damaged") from error
    if any(tensor.external_data or tensor.data_location for tensor in _tensors(proto.graph)):
        raise FormatError(f"{source.path}: the graph that travels in it names other files")
    crc = 0
    for tensor in proto.graph.initializer:
        if tensor.doc_string:
            tensor.raw_data = _read(source, tensor.name, tensor.doc_string, tuple(tensor.dims))
            tensor.ClearField("doc_string")
        crc = zlib.crc32(np.ascontiguousarray(onnx.numpy_helper.to_array(tensor)).tobytes(), crc)
    if {p.key: p.value for p in proto.metadata_props}.get(SUM) != str(crc):
        raise FormatError(f"{source.path}: the weights are not those that the graph was drawn with")
    return strip(proto, shapes=False)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph, those in its nodes and their graphs too."""
    yield from graph.initializer
    for tensor in graph.sparse_initializer:
        yield from (tensor.values, tensor.indices)
    for attribute in (a for node in graph.node for a in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            if inner.node or inner.initializer:
                yield from _tensors(inner)


def _read(source: TautFile, name: str, place: str, shape: tuple[int, ...]) -> bytes:
    try:
        record, path, order = json.loads(place)
        part = source.code(record)
        for field in path.split(".") if path else ():
            part = part.parts()[field]
        tensor = source.densify(record, part)
        sizes = [shape[axis] for axis in order]
        back = [order.index(axis) for axis in range(len(order))]
        bits = _bits(tensor).reshape(sizes).permute(back).contiguous().numpy()
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, RecursionError) as error:
        raise FormatError(f"{source.path}: the graph's weight {name!r} is not where it is said to be") from error
    return bytes(bits.astype(f"<u{tensor.element_size()}").tobytes())
