"""Study ``coder`` measures what it says."""

from __future__ import annotations

import torch

from taut.codec import contexts, records
from taut.compressors import Quantize


def test_lengths_with_and_without_neighbours(scripts):
    import coder

    g = torch.Generator().manual_seed(0)
    kernels = torch.randn(30, 1, 3, 3, generator=g) + 0.4 * torch.randn(30, 8, 3, 3, generator=g)
    code = Quantize(bits=3).compress(kernels)
    found = coder.measured([code, code])
    assert found["bytes"] == 2 * len(records.encode(code)) < 0.97 * found["baseline"]["bytes"]
    assert found["weights"] == 2 * kernels.numel() and found["decode_seconds"] > 0
    assert contexts.fits((2, 2)), "the models of neighbours are still off"
