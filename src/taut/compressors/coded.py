"""Codes inside a model: a weight decoded from its code, and a layer replaced by two cheaper ones."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, skip_init

from taut.compressors.base import Code, DenseCode
from taut.errors import LayerError

if TYPE_CHECKING:
    from taut.layers import Layer


class Coded(nn.Module):
    """The parametrization ``weight = code.decompress()``, whose parameters are the code's free tensors.

    The structure (indices, masks) is kept here; the free tensors are ordinary ``nn.Parameter`` objects of the layer, so any
    optimizer fine-tunes them. Outside training the decoded weight is cached until a free tensor changes.
    """

    def __init__(self, code: Code, shape: torch.Size) -> None:
        super().__init__()
        self.structure = code.with_free([t.detach() for t in code.free()])
        self.shape = shape
        self._cache: tuple[tuple, Tensor] | None = None

    def forward(self, *free: Tensor) -> Tensor:
        if torch.is_grad_enabled() and any(t.requires_grad for t in free):
            self._cache = None  # a training step may follow, and may write behind the version counter
            return self._decode(free)
        if any(t.is_inference() for t in free):
            return self._decode(free)  # such tensors count no versions
        key = (torch.is_inference_mode_enabled(), *((id(t), t._version, t.data_ptr(), t.dtype) for t in free))
        if self._cache is None or self._cache[0] != key:
            self._cache = (key, self._decode(free).detach())
        return self._cache[1]

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The free tensors to train, in the weight's place (torch stores what this returns)."""
        return tuple(t.clone() for t in self.structure.free())

    def _decode(self, free: tuple[Tensor, ...]) -> Tensor:
        return self.structure.with_free(free).decompress().reshape(self.shape)

    def __getstate__(self) -> dict[str, Any]:
        """Copies of a model share no cached weight with it."""
        return {**self.__dict__, "_cache": None}

    def _apply(self, fn, recurse: bool = True):  # noqa: ANN001, ANN202 - torch's own signature
        """Move the structure with the module (``.to``, ``.half``); torch calls this, and knows only its own buffers."""
        super()._apply(fn, recurse)
        self._cache = None
        self.structure = _map_tensors(self.structure, fn)
        return self


def _map_tensors(code: Code, fn) -> Code:  # noqa: ANN001
    changes = {}
    for name, value in code.fields().items():
        if isinstance(value, Code):
            changes[name] = _map_tensors(value, fn)
        elif isinstance(value, Tensor):
            changes[name] = fn(value)
    return dataclasses.replace(code, **changes)


def attach(module: nn.Module, parameter: str, code: Code) -> None:
    """Replace ``module.<parameter>`` by ``code``: its value is decoded, its free tensors are trained."""
    if parametrize.is_parametrized(module, parameter):
        release(module, parameter)
    old = getattr(module, parameter)
    code = _map_tensors(code, lambda t: t.to(old.device))
    with torch.no_grad():
        value = code.decompress()
    if value.shape != old.shape:
        shapes = f"{tuple(value.shape)}, the layer's has {tuple(old.shape)}"
        raise LayerError(f"{type(module).__name__}.{parameter}: the code is of a weight of shape {shapes}")
    if isinstance(code, DenseCode) and isinstance(code.value, Tensor):
        old.data = value.detach().clone()
        return
    install(module, parameter, Coded(code, old.shape))


def install(module: nn.Module, parameter: str, how: nn.Module) -> None:
    """Compute ``module.<parameter>`` by the torch parametrization ``how`` from now on."""
    _own_class(module)
    parametrize.register_parametrization(module, parameter, how, unsafe=True)
    _refill(module)


def release(module: nn.Module, parameter: str) -> nn.Parameter:
    """Make a coded parameter an ordinary one again, of its present value; returns it."""
    trained = any(t.requires_grad for t in module.parametrizations[parameter].parameters())
    _own_class(module)
    with torch.no_grad():
        plain = nn.Parameter(getattr(module, parameter).detach().clone(), requires_grad=trained)
        parametrize.remove_parametrizations(module, parameter, leave_parametrized=True)
    # torch leaves a parameter or a buffer there, depending on the gradient mode
    delattr(module, parameter)
    module.register_parameter(parameter, plain)
    _refill(module)
    return plain


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own.

    torch keeps the properties of coded parameters on a class made for the module, which copies of the module share: without
    this, removing a code from a copy takes it from the original too.
    """
    cls = type(module)
    if parametrize.is_parametrized(module):
        own = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
        module.__class__ = type(cls.__name__, cls.__bases__, own)


def _refill(module: nn.Module) -> None:
    """Recurrent layers keep a list of their weights: with codes it is made anew at every use."""
    if not isinstance(module, nn.RNNBase):
        return
    module.__dict__.pop("_flat_weights", None)
    if parametrize.is_parametrized(module):
        type(module)._flat_weights = property(_decoded_weights, lambda rnn, value: None)
    else:
        module._flat_weights = _decoded_weights(module)


def _decoded_weights(rnn: Any) -> list[Tensor | None]:
    return [getattr(rnn, name, None) for name in rnn._flat_weights_names]


def attached(module: nn.Module, parameter: str) -> Code | None:
    """The code at ``module.<parameter>`` with its present free tensors, or ``None`` if it is stored as it is."""
    if not parametrize.is_parametrized(module, parameter):
        return None
    chain = module.parametrizations[parameter]
    coded = chain[0]
    if not isinstance(coded, Coded):
        return None
    return coded.structure.with_free([t.detach() for t in free_parameters(module, parameter)])


def is_binary(module: nn.Module, parameter: str) -> bool:
    """Whether the parameter is binary and has to stay so: of a binary code, or in training to become one."""
    if not parametrize.is_parametrized(module, parameter):
        return False
    how = module.parametrizations[parameter][0]
    return bool(how.structure.binary if isinstance(how, Coded) else getattr(how, "binary", False))


def free_parameters(module: nn.Module, parameter: str) -> list[nn.Parameter]:
    """The trained tensors behind a coded parameter, in the code's order."""
    chain = module.parametrizations[parameter]
    if chain.is_tensor:
        return [chain.original]
    return [getattr(chain, f"original{i}") for i in range(chain.ntensors)]


class Factored(nn.Sequential):
    """A layer made of smaller layers in a row, and the code whose parts their weights are.

    ``template`` tells how to get the code back: its parts, in order, are the weights of the layers, in order. A layer may
    itself be made of smaller ones.
    """

    def __init__(self, *layers: nn.Module, template: Code, transposed: bool = False) -> None:
        super().__init__(*layers)
        names = list(template.parts())
        for layer, name in zip(layers, names, strict=True):
            if isinstance(layer, Factored):
                continue  # made of its part already
            part = template.parts()[name]
            attach(layer, "weight", part if isinstance(part, Code) else DenseCode(part))
        self.template = dataclasses.replace(template, **{name: torch.empty(0) for name in names})
        self.transposed = transposed

    def code(self) -> Code:
        """The code with the layers' present weights."""
        parts = {}
        for layer, name in zip(self, self.template.parts(), strict=True):
            coded = layer.code() if isinstance(layer, Factored) else attached(layer, "weight")
            parts[name] = layer.weight.detach() if coded is None else coded
        return dataclasses.replace(self.template, **parts)

    @property
    def weight(self) -> Tensor:
        """The dense product, for code that reads ``layer.weight`` (attention's fast path does)."""
        parts = {name: layer.weight for layer, name in zip(self, self.template.parts(), strict=True)}
        product = dataclasses.replace(self.template, **parts).decompress()
        return product.t() if self.transposed else product

    @property
    def last(self) -> nn.Module:
        """The layer that holds the bias."""
        return self[-1].last if isinstance(self[-1], Factored) else self[-1]

    @property
    def bias(self) -> Tensor | None:
        return self.last.bias


def bare_linear(layer: Layer, inputs: int, outputs: int, bias: Tensor | None) -> nn.Linear:
    """An ``nn.Linear`` on the layer's device and dtype, with this bias; its weight is yet to be set."""
    return like_weight(layer, nn.Linear, bias, in_features=inputs, out_features=outputs)


def like_weight(layer: Layer, make: type[nn.Module], bias: Tensor | None, **settings: Any) -> Any:
    """A new module on the layer's device and dtype, with this bias; its weight is yet to be set, and trains if the layer's does.

    Nothing is drawn for its initial values, so the caller's random numbers stay as they were.
    """
    weight = layer.weight
    new = skip_init(make, bias=bias is not None, device=weight.device, dtype=weight.dtype, **settings)
    new.weight.requires_grad_(weight.requires_grad)
    if bias is not None:
        new.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return new
