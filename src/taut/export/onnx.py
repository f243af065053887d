"""A compressed network as an ONNX file that is known to compute what the network computes.

The structure is what compression made it: two small layers for a low-rank one, narrower layers where neurons were removed,
weights as indices into a codebook where that is smaller. The file is written only after ONNX Runtime gave the outputs that torch
gives, on the example, on other batch sizes and on random inputs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from taut.errors import ParityError, TautError
from taut.export.gather import gather_weights, optimise
from taut.flat import flatten, rebuild, run_flat, with_batch
from taut.graph import LARGEST, Graph, extra, to_graph, ways_of
from taut.layers import batch_size
from taut.runtime import session

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    ``bytes``: the file's length, ``dense_bytes``: its length had no weight been stored as indices; ``max_difference``: the
    largest absolute difference from torch's outputs, over ``checks`` inputs; ``indexed``: the weights stored as indices;
    ``way``: ``export`` (``torch.export``) or, where that fails, ``trace``.
    """

    path: Path
    bytes: int
    dense_bytes: int
    max_difference: float
    checks: int
    indexed: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    way: str


def export_onnx(model: nn.Module, path: str | Path, example_input: Any, *, atol: float = 1e-4, rtol: float = 1e-3,
                opset: int = 18, dynamic_batch: bool = True, codebooks: str = "auto",
                way: str = "auto") -> ExportReport:  # fmt: skip
    """Write ``model``, coded or plain, as one ONNX file, and check it against torch first.

    ``example_input``: a batch, given as a tensor, a tuple of arguments or a dict of keywords. ``dynamic_batch``: the file takes
    batches of any size. ``codebooks``: ``"auto"`` stores a weight of few distinct values as indices where that is smaller,
    ``"off"`` never. ``way``: ``"export"`` (``torch.export``: seconds), ``"trace"`` (a tenth of that, control flow as the example
    takes it), ``"auto"``: the first that works. The file appears whole or not at all.

    Raises :class:`~taut.errors.ParityError` if an output differs by more than ``atol + rtol * |torch's output|``,
    :class:`~taut.errors.ExtraError` without the extra ``onnx``.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> report = export_onnx(nn.Sequential(nn.Linear(4, 2)), Path(folder.name, "m.onnx"), torch.zeros(1, 4), way="trace")
        >>> report.bytes == report.path.stat().st_size, report.max_difference < 1e-4, report.inputs, report.outputs
        (True, True, ('input',), ('output',))
        >>> folder.cleanup()
    """
    if codebooks not in ("auto", "off"):
        raise TautError(f'codebooks={codebooks!r}; choose "auto" or "off"')
    ways = ways_of(way)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        extra(package, "onnx")
    path = Path(path)
    check_folder(path)
    graph = to_graph(model, example_input, dynamic_batch=dynamic_batch, opset=opset, ways=ways)
    dense = optimise(graph.proto)
    best, indexed = smallest(graph.proto, dense) if codebooks == "auto" else (dense, ())
    batches = list(_trials(example_input, dynamic_batch))
    with new_file(path) as temporary:
        write_proto(temporary, best)
        worst = check_parity(temporary, model, batches, graph, atol=atol, rtol=rtol)
        size = temporary.stat().st_size
    return ExportReport(path, size, dense.ByteSize(), worst, len(batches), indexed, graph.inputs, graph.outputs, opset, graph.way)


def smallest(proto: onnx.ModelProto, dense: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The smallest of: dense, indices put in before the optimisation, or after it (then for weights that it left as they were).

    Before, a batch norm stays apart so that its convolution keeps its few values; after, no decoded weight stands in the way of
    folding the slices that a small recurrent layer is fed by. ONNX Runtime does the rest of either when it opens the file.
    """
    gathered, names = gather_weights(proto)
    if not names:
        return dense, ()
    before = {tensor.name: tensor.raw_data for tensor in proto.graph.initializer if tensor.name in names}
    unchanged = {tensor.name for tensor in dense.graph.initializer if before.get(tensor.name) == tensor.raw_data}
    candidates = [(dense, ()), (optimise(gathered), names), gather_weights(dense, unchanged)]
    return min(candidates, key=lambda candidate: candidate[0].ByteSize())


def _trials(example_input: Any, dynamic_batch: bool) -> Iterator[Any]:
    """The example, other batch sizes, and random inputs like the example."""
    rows = batch_size(example_input)
    sizes = (rows, 1, rows + 2) if dynamic_batch else (rows,)
    yield example_input
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        sized = with_batch(example_input, size)
        if size != rows:
            yield sized
        yield rebuild(sized, iter([_like(tensor, generator) for _, tensor in flatten(sized)]))


def _like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """A random tensor of the same shape and type: Gaussian with the same mean and deviation, or the same values, shuffled."""
    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point():
        order = torch.randperm(tensor.numel(), generator=generator)
        return tensor.reshape(-1)[order].reshape(tensor.shape)
    noise = torch.randn(tensor.shape, generator=generator)
    deviation = float(tensor.float().std()) if tensor.numel() > 1 else 0.0
    return (noise * (deviation or 1.0) + float(tensor.float().mean())).to(tensor.dtype)


def check_parity(path: Path, model: nn.Module, batches: Sequence[Any], graph: Graph, *, atol: float, rtol: float) -> float:
    """The largest difference between the file and ``model`` over the batches; beyond the tolerance, a ``ParityError``."""
    running = session(path)
    wanted = {value.name for value in running.get_inputs()}
    worst = 0.0
    for batch in batches:
        arrays = {name: t.detach().cpu().numpy() for name, (_, t) in zip(graph.inputs, flatten(batch), strict=True)}
        what = f"on a batch of {batch_size(batch)}"
        try:
            got = running.run(None, {name: value for name, value in arrays.items() if name in wanted})
        # the runtime raises a dozen unrelated classes
        except Exception as error:
            raise ParityError(f"the graph does not run {what} where torch does: {error}; if the model fixes its batch size, "
                              "pass dynamic_batch=False") from error  # fmt: skip
        for name, have, want in zip(graph.outputs, got, run_flat(model, batch), strict=True):
            worst = max(worst, _difference(f"output {name!r} {what}", have, want, atol, rtol))
    return worst


def _difference(what: str, have: np.ndarray, want: Tensor, atol: float, rtol: float) -> float:
    if have.shape != tuple(want.shape):
        raise ParityError(f"{what}: the graph gives the shape {have.shape}, torch {tuple(want.shape)}")
    a, b = have.astype(np.float64), want.double().numpy()
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(a - b))
    bad = ~(gap <= atol + rtol * np.abs(b))
    if bad.any():
        raise ParityError(
            f"{what}: {int(bad.sum())} of {bad.size} values differ from torch's, by at most {np.nanmax(gap):.3g} where "
            f"{atol:g} + {rtol:g} * |value| is allowed; nothing was written"
        )
    return float(gap.max(initial=0.0))


def write_proto(path: Path, proto: onnx.ModelProto) -> None:
    """The graph as the bytes of a file, if one file can hold it."""
    if proto.ByteSize() > LARGEST:
        raise TautError(f"the graph takes {proto.ByteSize():,} bytes and one ONNX file holds at most 2 GiB")
    path.write_bytes(proto.SerializeToString(deterministic=True))


def check_folder(path: Path) -> None:
    """An error in words where no file can be written at ``path``, before anything is computed."""
    if not path.parent.is_dir():
        raise TautError(f"{path.parent} is no folder; create it first")
    if path.is_dir():
        raise TautError(f"{path} is a folder; give the name of a file")


class new_file:  # noqa: N801 - used like a function
    """A context that gives a temporary path beside ``path``: renamed to it on success, removed on any failure."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        try:
            if kind is None:
                os.replace(self.temporary, self.path)
        finally:
            self.temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise TautError(f"{self.path} cannot be written: {error}") from error
