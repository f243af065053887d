"""Compress the layers you name with the methods you choose: no search, no training."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import nn

from taut.compressors.base import Compressor, Stats
from taut.errors import LayerError, TautError
from taut.layers import Layer, check_model, find_layers, put, select
from taut.measure import fisher_diagonal
from taut.moments import input_moments
from taut.objective import batches_of

Method = TypeVar("Method")


def assign(names: Iterable[str], plan: Mapping[str, Method]) -> dict[str, Method]:
    """Which layer gets which method: an exact name beats a pattern, else the first pattern that matches.

    Example:
        >>> from taut.compressors import LowRank, Codebook
        >>> {name: str(method) for name, method in assign(["a", "b"], {"*": Codebook(4), "b": LowRank(2)}).items()}
        {'b': 'LowRank(rank=2, scheme=1, by=weight)', 'a': 'Codebook(k=4, by=magnitude, keep_zero=True, damping=0)'}
    """
    names = list(names)
    chosen: dict[str, Method] = {}
    for pattern in sorted(plan, key=lambda p: p not in names):
        for name in select(names, pattern):
            chosen.setdefault(name, plan[pattern])
    return chosen


def apply(model: nn.Module, plan: Mapping[str, Compressor], example_input: Any = None, data: Iterable | None = None) -> nn.Module:
    """A new model with the layers named by ``plan`` compressed; ``model`` is not changed.

    ``plan`` maps layer names or patterns to compressors. ``data``, batches of ``(input, target)``, dicts or inputs, is needed
    by methods that weight by the Fisher information or by the second moments of the inputs. A layer that cannot take its
    method raises a :class:`~taut.errors.LayerError` that says why; when the *pattern* matched many, name the layers that can.

    Example:
        >>> import torch
        >>> from taut.compressors import LowRank
        >>> small = apply(nn.Sequential(nn.Linear(64, 64)), {"0": LowRank(rank=4)})
        >>> sum(p.numel() for p in small.parameters())
        576
    """
    check_model(model)
    new = copy.deepcopy(model)
    layers = find_layers(new, example_input)
    chosen = assign(layers, plan)
    for name, method in chosen.items():
        if not isinstance(method, Compressor):
            raise TautError(
                f"{name}: {method!r} is not a compressor; use one of taut.compressors, e.g. taut.compressors.LowRank(8)"
            )
    stats = statistics(new, layers, chosen, data)
    for name, method in chosen.items():
        reason = method.refuses(layers[name])
        if reason:
            raise LayerError(f"{name}: {method} cannot be used: {reason}")
        put(new, layers[name], method.compress(layers[name].weight.detach(), stats.get(name)))
    return new


def statistics(
    model: nn.Module, layers: Mapping[str, Layer], plan: Mapping[str, Compressor], data: Iterable | None
) -> dict[str, Stats]:
    """What the methods of a plan want to know of the layers, from ``data``; ``{}`` without data."""
    by_fisher = {n: layers[n] for n, method in plan.items() if method.needs_stats()}
    by_inputs = {n: layers[n] for n, method in plan.items() if method.needs_inputs()}
    if data is None or not (by_fisher or by_inputs):
        return {}
    data = batches_of(data, "calibration")
    fisher = fisher_diagonal(model, data, by_fisher)
    moments = input_moments(model, data, by_inputs) if by_inputs else {}
    return {name: Stats(fisher.get(name), moments.get(name)) for name in {**fisher, **moments}}
