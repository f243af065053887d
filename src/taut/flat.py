"""Any input and output of a model as a flat list of named tensors: what a graph has, and batches of another size."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from taut.errors import TautError
from taut.layers import batch_size, call, evaluating


def flatten(value: Any, name: str = "") -> list[tuple[str, Tensor]]:
    """The tensors in nested tuples, lists and dicts, in order, each with a name made of its path.

    Example:
        >>> [(name, tuple(t.shape)) for name, t in flatten({"ids": torch.zeros(2, 3), "state": (torch.zeros(2), None)})]
        [('ids', (2, 3)), ('state_0', (2,))]
    """
    if isinstance(value, Tensor):
        return [(name or "output", value)]
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    prefix = f"{name}_" if name else ""
    return [pair for key, child in children for pair in flatten(child, f"{prefix}{key}")]


def rebuild(value: Any, tensors: Iterator[Tensor]) -> Any:
    """``value`` with its tensors replaced, in the order of :func:`flatten`; what is no tensor stays."""
    if isinstance(value, Tensor | _Slot):
        return next(tensors)
    if isinstance(value, dict):
        return {key: rebuild(child, tensors) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([rebuild(child, tensors) for child in value])
    return value


class _Slot:
    """Where a tensor goes."""


def with_batch(example_input: Any, batch: int) -> Any:
    """The example input (tensor, tuple or dict) with its rows repeated or cut to ``batch`` of them.

    Tensors whose first dimension is not the batch stay as they are.

    Example:
        >>> with_batch(torch.tensor([[1, 2], [3, 4]]), 3)
        tensor([[1, 2],
                [3, 4],
                [1, 2]])
    """
    if batch < 1:
        raise TautError(f"batch={batch}: a batch holds at least one input")
    rows = batch_size(example_input)
    if rows == 0:
        raise TautError("the example input is an empty batch; give at least one input")
    index = torch.arange(batch) % rows
    resized = [t[index.to(t.device)] if t.dim() and t.shape[0] == rows else t for _, t in flatten(example_input)]
    return rebuild(example_input, iter(resized))


def input_names(model: nn.Module, example_input: Any) -> list[str]:
    """A name for every tensor of the input: dict keys, or the names of ``forward``'s arguments."""
    if isinstance(example_input, dict):
        return [name for name, _ in flatten(example_input)]
    arguments = example_input if isinstance(example_input, list | tuple) else (example_input,)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = [p.name for p in inspect.signature(model.forward).parameters.values() if p.kind in positional]
    names = known + [f"input_{i}" for i in range(len(known), len(arguments))]
    return [n for name, value in zip(names, arguments, strict=False) for n, _ in flatten(value, name)]


class Flat(nn.Module):
    """``model`` as a function of a flat list of tensors that returns a flat tuple of tensors."""

    def __init__(self, model: nn.Module, example_input: Any) -> None:
        super().__init__()
        self.model = model
        slots = [_Slot() for _ in flatten(example_input)]
        self.structure = rebuild(example_input, iter(slots))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        out = call(self.model, rebuild(self.structure, iter(tensors)))
        return tuple(tensor for _, tensor in flatten(out))


def run_flat(model: nn.Module, example_input: Any) -> list[Tensor]:
    """The model's output tensors in evaluation mode, flat, on the CPU."""
    device = next((t.device for t in model.state_dict().values()), torch.device("cpu"))
    moved = rebuild(example_input, iter([t.to(device) for _, t in flatten(example_input)]))
    with evaluating(model), torch.no_grad():
        return [tensor.detach().cpu() for _, tensor in flatten(call(model, moved))]
