"""Layers that read fewer inputs, with and without factors: what each width and rank would cost and lose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from taut.compressors.base import Compressor
from taut.compressors.chain import Chain
from taut.compressors.columns import Columns
from taut.compressors.low_rank import LowRank
from taut.layers import Layer
from taut.moments import input_moments
from taut.numeric.elimination import fewer_columns
from taut.numeric.singular import singular_values
from taut.numeric.truncation import weighted

STEP = 2 ** (-1 / 3)
"""Between two widths that are tried."""
LEAST = 0.05
"""The least share of the inputs that is tried."""
RANKS = 48
"""Ranks tried at one width, evenly spread."""

Choice = tuple[Compressor, int, float]


def narrow_choices(model: nn.Module, layers: Mapping[str, Layer], data: Iterable) -> dict[str, list[Choice]]:
    """For each linear layer, methods that read fewer inputs: ``(method, parameters, loss)``.

    ``loss`` is the share of the energy of the layer's outputs on ``data`` that is lost, ``E ||(W - V) x||^2 / E ||W x||^2``. What
    the missing inputs lose and what the rank loses add up: the values of the columns that stay are a regression, whose
    residual is orthogonal to all they can do.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(64, 32))
        >>> data = [torch.randn(200, 64) * (torch.arange(64) < 32)]  # half of the inputs are always zero
        >>> choices = narrow_choices(model, {"0": Layer("0", model[0], "weight", "linear")}, data)["0"]
        >>> min((parameters, str(method)) for method, parameters, loss in choices if loss < 1e-6)
        (1024, 'Columns(inputs=0.5, by=activation)')
    """
    linear = {n: layer for n, layer in layers.items() if layer.kind in ("linear", "hf_conv1d")}
    moments = input_moments(model, data, linear)
    return {n: list(_choices(layer.weight.detach(), moments[n])) for n, layer in linear.items() if n in moments}


def _choices(weight: Tensor, moments: Tensor) -> Iterable[Choice]:
    rows, size = weight.shape
    whole = float(weighted(weight, moments).square().sum())
    unit = float(moments.diagonal().mean()) or 1.0
    widths = [w for w in _widths(size) if w < size]
    if not whole or not widths:
        return
    for stays, values, lost in fewer_columns(weight, moments, widths):
        width, missing = values.shape[1], lost / unit / whole
        narrow = Columns(width / size, by="activation")
        yield narrow, rows * width, missing
        kept = moments[stays][:, stays]
        # as shares of the kept inputs' own mean moment; the whole is in that of all
        scale = float(kept.diagonal().mean()) / unit / whole
        tails = singular_values(weighted(values, kept)).double().square().flip(0).cumsum(0).flip(0) * scale
        ranks = [r for r in range(1, min(rows, width)) if r * (rows + width) < rows * width]
        for r in ranks[:: -(-len(ranks) // RANKS) or 1]:
            yield Chain(narrow, LowRank(r, by="activation")), r * (rows + width), missing + float(tails[r])


def _widths(size: int) -> list[int]:
    widths, share = [], STEP
    while share >= LEAST:
        widths.append(max(1, round(share * size)))
        share *= STEP
    return sorted(set(widths), reverse=True)
