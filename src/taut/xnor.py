"""Binarized layers that count bits: the outputs of the float network, bit for bit, without its multiplications.

A layer whose weights are a scale times signs, and whose inputs are signs, needs one exclusive or and one count for eight
products: ``y = scale (n - 2 popcount(x xor w))`` (Rastegari et al. 2016, *XNOR-Net*, ECCV, arXiv 1603.05279, section 3.2).
:func:`pack` puts such layers into a network that :class:`taut.parametrizations.Binary` trained. Convolutions multiply packed
patches.

Sums of signs are whole numbers, and scales have few digits, so that the float network's sums are exact in any order: equal
outputs are no matter of tolerance. On the processor, in one thread, for inference.
"""

from __future__ import annotations

import copy
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn

from taut.compressors.coded import attached, is_binary
from taut.errors import ParityError, TautError
from taut.flat import flatten
from taut.layers import Layer, call, evaluating, find_layers, replace_module
from taut.numeric.popcount import FUNCTIONS, LARGEST, lay_out

TYPES = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


class _Weights:
    """The packed signs of a layer, its scales and biases, and where they lie; ``inputs``: products in one sum."""

    def __init__(self, bits: NDArray[np.bool_], inputs: int, scales: NDArray, bias: NDArray) -> None:
        self.signs, self.scales, self.bias = lay_out(bits), np.ascontiguousarray(scales), np.ascontiguousarray(bias)
        self.rows, self.inputs, self.steps = len(bits), inputs, self.signs.shape[1]
        self._find()

    def _find(self) -> None:
        self.pack, self.multiply, self.linear = FUNCTIONS[self.scales.dtype]
        self.at = (self.signs.ctypes.data, self.rows, self.scales.ctypes.data, self.bias.ctypes.data)

    def __getstate__(self) -> dict[str, Any]:
        """Copies have their own memory."""
        return {key: getattr(self, key) for key in ("signs", "scales", "bias", "rows", "inputs", "steps")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._find()


class Packed(nn.Module):
    """A binary layer in packed form, made by :func:`pack`; it reads -1 and 1 on the processor, and gives no gradients."""

    def __init__(self, weights: _Weights, dtype: torch.dtype) -> None:
        super().__init__()
        self.weights, self.dtype = weights, dtype
        # so that a saved state shows that it is of another network than the one that was packed
        self.register_buffer("packed", torch.from_numpy(weights.signs))

    def _check(self, x: Tensor) -> None:
        if x.dtype is not self.dtype or not x.is_cpu:
            raise TautError(
                f"a packed layer takes {self.dtype} on the CPU, not {x.dtype} on {x.device}; use the unpacked network"
            )
        if x.requires_grad and torch.is_grad_enabled():
            raise TautError("a packed layer gives no gradients; call it under torch.no_grad(), or train the unpacked network")

    def _refuse(self) -> NoReturn:
        raise TautError(
            "a packed layer's inputs are not all -1 or 1; put taut.binary.Sign before it, and pad with 1 instead of 0"
        )


class PackedLinear(Packed):
    """A linear layer on signs ``(..., in)``."""

    def __init__(self, weights: _Weights, dtype: torch.dtype) -> None:
        super().__init__(weights, dtype)
        self.known = self._known(torch.Size([1, weights.inputs]))

    def _known(self, shape: torch.Size) -> tuple[torch.Size, int, Tensor]:
        """What inputs of one shape have in common: their rows, and an output to make others like."""
        inputs = self.weights.inputs
        if not shape or shape[-1] != inputs:
            raise TautError(f"a packed layer of {inputs} inputs is given an input of shape {tuple(shape)}")
        return shape, shape.numel() // inputs, torch.empty((*shape[:-1], self.weights.rows), dtype=self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``x (..., in)`` of -1 and 1 to ``(..., out)``."""
        # written for few steps: at one row of 1024 inputs they take longer than the products
        if x.dtype is not self.dtype or x.requires_grad or not x.is_cpu:
            self._check(x)
        known, w = self.known, self.weights
        if x.shape != known[0]:
            known = self.known = self._known(x.shape)
        if not x.is_contiguous():
            x = x.contiguous()
        out = torch.empty_like(known[2])
        if not w.linear(x.data_ptr(), known[1], w.inputs, *w.at, out.data_ptr()):
            self._refuse()
        return out


class PackedConv2d(Packed):
    """A convolution without padding on signs ``(n, channels, height, width)``."""

    def __init__(self, weights: _Weights, dtype: torch.dtype, layer: nn.Conv2d) -> None:
        super().__init__(weights, dtype)
        self.channels, self.kernel, self.stride, self.dilation = (
            layer.in_channels, layer.kernel_size, layer.stride, layer.dilation,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """``x (n, channels, height, width)`` of -1 and 1, in either memory format, which the output has too."""
        self._check(x)
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise TautError(f"a packed convolution of {self.channels} channels is given an input of shape {tuple(x.shape)}")
        inner = x.permute(0, 2, 3, 1).contiguous()
        packed = np.empty((*inner.shape[:3], -(-self.channels // 8)), np.uint8)
        if not self.weights.pack(inner.data_ptr(), packed.size // packed.shape[-1], self.channels, packed.reshape(-1)):
            self._refuse()
        patches, w = self._patches(packed), self.weights
        out = torch.empty((*patches.shape[:3], w.rows), dtype=self.dtype)
        w.multiply(patches.reshape(-1), out.numel() // w.rows, w.inputs, w.steps, *w.at, out.data_ptr())
        out = out.permute(0, 3, 1, 2)
        return out.contiguous() if x.is_contiguous() else out

    def _patches(self, packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What each output position reads: ``(n, height, width, kernel height, kernel width, bytes)``."""
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        if packed.shape[1] < reach[0] or packed.shape[2] < reach[1]:
            raise TautError(
                f"a packed convolution of kernel {self.kernel} is given maps of {packed.shape[1]} x {packed.shape[2]}"
            )
        windows = sliding_window_view(packed, reach, axis=(1, 2))
        windows = windows[:, :: self.stride[0], :: self.stride[1], :, :: self.dilation[0], :: self.dilation[1]]
        return np.ascontiguousarray(windows.transpose(0, 1, 2, 4, 5, 3))


def pack(model: nn.Module, example_input: Any) -> nn.Module:
    """A copy of a binarized network, in evaluation mode, whose binary layers on binary inputs count bits.

    What a layer reads is seen on ``example_input``. Layers that cannot be packed stay as they are: :func:`packable` says why. The
    copy's outputs for ``example_input`` are compared with the model's, and equal. Inputs of a packed layer that are not all -1
    or 1 are an error at any later call.

    Raises:
        TautError: no layer can be packed; the message says why.
        ParityError: the outputs are not equal.

    Example:
        >>> from taut.apply import apply
        >>> from taut.binary import Sign
        >>> from taut.compressors.binary import Binary
        >>> model = nn.Sequential(Sign(), nn.Linear(100, 70, bias=False), nn.BatchNorm1d(70), Sign(), nn.Linear(70, 10))
        >>> model, x = apply(model, {"1": Binary()}).eval(), torch.randn(5, 100)
        >>> with torch.no_grad():
        ...     torch.equal(pack(model, x)(x), model(x))
        True
    """
    reasons = packable(model, example_input)
    if all(reasons.values()):
        told = "; ".join(f"{name}: {why}" for name, why in reasons.items()) or "the model has no layers"
        raise TautError(f"no layer can be packed: {told}")
    new = copy.deepcopy(model).eval()
    for name, layer in find_layers(new).items():
        if not reasons[name]:
            replace_module(new, name, _packed(layer))
    with evaluating(model), torch.no_grad():
        wanted, found = (dict(flatten(call(m, example_input))) for m in (model, new))
    for name, tensor in wanted.items():
        if not torch.equal(tensor, found[name]):
            apart = float((tensor - found[name]).abs().max())
            raise ParityError(f"the packed network gives other outputs, by up to {apart:.3g}; is the example input on the CPU?")
    return new


def packable(model: nn.Module, example_input: Any) -> dict[str, str]:
    """For each layer why :func:`pack` leaves it as it is; ``""`` for one that is packed."""
    layers = find_layers(model)
    plain = {name for name, layer in layers.items() if attached(layer.module, layer.parameter) is not None}
    binary = {name: layer for name, layer in layers.items() if name in plain and is_binary(layer.module, layer.parameter)}
    signs = _read_signs(model, example_input, binary)
    reasons = {}
    for name, layer in layers.items():
        if name in binary:
            reasons[name] = _unfit(layer, signs.get(name))
        else:
            latent = is_binary(layer.module, layer.parameter)
            reasons[name] = "its weights are in training; finalize() first" if latent else "its weights are not binary"
    return reasons


def _read_signs(model: nn.Module, example_input: Any, layers: dict[str, Layer]) -> dict[str, bool]:
    """Whether all that a layer reads is -1 or 1; no entry for one that is not called."""
    seen: dict[str, bool] = {}

    def look(name: str, x: Tensor) -> None:
        seen[name] = seen.get(name, True) and bool((x.abs() == 1).all())

    handles = [
        layer.module.register_forward_pre_hook(lambda _module, args, name=name: look(name, args[0]))
        for name, layer in layers.items()
    ]
    try:
        with evaluating(model), torch.no_grad():
            call(model, example_input)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _unfit(layer: Layer, signs: bool | None) -> str:
    module, weight = layer.module, layer.weight.detach()
    if not isinstance(module, nn.Linear | nn.Conv2d):
        return f"only linear layers and 2-D convolutions are packed, this is {type(module).__name__}"
    if layer.tied:
        return f"its weight is shared with {', '.join(layer.tied)}"
    if not signs:
        return "the example input does not pass through it" if signs is None else "its inputs are not all -1 or 1"
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return "it is a grouped convolution"
    if isinstance(module, nn.Conv2d) and (isinstance(module.padding, str) or any(module.padding)):
        return "it pads by itself, and zeros are no signs; set padding=0 and put nn.ConstantPad2d(1, 1.0) before it"
    if weight.dtype not in TYPES or not weight.is_cpu:
        return f"its weights are {weight.dtype} on {weight.device}; packed layers are float32 or float64 on the CPU"
    inputs = weight[0].numel()
    if inputs > LARGEST:
        return f"its sums have {inputs:,} terms, and at most {LARGEST:,} are counted"
    bias = torch.zeros(len(weight)) if module.bias is None else module.bias.detach()
    if not _exact(weight.abs().reshape(len(weight), -1).amax(1), bias, inputs):
        return (
            "its scales or biases have too many digits for exact sums; taut.apply with Binary() rounds the scales, and a batch "
            "norm behind the layer takes the bias"
        )
    return ""


def _exact(scales: Tensor, bias: Tensor, inputs: int) -> bool:
    """Whether every partial sum of ``inputs`` times +-scale, and the bias with it, is a number of the scales' type."""
    digits = 53 if scales.dtype == torch.float64 else 24
    steps = []
    for values in (scales.double().numpy(), bias.double().numpy()):
        mantissa, exponent = np.frexp(values)
        whole = np.abs(np.ldexp(mantissa, 53).astype(np.int64))
        steps.append(np.where(values == 0, np.inf, np.ldexp((whole & -whole).astype(float), exponent - 53)))
    largest = scales.double().numpy() * inputs + np.abs(bias.double().numpy())
    return bool((largest <= np.ldexp(np.minimum(*steps), digits)).all())


def _packed(layer: Layer) -> Packed:
    module, weight = layer.module, layer.weight.detach()
    scales = weight.abs().reshape(len(weight), -1).amax(1).numpy()
    bias = np.zeros_like(scales) if module.bias is None else module.bias.detach().numpy().copy()
    bits = (weight >= 0).numpy()
    if isinstance(module, nn.Linear):
        return PackedLinear(_Weights(bits, weight.shape[1], scales, bias), weight.dtype)
    # channels innermost, each position in bytes of its own
    inner = np.moveaxis(bits, 1, -1)
    filled = np.zeros((*inner.shape[:3], 8 * -(-inner.shape[3] // 8)), dtype=bool)
    filled[..., : inner.shape[3]] = inner
    return PackedConv2d(_Weights(filled.reshape(len(bits), -1), weight[0].numel(), scales, bias), weight.dtype, module)
