"""One number for all layers: strengths that weigh every layer by what it holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from taut.errors import LayerError, TautError
from taut.layers import Layer, find_layers
from taut.regularizers.base import Regularizer
from taut.train import assign

PRICES = ("params", "macs")


@torch.no_grad()
def even(
    model: nn.Module, regularizers: Mapping[str, Regularizer | None], per: str = "params", example_input: Any = None
) -> dict[str, Regularizer]:
    """Turn one strength for all layers into one for each: ``{layer: regularizer}`` for ``ProxOptimizer``.

    The same strength is strong in one layer and weak in another: the size of a penalty depends on the shape and the scale of
    the weight. Here a strength is the penalty *per weight at the present weights*: a layer of P weights gets, for each strength
    s of its regularizer r (at strength 1),

        s_layer  =  s * P / r(w),             so that          s_layer * r(w)  =  s * P

    and the number given is in units of the loss per weight, for every penalty and layer alike. Why P: the aim is few
    parameters, so a layer should give way where they are saved most cheaply; a price per parameter, the same everywhere, says
    that, and scaled to r(w) the penalty is that price spread over the weights there are. For single weights of size a it is ``s
    / a``; for groups the same (``sqrt(P_g)`` is in the group lasso already); for the nuclear norm of an m x n matrix with
    singular values near t it is ``s * max(m, n) / t``: a rank of a large matrix costs more, as it holds more. Scaling by
    ``sqrt(P)`` or by the largest singular value alone keeps one of these two factors. A layer's scale drops out: with weights
    twice as large the penalty is the same.

    Args:
        model: with the weights that training starts from; zero weights have no scale.
        regularizers: ``{pattern: regularizer}``, as in :class:`~taut.train.ProxOptimizer`.
        per: ``params``, or ``macs``: a layer counts by its multiply-adds, and a strength is per multiply-add of one input.
        example_input: a batch, needed for ``macs``.

    Raises:
        TautError: an unknown ``per``, no example input for ``macs``, a weight or a regularizer without a value to compare.

    Example:
        >>> from taut.regularizers import L1
        >>> model = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 2, bias=False))
        >>> for layer, size in zip(model, (0.5, 2.0)):
        ...     _ = nn.init.constant_(layer.weight, size)
        >>> {name: str(r) for name, r in even(model, {"*": L1(0.1)}).items()}
        {'0': 'L1(strength=0.2)', '1': 'L1(strength=0.05)'}
    """
    if per not in PRICES:
        raise TautError(f"per={per!r}: strengths are per 'params' or per 'macs'")
    if per == "macs" and example_input is None:
        raise TautError("per='macs': give an example_input, a batch, so that the uses of each layer can be counted")
    counted = find_layers(model, example_input)
    return {layer.name: _scaled(counted[layer.name], regularizer, per) for layer, regularizer in assign(model, regularizers)}


def _scaled(layer: Layer, regularizer: Regularizer, per: str) -> Regularizer:
    amount = layer.macs if per == "macs" else layer.weight.numel()
    changes = {}
    for name in regularizer.strengths:
        # the other strengths at zero: a penalty is linear in each
        unit = {other: float(other == name) for other in regularizer.strengths}
        value = float(dataclasses.replace(regularizer, **unit).value(layer.weight))  # type: ignore[type-var]
        if not value > 0:
            shape = tuple(layer.weight.shape)
            raise LayerError(
                f"{layer.name}: {regularizer} is {value:g} at the present weight of shape {shape} for {name}=1, which leaves no "
                "scale; give this layer its strength by hand, or start from weights that are not zero"
            )
        changes[name] = getattr(regularizer, name) * amount / value
    return dataclasses.replace(regularizer, **changes)  # type: ignore[type-var]
