"""Whether a layer's replacement pays: timed against the layer itself, before a search spends a trial on it.

Two layers in a row of half the arithmetic can take longer than the one they replace: each has its own overhead, and thin
matrices use a processor badly. So what a code would put in a layer's place runs in turn with the layer, at the shape it really
sees; what is slower by more than the noise is barred, whatever is minimised.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from itertools import islice
from statistics import median
from typing import Any

from torch import Tensor, nn

from taut.compressors.base import Code, Compressor
from taut.errors import ExtraError, TautError
from taut.latency import Timing, ratio, ratios_onnx, time_torch
from taut.layers import Layer, bake, batch_size, find_layers, replacement
from taut.shape_times import inputs_seen

log = logging.getLogger(__name__)

NOISE = 1.05
"""A median ratio up to this is no difference: equal graphs come out up to 5 % apart."""
ROUNDS = 5
"""The median of so many timings decides, each in fresh sessions."""

Ratios = Callable[[nn.Module, nn.Module, Any], tuple[Iterator[float], str]]


def ratios(before: nn.Module, after: nn.Module, example_input: Any, *, fixed: bool = True) -> tuple[Iterator[float], str]:
    """How many times as long ``after`` takes as ``before``, up to five timings of one input, and what they ran on.

    On ONNX Runtime where it is installed and takes both, else in torch itself. ``fixed``: the example is one input as it is.
    """
    try:
        found = ratios_onnx(before, after, example_input, rounds=ROUNDS, fixed=fixed)
        first = next(found)
    except (ExtraError, TautError) as error:
        log.debug("timed in torch: %s", error)
        rows = batch_size(example_input) if fixed else 1
        return _ratios_torch(before, after, example_input, rows), "torch"
    return _chained(first, found), "ONNX Runtime"


def _chained(first: float, rest: Iterator[float]) -> Iterator[float]:
    yield first
    yield from rest


def _ratios_torch(before: nn.Module, after: nn.Module, example_input: Any, rows: int) -> Iterator[float]:
    models = {"before": before, "after": after}
    for _ in range(ROUNDS):
        yield ratio(time_torch(models, example_input, batch=rows, timing=Timing(repeats=9)), "after", "before")


def slower(found: Iterator[float], rounds: int = ROUNDS) -> float | None:
    """By how much the median of ``rounds`` ratios is above one, or ``None`` if it is within the noise; stops when it is decided.

    Example:
        >>> slower(iter([1.3, 1.2, 1.0, 1.4])), slower(iter([1.0, 1.3, 0.9, 0.8]))
        (1.25, None)
    """
    seen: list[float] = []
    for value in islice(found, rounds):
        seen.append(value)
        high = [v for v in seen if v > NOISE]
        if max(len(high), len(seen) - len(high)) > rounds // 2:
            break
    return median(seen) if 2 * len(high) > len(seen) else None


class Pays:
    """The timings of one search: a layer against what a code would put in its place.

    ``example``: a batch of the network's inputs; one of them goes through the network to see the shape that each layer gets.
    Every pair of layer and replacement is timed once, whatever their names and weights. ``timer`` gives the ratios.
    """

    def __init__(self, example: Any, timer: Ratios = ratios) -> None:
        self.example, self.timer = example, timer
        self._known: dict[tuple, tuple[float | None, str]] = {}

    def why_not(self, model: nn.Module, moves: dict[str, tuple[Compressor, Code]]) -> dict[str, str]:
        """For each of the moves ``{layer: (method, its code)}`` of a dense ``model`` that does not pay, the reason in words."""
        layers = find_layers(model)
        new = {name: module for name, (_, code) in moves.items() if (module := replacement(layers[name], code)) is not None}
        if not new or self.example is None:
            return {}
        seen = inputs_seen(model, {name: layers[name] for name in new}, self.example)
        reasons = {}
        for name, module in new.items():
            if name not in seen:
                log.debug("%s: its own forward never runs, so that its replacement cannot be timed", name)
                continue
            factor, where = self._time(layers[name], module, seen[name])
            if factor is not None:
                rung = setting(moves[name][0], layers[name])
                told = f"{rung} took {factor:.2g} times as long as the dense layer on {where}, batch 1"
                log.info("%s: %s; it is not tried", name, told)
                reasons[name] = told
        return reasons

    def _time(self, layer: Layer, module: nn.Module, x: Tensor) -> tuple[float | None, str]:
        dense, other = (bake(m).cpu().eval() for m in (layer.module, module))
        key = (repr(dense), repr(other), tuple(x.shape), x.dtype)
        if key not in self._known:
            found, where = self.timer(dense, other, x)
            self._known[key] = slower(found), where
        return self._known[key]


def setting(method: Compressor, layer: Layer) -> str:
    """A method's setting for a layer in few words; only a 2-D convolution has two schemes.

    Example:
        >>> from taut.compressors import Chain, LowRank, Quantize
        >>> layer = find_layers(nn.Sequential(nn.Linear(96, 96)))["0"]
        >>> setting(Chain(LowRank(rank=48), Quantize(bits=8)), layer)
        'rank 48'
    """
    first = method
    while isinstance(getattr(first, "first", None), Compressor):
        first = first.first  # type: ignore[attr-defined]
    rank, scheme = getattr(first, "rank", None), getattr(first, "scheme", 1)
    if rank is None:
        return str(method)
    return f"rank {rank}" if scheme == 1 or layer.weight.dim() != 4 else f"rank {rank} (scheme {scheme})"


def narrower_but_slower(before: nn.Module, after: nn.Module, example: Any, timer: Callable = ratios) -> str | None:
    """Why a network that lost units does not pay, or ``None`` if it is not slower than ``before`` by more than the noise."""
    found, where = timer(copy.deepcopy(before), copy.deepcopy(after), example, fixed=False)
    factor = slower(found)
    return None if factor is None else f"the narrower network took {factor:.2g} times as long on {where}, batch 1"
