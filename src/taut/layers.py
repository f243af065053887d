"""The compressible weights of a model: finding them, and putting codes in their place.

:func:`find_layers` names every weight that taut can compress, :func:`put` replaces one by a code, :func:`codes` reads all codes
and plain tensors of a model back (that is what a file holds), :func:`bake` turns a coded model into plain dense modules (that
is what a graph holds).
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from taut.compressors.base import Code, DenseCode, TransposedCode
from taut.compressors.coded import Coded, Factored, attach, attached, free_parameters, is_binary, release
from taut.errors import LayerError, TautError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
REPLACEABLE = ("linear", "conv", "hf_conv1d")
"""The kinds of layers that a code may replace by another module."""


@dataclass(frozen=True)
class Layer:
    """A named weight in a model.

    ``name``: the module's path (recurrent layers: path and parameter), ``kind``: ``linear``, ``conv``, ``embedding``,
    ``hf_conv1d`` or ``recurrent``; ``uses``: how often the weight is used for one input (output positions), ``None`` when
    no example input was given; ``tied``: the other places that share the parameter.
    """

    name: str
    module: nn.Module
    parameter: str
    kind: str
    uses: float | None = None
    tied: tuple[str, ...] = ()

    @property
    def weight(self) -> Tensor:
        """The weight, output first (Hugging Face's ``Conv1D`` keeps it input first)."""
        w = getattr(self.module, self.parameter)
        return w.t() if self.kind == "hf_conv1d" else w

    @property
    def path(self) -> str:
        """The name of the parameter in the model's ``state_dict``."""
        return self.name if self.kind == "recurrent" else f"{self.name}.{self.parameter}".lstrip(".")

    @property
    def groups(self) -> int:
        return getattr(self.module, "groups", 1)

    @property
    def macs(self) -> float:
        """Multiply-adds for one input; an embedding only looks up, unless it is an output layer too."""
        if self.kind == "embedding" and not self.tied:
            return 0.0
        return self.weight.numel() * (1 if self.uses is None else self.uses)


def find_layers(model: nn.Module, example_input: Any = None) -> dict[str, Layer]:
    """Name every weight of ``model`` that can be compressed: ``{name: Layer}``.

    Linear, Conv1d/2d/3d (grouped too), Embedding, Hugging Face ``Conv1D``, and the weights of LSTM, GRU and RNN. With an
    ``example_input`` (a batch: tensor, tuple or dict) each layer also knows how often it is used for one input.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 10))
        >>> layers = find_layers(model, torch.zeros(1, 1, 8, 8))
        >>> {name: (tuple(layer.weight.shape), layer.uses) for name, layer in layers.items()}
        {'0': ((8, 1, 3, 3), 36.0), '2': ((10, 288), 1.0)}
    """
    uses = {} if example_input is None else _count_uses(model, example_input)
    found: dict[str, Layer] = {}
    first: dict[int, str] = {}
    tied: dict[str, list[str]] = {}
    tables = set()
    for path, module in model.named_modules():
        for parameter, kind in _weights(module):
            name = f"{path}.{parameter}".lstrip(".") if kind == "recurrent" else path
            identity = _identity(module, parameter)
            if kind == "embedding":
                tables.add(name)
            if identity in first:
                tied.setdefault(first[identity], []).append(name)
                continue
            first[identity] = name
            found[name] = Layer(name, module, parameter, kind, uses.get(path))
    for name, others in tied.items():
        layer = found[name]
        # every place that multiplies by the weight costs its own arithmetic; a table among them only looks up
        counts = [uses[n] for n in (name, *others) if n in uses and n not in tables]
        total = None if example_input is None else float(sum(counts))
        found[name] = Layer(name, layer.module, layer.parameter, layer.kind, total, tuple(others))
    return found


def _weights(module: nn.Module) -> list[tuple[str, str]]:
    if isinstance(module, nn.Linear):
        return [("weight", "linear")]
    if isinstance(module, CONVOLUTIONS) and not module.transposed:
        return [("weight", "conv")]
    if isinstance(module, nn.Embedding):
        return [("weight", "embedding")]
    if isinstance(module, RECURRENT):
        return [(n, "recurrent") for n in module._flat_weights_names if n.startswith("weight")]
    hf = sys.modules.get("transformers.pytorch_utils")
    if hf is not None and isinstance(module, hf.Conv1D):
        return [("weight", "hf_conv1d")]
    return []


def _identity(module: nn.Module, parameter: str) -> int:
    """What tied places have in common: the parameter or the parametrization; a shared table of values ties no weights."""
    if parametrize.is_parametrized(module, parameter):
        if isinstance(module.parametrizations[parameter][0], Coded):
            return id(module.parametrizations[parameter])
        free = free_parameters(module, parameter)
        return id(free[0] if free else module.parametrizations[parameter])
    return id(getattr(module, parameter))


def call(model: nn.Module, batch: Any) -> Any:
    """The model's output for an input given as a tensor, a tuple of arguments or a dict of keywords."""
    if isinstance(batch, dict):
        return model(**batch)
    if isinstance(batch, list | tuple):
        return model(*batch)
    return model(batch)


def batch_size(batch: Any) -> int:
    """How many inputs a batch holds: the length of its first tensor."""
    if isinstance(batch, dict):
        batch = next(iter(batch.values()))
    while isinstance(batch, list | tuple):
        batch = batch[0]
    return batch.shape[0] if batch.dim() else 1


def _count_uses(model: nn.Module, example_input: Any) -> dict[str, float]:
    """Output positions per input of every leaf, seen by hooks in one forward pass in evaluation mode."""
    counts: dict[str, float] = {}
    inputs = batch_size(example_input)

    def hook(path: str, module: nn.Module):  # noqa: ANN202
        def seen(_module: nn.Module, _args: Any, output: Any) -> None:
            out = output[0] if isinstance(output, tuple) else output
            if isinstance(out, nn.utils.rnn.PackedSequence):
                positions = out.data.shape[0]
            elif isinstance(module, CONVOLUTIONS):
                positions = out.numel() / module.out_channels
            else:
                positions = out.numel() / out.shape[-1]
            counts[path] = counts.get(path, 0.0) + positions / inputs

        return seen

    handles = [m.register_forward_hook(hook(p, m)) for p, m in model.named_modules() if _weights(m)]
    try:
        with evaluating(model), torch.no_grad():
            call(model, example_input)
    finally:
        for handle in handles:
            handle.remove()
    return counts


class evaluating:  # noqa: N801 - used like a function
    """A context in which ``model`` is in evaluation mode; every module's own mode comes back after it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __enter__(self) -> nn.Module:
        self.modes = [(m, m.training) for m in self.model.modules()]
        return self.model.eval()

    def __exit__(self, *_: object) -> None:
        for module, mode in self.modes:
            module.training = mode


def select(names: Any, pattern: str) -> list[str]:
    """The names that a pattern (``conv*``) means; none is an error that lists what there is.

    Example:
        >>> select(["conv1", "conv2", "fc"], "conv*")
        ['conv1', 'conv2']
    """
    names = list(names)
    chosen = [n for n in names if n == pattern] or [n for n in names if fnmatchcase(n, pattern)]
    if not chosen:
        raise LayerError(f"{pattern!r} names no layer; the model has: {', '.join(names) or 'no compressible layer'}")
    return chosen


def put(model: nn.Module, layer: Layer, code: Code) -> None:
    """Put ``code`` in the place of a layer's weight, in ``model`` itself, at every place the weight is tied to.

    The layer is found by its name, so it may come from a copy of ``model``.
    """
    module = _owner(model, layer.name)[0]
    if isinstance(module, Factored):
        raise LayerError(f"{layer.name}: is already two layers; put the code into a copy of the original model")
    layer = replace(layer, module=module)
    if is_binary(module, layer.parameter) and not code.binary:
        raise LayerError(
            f"{layer.name}: its weights are binary, and {type(code).__name__} would not keep them so; use Binary or "
            "BinaryKernels, or remove filters with taut.shrink; to leave the binary set, begin with taut.layers.bake(model)"
        )
    new = replacement(layer, code)
    if new is not None:
        new.train(module.training)
        replace_module(model, layer.name, new)
        return
    attach(module, layer.parameter, _stored(code) if layer.kind == "hf_conv1d" else code)
    for other in layer.tied:
        _tie(model, other, layer)


def replacement(layer: Layer, code: Code) -> nn.Module | None:
    """The cheaper module that :func:`put` would set in the layer's place, or ``None`` where the layer stays and decodes."""
    return code.module(layer) if replaceable(layer) else None


def replaceable(layer: Layer) -> bool:
    """Whether a layer can become another module: a weight that others share or that a recurrent layer owns is decoded instead."""
    return not layer.tied and layer.kind in REPLACEABLE


def _stored(code: Code) -> Code:
    """The code of the transposed weight, which is what Hugging Face's ``Conv1D`` holds."""
    if isinstance(code, TransposedCode):
        return code
    if isinstance(code, DenseCode) and isinstance(code.value, Tensor):
        return DenseCode(code.value.t().contiguous())
    return TransposedCode(code)


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module and the parameter that a layer's name means."""
    try:
        return model.get_submodule(name), "weight"
    except AttributeError:
        path, _, parameter = name.rpartition(".")
        return model.get_submodule(path), parameter


def _tie(model: nn.Module, other: str, layer: Layer) -> None:
    """Make another place share the layer's parameter, or the very parametrization that decodes it."""
    module, parameter = _owner(model, other)
    if parametrize.is_parametrized(module, parameter):
        release(module, parameter)
    if not parametrize.is_parametrized(layer.module, layer.parameter):
        setattr(module, parameter, getattr(layer.module, layer.parameter))
        return
    source = layer.module.parametrizations[layer.parameter]
    attach(module, parameter, source[0].structure)
    module.parametrizations[parameter] = source


def replace_module(model: nn.Module, path: str, new: nn.Module) -> None:
    """Set the submodule at ``path``."""
    if not path:
        raise LayerError("the model is a single layer; wrap it in nn.Sequential so that the layer can be replaced")
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


@dataclass(frozen=True)
class Alias:
    """A tensor that is another one, tied."""

    of: str


def codes(model: nn.Module) -> dict[str, Code | Tensor | Alias]:
    """Everything that makes the model's state: each original tensor name, with its code, its plain tensor or its alias.

    The names are those of the *original* network's ``state_dict``, whatever its layers were replaced by.
    """
    state: dict[str, Code | Tensor | Alias] = {}
    seen: dict[int, str] = {}
    for path, value, identity in _walk(model, ""):
        if identity in seen:
            state[path] = Alias(seen[identity])
        else:
            seen[identity] = path
            state[path] = value
    return state


def _walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, Code | Tensor, int]]:
    if isinstance(module, Factored):
        code = module.code()
        yield f"{prefix}weight", TransposedCode(code) if module.transposed else code, id(module)
        if module.bias is not None:
            yield from _own(module.last, prefix, skip="weight")
        return
    yield from _own(module, prefix)
    for name, child in module.named_children():
        if name != "parametrizations":
            yield from _walk(child, f"{prefix}{name}.")


def _own(module: nn.Module, prefix: str, skip: str = "") -> Iterator[tuple[str, Code | Tensor, int]]:
    coded = list(getattr(module, "parametrizations", {}))
    plain = {**module._parameters, **{k: v for k, v in module._buffers.items() if k not in module._non_persistent_buffers_set}}
    for name in coded:
        if name != skip:
            code = attached(module, name)
            value = getattr(module, name).detach() if code is None else code
            yield f"{prefix}{name}", value, _identity(module, name)
    for name, tensor in plain.items():
        if tensor is not None and name != skip:
            yield f"{prefix}{name}", tensor.detach(), id(tensor)


def bake(model: nn.Module) -> nn.Module:
    """A copy of the model in which every coded weight is a plain, dense parameter; low-rank layers stay two layers."""
    plain = copy.deepcopy(model)
    tied: dict[int, nn.Parameter] = {}
    for module in list(plain.modules()):
        for parameter in list(getattr(module, "parametrizations", {})):
            if attached(module, parameter) is None:
                continue
            identity = _identity(module, parameter)
            value = release(module, parameter)
            setattr(module, parameter, tied.setdefault(identity, value))
    return plain


def check_model(model: nn.Module) -> None:
    """Raise if a weight or a buffer of the model is NaN or infinite; the error names the tensor."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            shape = tuple(tensor.shape)
            raise TautError(f"{name}: the tensor of shape {shape} holds NaN or infinite values; check the checkpoint")
