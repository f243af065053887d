"""What is minimised: bytes, parameters, MACs or latency, of a single code (an estimate) and of a whole network (measured)."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from torch import Tensor, nn

from taut.codec.files import file_size, sizes
from taut.compressors.base import Code
from taut.cost import Ledger
from taut.errors import TautError
from taut.latency import ratios_onnx
from taut.layers import Layer, bake, replaceable
from taut.measure import ledger
from taut.shape_times import ShapeTimes

UNITS = ("bytes", "params", "macs", "latency")


class Meter:
    """Measures networks in the unit that is minimised; calling it gives the cost of a network as it would ship."""

    def __init__(self, unit: str, example: Any, original: nn.Module) -> None:
        if unit not in UNITS:
            raise TautError(f"minimize={unit!r}: choose one of {', '.join(UNITS)}")
        self.unit, self.example, self.original = unit, example, original
        self.times = ShapeTimes(example)

    def __call__(self, model: nn.Module) -> float:
        if self.unit == "bytes":
            return float(file_size(model))
        if self.unit == "latency":
            return self.latency(model)
        return float(self.ledger(model).totals()[self.unit])

    @property
    def margin(self) -> float:
        """A cheaper network costs less than this times the one before: a timing has to beat its own noise.

        Equal networks, timed in pairs of sessions, came out 5 to 8 % apart; the median of five pairs is within 4 %, and the
        quotient of two such medians within 6 %.
        """
        return 0.93 if self.unit == "latency" else 1.0

    def latency(self, model: nn.Module) -> float:
        """The time of one input in ONNX Runtime as a multiple of the original's: the median of five timings in turn."""
        return median(ratios_onnx(self.original, bake(model), self.example))

    def keep(self, folder: Path) -> None:
        """Leave what was timed in this folder, and use what is there."""
        if self.unit == "latency":
            self.times.keep(folder / "latency.json")

    def look(self, model: nn.Module) -> None:
        """Take ``model`` as the network whose layers are priced next."""
        if self.unit == "latency":
            self.times.look(model)

    def price(self, code: Code, layer: Layer) -> float:
        """The cost of one code: its estimated bytes, its parameters, its arithmetic, or the milliseconds that were measured of
        layers of its shape.
        """
        if self.unit == "bytes":
            return estimated_bytes(code)
        if self.unit == "latency":
            return self.times(code, layer)
        if not replaceable(layer):
            # the weight will be decoded: it holds and computes what it did
            return float(layer.weight.numel() if self.unit == "params" else layer.macs)
        cost = code.cost()
        return float(cost.parameters if self.unit == "params" else cost.macs * (1 if layer.uses is None else layer.uses))

    def ledger(self, model: nn.Module) -> Ledger:
        """The measured cost of a network, per tensor."""
        return ledger(model, self.example, *sizes(model))


def estimated_bytes(code: Code) -> float:
    """About how long a code's record will be: the empirical entropy of its structure, and two bytes a free value.

    Orders the moves only, hundreds of times faster than coding; what is kept is decided by the file's real length.

    Example:
        >>> import torch
        >>> from taut.compressors import Prune
        >>> estimated_bytes(Prune(density=0.5).compress(torch.randn(1000)))
        1125.0
    """
    total = 0.0
    for value in code.fields().values():
        if isinstance(value, Code):
            total += estimated_bytes(value)
        elif isinstance(value, Tensor):
            # a tensor left dense keeps all its bits
            free = 4 if type(code).__name__ == "DenseCode" else 2
            total += free * value.numel() if value.is_floating_point() else _entropy(value) / 8
    return total


def _entropy(symbols: Tensor) -> float:
    """Bits of a tensor of integers or booleans under its own frequencies, with a byte for each symbol's frequency."""
    flat = symbols.reshape(-1).cpu().numpy()
    counts = np.bincount(flat.astype(np.int64) - int(flat.min(initial=0)))
    counts = counts[counts > 0]
    table = 8.0 * len(counts) if len(counts) > 2 else 0.0
    return float(-(counts * np.log2(counts / counts.sum())).sum()) + table
