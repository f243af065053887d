"""Weights of few distinct values, stored in an ONNX graph as small indices into a codebook.

The problem solved: a graph holds a weight as 4 bytes an element even when a codebook of 16 values would do. Here such a weight
becomes ``Gather(codebook, Cast(indices))``: one byte an element for up to 256 values, two for up to 65,536 (a pruned weight has
few values too). A runtime that folds constants, as ONNX Runtime does when it opens a file, restores the dense weight once, so the
time of a call stays what it was (Han, Mao & Dally 2016, *Deep Compression*, section 3, for the representation).

What a weight may become is read from its values alone, so it holds for every method, and the values come back bit for bit.
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

import numpy as np

from taut.errors import TautError
from taut.graph import extra

if TYPE_CHECKING:
    import onnx

MARK = "taut.decode/"  # begins the names of the nodes that decode
FIELD = 6  # bytes of tag and length around one part of a protobuf message, at most
PROBE = 1 << 17


def split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """``values`` as ``(codebook, indices)`` with ``codebook[indices] == values`` bit for bit; ``None`` if it has too many values.

    Example:
        >>> book, indices = split(np.array([[0.5, -1.0], [0.5, 0.5]], dtype=np.float32))
        >>> book.tolist(), indices.tolist(), indices.dtype.name
        ([0.5, -1.0], [[0, 1], [0, 0]], 'uint8')
    """
    # as whole numbers, so that 0.0 and -0.0 stay apart
    bits = np.ascontiguousarray(values).reshape(-1).view(f"u{values.itemsize}")
    if np.unique(bits[:PROBE]).size > 1 << 16:
        return None
    book, indices = np.unique(bits, return_inverse=True)
    if book.size > 1 << 16:
        return None
    width = np.uint8 if book.size <= 1 << 8 else np.uint16
    return book.view(values.dtype), indices.astype(width).reshape(values.shape)


def gather_weights(proto: onnx.ModelProto, only: Container[str] | None = None) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A graph with every weight stored as indices where that is smaller, and those weights' names; ``proto`` is not changed.

    ``only``: the names of the weights to look at.
    """
    onnx = extra("onnx", "onnx")
    given = {value.name for value in proto.graph.input}
    tensors, nodes, names = [], [], []
    for tensor in proto.graph.initializer:
        parts = None if tensor.name in given or (only is not None and tensor.name not in only) else _gathered(onnx, tensor)
        if parts is None:
            tensors.append(tensor)
            continue
        names.append(tensor.name)
        tensors += parts[0]
        nodes += parts[1]
    new = onnx.ModelProto()
    new.CopyFrom(proto)
    del new.graph.initializer[:], new.graph.node[:]
    new.graph.initializer.extend(tensors)
    new.graph.node.extend([*nodes, *proto.graph.node])
    return new, tuple(names)


def _gathered(onnx, tensor: onnx.TensorProto) -> tuple[list, list] | None:  # noqa: ANN001
    """The initializers and nodes that stand for a weight, or ``None`` where the weight itself is as small."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    if tensor.data_type not in floats or not tensor.dims:
        return None
    values = onnx.numpy_helper.to_array(tensor)
    found = split(values)
    if found is None:
        return None
    name = tensor.name
    tensors = [
        onnx.numpy_helper.from_array(part, f"{name}.{what}") for part, what in zip(found, ("codebook", "indices"), strict=True)
    ]
    nodes = [
        onnx.helper.make_node("Cast", [f"{name}.indices"], [f"{name}.places"], f"{MARK}{name}.cast", to=onnx.TensorProto.INT32),
        onnx.helper.make_node("Gather", [f"{name}.codebook", f"{name}.places"], [name], f"{MARK}{name}"),
    ]
    if sum(part.ByteSize() + FIELD for part in (*tensors, *nodes)) >= tensor.ByteSize():
        return None
    if not np.array_equal(_bits(found[0][found[1]]), _bits(values)):
        raise TautError(f"{name}: its codebook and indices do not give the weight back")
    return tensors, nodes


def _bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(f"u{values.itemsize}")


def optimise(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Constants folded, batch norms fused into dense weights, no talk about sources; weights kept as indices stay so."""
    ir = extra("onnx_ir", "onnx")
    optimizer = extra("onnxscript.optimizer", "onnx")
    model = ir.from_proto(proto)
    optimizer.optimize_ir(model, should_fold=lambda node: False if (node.name or "").startswith(MARK) else None)
    return strip(ir.to_proto(model))


def strip(proto: onnx.ModelProto, shapes: bool = True) -> onnx.ModelProto:
    """Without what no runtime reads: stack traces, sources, inferred ``shapes``. Changes ``proto`` and returns it."""
    graph = proto.graph
    for item in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    if shapes:
        graph.ClearField("value_info")
    return proto
