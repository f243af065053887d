"""What a layer, and what would take its place, costs in time at the shape it really sees: measured once, and kept.

Arithmetic that is removed is not time that is saved: a rank of 33 may take longer than one of 40, and two thin layers longer
than the one they replace. So where time is minimised, the settings of a layer are priced by a table of timings, on the
runtime that ships.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from taut.compressors.base import Code
from taut.errors import ExtraError, TautError
from taut.flat import with_batch
from taut.latency import Timing, time_fixed_onnx, time_torch
from taut.layers import Layer, bake, batch_size, call, evaluating, find_layers, replacement
from taut.runtime import processor

log = logging.getLogger(__name__)

TIMING = Timing(repeats=9, warmup=2, limit=5.0)

NOTHING, LEAST = "nothing", 0.1
"""The name of a model that computes nothing, and the part of a measured time that stays when its own is taken off."""

Timer = Callable[[Mapping[str, nn.Module], Tensor], Mapping[str, float]]


def timed(models: Mapping[str, nn.Module], x: Tensor) -> dict[str, float]:
    """The median time of each model on ``x`` in milliseconds, in turn: in ONNX Runtime where it takes them all, else in torch.

    Less what a call takes that computes nothing, which a layer inside a network does not pay; a tenth of what was measured is
    left at least.
    """
    all_models = {**models, NOTHING: nn.Identity()}
    try:
        found = time_fixed_onnx(all_models, x, timing=TIMING)
    except (ExtraError, TautError) as error:
        log.debug("timed in torch: %s", error)
        found = time_torch(all_models, x, batch=batch_size(x), timing=TIMING)
    call_alone = found[NOTHING].median_ms
    return {name: max(found[name].median_ms - call_alone, LEAST * found[name].median_ms) for name in models}


class ShapeTimes:
    """The table. Layers of one shape share an entry, whatever their names and weights.

    ``example``: a batch of the network's inputs, repeated or cut to ``batch`` of them. ``timer`` gives milliseconds. In a file
    (:meth:`keep`) the table outlives the search.
    """

    def __init__(self, example: Any, timer: Timer = timed, batch: int = 1) -> None:
        self.example, self.timer, self.batch = example, timer, batch
        self.file: Path | None = None
        self.seen: dict[str, Tensor] = {}
        self.rate = 1.0
        self._dense: dict[str, float] = {}
        self._ratio: dict[str, float] = {}

    def keep(self, file: Path) -> None:
        """Use this file from now on, and what it holds, unless that is of another processor or another version of the runtime."""
        self.file = file
        try:
            held = json.loads(file.read_text())
            if held["runtime"] == runtime():
                self._dense, self._ratio = dict(held["layer_ms"]), dict(held["ratio"])
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError):
            log.warning("%s: no table of timings; it is made anew", file)

    def look(self, model: nn.Module) -> None:
        """Take ``model`` as the network whose layers are priced next: time those of shapes that are new."""
        layers = find_layers(model, self.example)
        self.seen = inputs_seen(model, layers, self.example, self.batch)
        own = {name: self.dense(layers[name]) for name in self.seen}
        macs = sum(layers[name].macs for name in own)
        self.rate = sum(own.values()) / macs if macs else 1.0

    def total(self, model: nn.Module) -> float:
        """The time of all layers of ``model`` as they are, one after the other, in milliseconds."""
        self.look(model)
        return sum(self.dense(layer) for layer in find_layers(model, self.example).values())

    def dense(self, layer: Layer) -> float:
        """The time of a layer as it is, in milliseconds."""
        if layer.name not in self.seen:
            return layer.macs * self.rate
        plain, x = _plain(layer.module), self.seen[layer.name]
        key = _key(plain, x)
        if key not in self._dense:
            self._dense[key] = self.timer({"dense": plain}, x)["dense"]
            self._write()
        return self._dense[key]

    def __call__(self, code: Code, layer: Layer) -> float:
        """The time, in milliseconds, of what a code would put in the layer's place.

        That of the layer times a ratio that is timed in turn, so that the machine's speed at the moment cancels. A layer whose
        own ``forward`` never runs cannot be timed: its multiply-adds count as much as those of the others do.
        """
        module = replacement(layer, code)
        if module is None:
            return self.dense(layer)
        if layer.name not in self.seen:
            return self.rate * float(code.cost().macs) * (1 if layer.uses is None else layer.uses)
        plain, other, x = _plain(layer.module), _plain(module), self.seen[layer.name]
        key = f"{_key(plain, x)} -> {other!r}"
        if key not in self._ratio:
            found = self.timer({"dense": plain, "other": other}, x)
            self._ratio[key] = found["other"] / found["dense"]
            self._write()
        return self.dense(layer) * self._ratio[key]

    def _write(self) -> None:
        if self.file is None:
            return
        table = {"runtime": runtime(), "layer_ms": self._dense, "ratio": self._ratio}
        part = self.file.with_name(f"{self.file.name}.part")
        part.write_text(json.dumps(table, indent=1))
        os.replace(part, self.file)


def inputs_seen(model: nn.Module, layers: dict[str, Layer], example: Any, batch: int = 1) -> dict[str, Tensor]:
    """What each layer gets when ``batch`` inputs of ``example`` go through ``model``; layers that do not run are left out.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 5))
        >>> {name: tuple(x.shape) for name, x in inputs_seen(net, find_layers(net), torch.zeros(9, 1, 8, 8)).items()}
        {'0': (1, 1, 8, 8), '2': (1, 72)}
    """
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable:
        def note(_module: nn.Module, args: tuple) -> None:
            if args and isinstance(args[0], Tensor) and name not in seen:
                seen[name] = args[0].detach().cpu().clone()

        return note

    handles = [layer.module.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        with evaluating(model), torch.no_grad():
            call(model, with_batch(example, batch))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def runtime() -> str:
    """What the timings are of: two of them can be compared if this is the same."""
    try:
        return f"ONNX Runtime {version('onnxruntime')} on {processor()}, 1 thread"
    except PackageNotFoundError:
        return f"torch {version('torch')} on {processor()}, 1 thread"


def _plain(module: nn.Module) -> nn.Module:
    return bake(module).cpu().eval()


def _key(module: nn.Module, x: Tensor) -> str:
    return f"{module!r} on {tuple(x.shape)} {x.dtype}"
