"""The last step before a candidate is measured: batch norms as scale and shift, vectors on short grids, repeated kernels once."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from taut.codec.records import size
from taut.compressors.base import dense
from taut.compressors.binary import BinaryCode, shared
from taut.compressors.coded import Coded, attach, attached, free_parameters
from taut.compressors.quantize import Quantize, QuantizeCode
from taut.layers import find_layers
from taut.measure import BATCH_NORMS

COARSE = 0.04
"""The largest error of a vector on a grid of 8 bits, as a part of the median magnitude of its nonzeros; a bit less doubles it."""
BITS = (3, 4, 5, 6, 8)
"""Of a vector's grid; two more where it is a norm's scale, which multiplies."""
USUAL = 4
"""Bits that most networks come out with."""
NEAR = 0.02
"""Losses that differ by this part of their root mean square are taken for the same."""
MOST_LEVELS = 1000
"""Levels above zero of a vector's grid."""


def finish(model: nn.Module, bits: int = 8) -> None:
    """Make what is not a layer's weight cheap, in place: see :func:`canonical_batchnorm` and :func:`shorten_vectors`; and code
    binary weights by their kernels where that is shorter.
    """
    canonical_batchnorm(model)
    shorten_vectors(model, bits)
    repeat_kernels(model)


def repeat_kernels(model: nn.Module) -> None:
    """Code binary weights by the kernels that repeat, in place, where the file is shorter for it; the weights stay."""
    for layer in find_layers(model).values():
        code = attached(layer.module, layer.parameter)
        if isinstance(code, BinaryCode) and (other := shared(code)) is not None and size(other) < size(code):
            attach(layer.module, layer.parameter, other)


def finish_by(model: nn.Module, losses: Callable[[nn.Module], Tensor]) -> nn.Module:
    """As :func:`finish`, on a copy, with the fewest bits that leave the ``losses`` of some examples as they are.

    Biases take most of a very small file: LeNet-5 in a kilobyte would have half of it in 580 biases of 8 bits.
    """
    model = copy.deepcopy(model)
    canonical_batchnorm(model)
    before = losses(model)
    for bits in BITS:
        short = copy.deepcopy(model)
        shorten_vectors(short, bits)
        if bits == BITS[-1] or near(before, losses(short)):
            break
    return short


def near(before: Tensor, after: Tensor) -> bool:
    """Whether losses of the same examples differ by little, in the root mean square.

    Example:
        >>> near(torch.tensor([1.0, 2.0]), torch.tensor([1.01, 2.0])), near(torch.tensor([1.0, 2.0]), torch.tensor([1.1, 2.0]))
        (True, False)
    """
    return bool((after - before).square().mean() <= NEAR**2 * before.square().mean())


def canonical_batchnorm(model: nn.Module) -> None:
    r"""Write every affine batch norm as the scale and shift it computes: mean 0 and variance ``1 - eps``, which cost no bytes.

    .. math:: a = \frac{w}{\sqrt{v + \epsilon}}, \qquad c = b - a m

    Example:
        >>> norm = nn.BatchNorm1d(3).eval(); _ = norm.running_mean.fill_(2.0); x = torch.randn(4, 3)
        >>> before = norm(x); canonical_batchnorm(norm); torch.allclose(norm(x), before, atol=1e-5)
        True
    """
    with torch.no_grad():
        for norm in model.modules():
            if not isinstance(norm, BATCH_NORMS) or norm.weight is None or norm.running_mean is None or norm.running_var is None:
                continue
            # a channel that never varies only passes its bias on; its scale would outgrow every grid
            alive = norm.running_var > 1e-12
            scale = torch.where(alive, norm.weight / torch.sqrt(norm.running_var + norm.eps), 0.0)
            norm.bias.copy_(norm.bias - scale * norm.running_mean)
            norm.weight.copy_(scale)
            norm.running_mean.zero_()
            norm.running_var.fill_(1.0 - norm.eps)
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.zero_()


def shorten_vectors(model: nn.Module, bits: int) -> None:
    """Put biases and norms' vectors on a grid of ``bits`` bits, and round codebooks and other free values to half precision."""
    weights = {id(p) for layer in find_layers(model).values() for p in (getattr(layer.module, layer.parameter),)}
    for module in list(model.modules()):
        for name, parameter in list(module._parameters.items()):
            if parameter is None or id(parameter) in weights or parameter.dim() != 1 or not parameter.is_floating_point():
                continue
            if isinstance(module, parametrize.ParametrizationList) or parameter.numel() < 8:
                _round_half(parameter)
            else:
                _shorten(module, name, bits + 2 * (bits < BITS[-1] and name == "weight"))
    for module in list(model.modules()):
        for name in getattr(module, "parametrizations", {}):
            if isinstance(module.parametrizations[name][0], Coded):
                for free in free_parameters(module, name):
                    _round_half(free)


def _shorten(module: nn.Module, name: str, bits: int) -> None:
    """Put a vector on a grid; where outliers make it too coarse for a typical value that is not zero, on one with more levels.

    Levels are entropy-coded: the outliers pay for themselves. Where they are very many times the typical value, half precision.
    """
    vector = getattr(module, name).detach()
    some = vector[vector != 0] if bool(vector.any()) else vector  # zeros are exact on every grid
    typical, coarse = float(some.abs().median()), COARSE * 2 ** (8 - bits)
    code = Quantize(bits=bits).compress(vector)
    if float((code.decompress() - vector).abs().max()) > coarse * typical:
        if not 0 < float(vector.abs().max()) <= MOST_LEVELS * 2 * coarse * typical:
            _round_half(getattr(module, name))
            return
        code = Quantize(step=2 * coarse * typical).compress(vector)
    # two bytes less, for steps that half precision holds; the levels are those of the step that is stored
    assert isinstance(code, QuantizeCode)
    step = dense(code.step).clone()
    _round_half(step)
    attach(module, name, Quantize(step=float(step)).compress(vector))


def _round_half(tensor: Tensor) -> None:
    """Round to half precision where that keeps every value to 10 bits; the codec stores such values in 2 bytes."""
    if tensor.dtype != torch.float32:
        return
    with torch.no_grad():
        short = tensor.half().float()
        if bool(torch.isfinite(short).all()) and bool(((short - tensor).abs() <= 2**-10 * tensor.abs()).all()):
            tensor.copy_(short)
