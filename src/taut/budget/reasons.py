"""Why what was left alone was: one sentence for every tensor of the delivered network that is stored dense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from taut.budget.narrow import Shrink
from taut.budget.options import rungs
from taut.budget.search import Progress
from taut.compressors.base import Compressor
from taut.cost import Ledger
from taut.curve import Curve
from taut.layers import Layer, find_layers, replaceable


def explain(ledger: Ledger, model: nn.Module, methods: Sequence[Any], progress: Progress, curve: Curve,
            minimize: str) -> Ledger:  # fmt: skip
    """The ledger of the delivered network with the reason in ``why`` of every dense row; ``model`` is the original."""
    before = find_layers(model)
    layers = {layer.path: layer for layer in find_layers(progress.kept.dense).values()}
    case = _Case([m for m in methods if isinstance(m, Compressor)], any(isinstance(m, Shrink) for m in methods), minimize)
    rows = []
    for row in ledger.rows:
        if row.what != "dense":
            why = ""
        elif row.name in layers:
            layer = layers[row.name]
            told = (case.narrowed(before[layer.name], layer, progress), case.coded(layer, progress, curve))
            why = "; ".join(part for part in told if part)
        else:
            why = _no_layer(row.name, progress.kept.dense, changed=len(curve.kept) > 1)
        rows.append(replace(row, why=why))
    return replace(ledger, rows=tuple(rows))


def _no_layer(name: str, model: nn.Module, changed: bool) -> str:
    """Why a tensor that is no layer's weight is dense: vectors stay where the grid of the last step does not suit them."""
    found = dict(model.named_parameters(remove_duplicate=False)).get(name)
    if found is None:
        return "a buffer, which is no weight"
    if not changed:
        return "no candidate was kept: the network is as it was given"
    if found.dim() == 1:
        return "a vector that is too short or too uneven for a grid"
    return "not the weight of a layer that is compressed (nn.Linear, convolutions, nn.Embedding, recurrent layers)"


class _Case:
    """The methods of a run, and the unit it minimised."""

    def __init__(self, compressors: list[Compressor], shrinks: bool, minimize: str) -> None:
        self.compressors, self.shrinks, self.minimize = compressors, shrinks, minimize

    def narrowed(self, before: Layer, layer: Layer, progress: Progress) -> str:
        """What the removal of units did to a layer, or why it did nothing."""
        if not self.shrinks:
            return ""
        old, new = tuple(before.weight.shape), tuple(layer.weight.shape)
        if old != new:
            return f"narrowed from {old} to {new}"
        return f"no units removed: {progress.narrowed or 'the width asked for was reached without it'}"

    def coded(self, layer: Layer, progress: Progress, curve: Curve) -> str:
        """Why the layer has no code."""
        if not self.compressors:
            tried = "no smaller file was measured to be within the budget"
            return tried if progress.too_small else "no method for single weights was asked for"
        free = [rungs(method, layer) for method in self.compressors]
        if not any(found for found, _ in free):
            return "; ".join(sorted({why for _, why in free}))
        if self.minimize != "bytes" and not replaceable(layer):
            kind = f"shared with {', '.join(layer.tied)}" if layer.tied else f"of kind {layer.kind}"
            return f"the weight is {kind}: it is decoded before use, so a code saves no {_unit(self.minimize)}"
        parts = []
        if any(layer.name in point.plan for point in curve):
            parts.append("no cheaper setting was measured to be within the budget")
        barred = list(dict.fromkeys(progress.barred.get(layer.name, {}).values()))
        if barred:
            others = len(barred) - 1
            parts.append(barred[0] + (f", and {others} more settings were slower too" if others else ""))
        if not progress.finished and not any(layer.name in point.plan for point in curve):
            parts.append("the limit of time or steps came before a setting was measured")
        return "; ".join(parts) or f"none of its settings costs less ({_unit(self.minimize)})"


def _unit(minimize: str) -> str:
    return {"params": "parameters", "macs": "arithmetic", "latency": "time"}.get(minimize, minimize)


__all__ = ["explain"]
