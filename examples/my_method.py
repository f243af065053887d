"""A compression method of your own, in a file of your own: weights that are zero or a power of two.

Put the file where Python finds it (the present folder will do) and use it as any other method:

    taut compress --method my_method:PowersOfTwo --model ... --data ... --out small

    import my_method, taut
    taut.apply(model, {"*": my_method.PowersOfTwo(levels=7)})
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from taut.compressors.base import Code, Compressor, Stats, check_weight, dense


@dataclass(frozen=True, eq=False)
class PowersOfTwoCode(Code):
    """``levels``: 0 for a zero, else 1 for the largest power, 2 for half of it …; negative for negative weights (int8).

    ``unit ()``: the largest power of two.
    """

    unit: Tensor | Code
    levels: Tensor

    def decompress(self) -> Tensor:
        unit = dense(self.unit)
        exponents = 1 - self.levels.abs().to(unit.dtype)
        return unit * self.levels.sign().to(unit.dtype) * torch.exp2(exponents)


@dataclass(frozen=True)
class PowersOfTwo(Compressor):
    """Each weight is 0 or plus or minus one of ``levels`` powers of two, so that a product is a shift:

        argmin_v  ||v - w||^2    subject to  v_i in {0, ±2^e, ±2^(e-1), …},  2^e the power nearest to max |w|

    After Zhou et al., *Incremental network quantization*, ICLR 2017 (arXiv 1702.03044). Optimal for the given largest power.

    Example:
        >>> PowersOfTwo(levels=2).compress(torch.tensor([[1.0, -0.45], [0.1, 0.8]])).decompress().tolist()
        [[1.0, -0.5], [0.0, 1.0]]
    """

    levels: int = 7
    monotone: ClassVar[bool] = True

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        w = check_weight(w, self)
        largest = w.abs().max()
        unit = torch.exp2(torch.log2(largest / 1.5).ceil()) if largest > 0 else torch.zeros_like(largest)
        table = unit * torch.exp2(-torch.arange(self.levels, device=w.device, dtype=w.dtype))
        table = torch.cat([table.new_zeros(1), table])
        # the nearest entry, a few thousand weights at a time: the table of distances is small
        nearest = torch.cat([(part[:, None] - table).abs().argmin(1) for part in w.abs().reshape(-1).split(1 << 14)])
        return PowersOfTwoCode(unit, (nearest.reshape(w.shape) * w.sign()).to(torch.int8))

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        """1, 3, 7 and 15 powers: 2 to 5 bits a weight before the entropy coder."""
        return [dataclasses.replace(self, levels=levels) for levels in (1, 3, 7, 15)]
