"""Putting a state (codes, tensors, ties) back into a freshly built model: the way in for files and for the search."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from taut.compressors.base import Code, TransposedCode
from taut.compressors.coded import Factored, attach
from taut.errors import LayerError
from taut.layers import Alias, Layer, find_layers, put
from taut.resize import resize

State = dict[str, "Code | Tensor | Alias"]


def restore(model: nn.Module, state: State, dense_shapes: dict[str, tuple[int, ...]] | None = None) -> nn.Module:
    """Make ``model``, a fresh instance of the original network, hold ``state``; returns ``model`` itself.

    ``dense_shapes`` are the original shapes of tensors that removed neurons made smaller: only those are resized. Every other
    difference is an error that names the tensor and both shapes.

    Example:
        >>> from taut.layers import codes
        >>> a, b = nn.Linear(3, 2), nn.Linear(3, 2)
        >>> torch.equal(restore(b, codes(a)).weight, a.weight)
        True
    """
    dense_shapes = dense_shapes or {}
    shapes = {name: tuple(_shape(value)) for name, value in state.items() if not isinstance(value, Alias)}
    _check_names(model, state, shapes, dense_shapes)
    if dense_shapes:
        resize(model, {name: shapes[name] for name in dense_shapes if name in shapes})
        model.__dict__["_taut_dense_shapes"] = dict(dense_shapes)
    layers = {layer.path: layer for layer in find_layers(model).values()}
    for name, value in state.items():
        if isinstance(value, Code):
            _put(model, layers.get(name), name, value)
        elif isinstance(value, Tensor):
            _set_plain(model, name, value)
    return model


def _shape(value: Code | Tensor) -> torch.Size:
    return value.decompress().shape if isinstance(value, Code) else value.shape


def _check_names(model: nn.Module, state: State, shapes: dict, dense_shapes: dict) -> None:
    here = model.state_dict()
    missing, extra = sorted(set(here) - set(state)), sorted(set(state) - set(here))
    if missing or extra:
        raise LayerError(
            "the saved network is another one than the model given: "
            + (f"the model has {_few(missing)} which the file lacks" if missing else "")
            + ("; " if missing and extra else "")
            + (f"the file has {_few(extra)} which the model lacks" if extra else "")
        )
    for name, shape in shapes.items():
        wanted = tuple(dense_shapes.get(name, shape))
        if tuple(here[name].shape) != wanted:
            raise LayerError(
                f"{name}: saved for shape {wanted}, the model has {tuple(here[name].shape)}; build the model with the same sizes"
            )


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _put(model: nn.Module, layer: Layer | None, name: str, code: Code) -> None:
    if layer is None:
        path, _, parameter = name.rpartition(".")
        module = model.get_submodule(path)
        # a factored layer keeps its bias on its last part
        attach(module.last if isinstance(module, Factored) else module, parameter, code)
        return
    # ``put`` transposes such a layer's code itself
    put(model, layer, code.part if layer.kind == "hf_conv1d" and isinstance(code, TransposedCode) else code)


def _set_plain(model: nn.Module, name: str, value: Tensor) -> None:
    path, _, key = name.rpartition(".")
    # a factored layer keeps its bias on its last part
    module = model.get_submodule(path)
    target = getattr(module, key)
    with torch.no_grad():
        if target.dtype != value.dtype:
            target.data = value.to(target.device).clone()
        else:
            target.copy_(value)
