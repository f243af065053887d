"""The last step before a candidate is measured: batch norms reduced to scale and shift, vectors put on short grids."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from taut.compressors.coded import Coded, attach, free_parameters
from taut.compressors.quantize import Quantize
from taut.layers import find_layers
from taut.measure import BATCH_NORMS

COARSE = 0.04
"""The largest error of a vector on a grid, as a part of its median magnitude."""
MOST_LEVELS = 1000
"""Levels above zero of a vector's grid."""


def finish(model: nn.Module, bits: int = 8) -> None:
    """Make what is not a layer's weight cheap, in place: see :func:`canonical_batchnorm` and :func:`shorten_vectors`."""
    canonical_batchnorm(model)
    shorten_vectors(model, bits)


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
                _shorten(module, name, bits)
    for module in list(model.modules()):
        for name in getattr(module, "parametrizations", {}):
            if isinstance(module.parametrizations[name][0], Coded):
                for free in free_parameters(module, name):
                    _round_half(free)


def _shorten(module: nn.Module, name: str, bits: int) -> None:
    """Put a vector on a grid; where outliers make it too coarse for a typical value, on one with more levels.

    Levels are entropy-coded: the outliers pay for themselves. Where they are very many times the typical value, half precision.
    """
    vector = getattr(module, name).detach()
    typical = float(vector.abs().median())
    code = Quantize(bits=bits).compress(vector)
    if float((code.decompress() - vector).abs().max()) > COARSE * typical:
        if not 0 < float(vector.abs().max()) <= MOST_LEVELS * 2 * COARSE * typical:
            _round_half(getattr(module, name))
            return
        code = Quantize(step=2 * COARSE * typical).compress(vector)
    attach(module, name, code)


def _round_half(tensor: Tensor) -> None:
    """Round to half precision where that keeps every value to 10 bits; the codec stores such values in 2 bytes."""
    if tensor.dtype != torch.float32:
        return
    with torch.no_grad():
        short = tensor.half().float()
        if bool(torch.isfinite(short).all()) and bool(((short - tensor).abs() <= 2**-10 * tensor.abs()).all()):
            tensor.copy_(short)
