"""Chains: one method on a weight, another on the parts of its code."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from taut.compressors.base import Code, Compressor, Stats
from taut.errors import TautError

if TYPE_CHECKING:
    from taut.layers import Layer


def _default(name: str) -> Compressor:
    return Compressor.registry[name]()


@dataclass(frozen=True)
class Chain(Compressor):
    """``first`` on the weight, then ``second`` on every tensor that its code leaves free:

        v = argmin_{v in first}  ||v - w||^2 ,   then each part p of v's code becomes  argmin_{q in second}  ||q - p||^2

    Low rank and then a codebook: two factors, each with its own few values. Prune and then a codebook: deep compression (Han et
    al. 2016, arXiv 1510.00149). Greedy, so neither optimal nor idempotent, and with ``second`` fixed a larger ``first`` may fit
    worse. Either may be a chain itself; chaining is associative. Recovery trains in the set of ``first``.

    Example:
        >>> import torch
        >>> from taut.compressors import Codebook, LowRank, Prune
        >>> code = Chain(LowRank(rank=2), Codebook(k=4)).compress(torch.randn(30, 20))
        >>> type(code).__name__, type(code.first).__name__, code.first.indices.shape
        ('LowRankCode', 'CodebookCode', torch.Size([2, 20]))
        >>> str(Chain(Prune(0.1), Codebook(k=4)).relaxed())
        'Prune(density=0.1, by=magnitude, seed=0)'
    """

    first: Compressor = field(default_factory=lambda: _default("LowRank"))
    second: Compressor = field(default_factory=lambda: _default("Codebook"))
    idempotent: ClassVar[bool] = False
    monotone: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for method in (self.first, self.second):
            if not isinstance(method, Compressor):
                raise TautError(f"a chain is made of two compressors, e.g. Chain(LowRank(8), Codebook(16)); got {method!r}")

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        return self._parts(self.first.compress(w, stats), stats)

    def _parts(self, code: Code, stats: Stats | None) -> Code:
        """The code with its free tensors, at any depth, compressed by the second method."""
        known = code.part_stats(stats)
        changes: dict[str, Code] = {}
        for name, part in code.parts().items():
            if isinstance(part, Code):
                changes[name] = self._parts(part, known.get(name))
            else:
                changes[name] = self.second.compress(part, known.get(name)) if part.numel() else part
        return dataclasses.replace(code, **changes)

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """The first method's ladder, each rung followed by the second method as it is."""
        return [dataclasses.replace(self, first=rung) for rung in self.first.ladder(shape)]

    def relaxed(self) -> Compressor | None:
        return self.first.relaxed()

    def refuses(self, layer: Layer) -> str | None:
        return self.first.refuses(layer) or self.second.refuses(layer)

    def needs_stats(self) -> bool:
        return self.first.needs_stats() or self.second.needs_stats()

    def needs_inputs(self) -> bool:
        return self.first.needs_inputs() or self.second.needs_inputs()
