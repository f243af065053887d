"""How ``small-1.taut`` and ``neighbours-1.taut`` (format 1), each with its ``.safetensors``, were made: by this, with a name.

They are never made again: a later version of taut must open them as they are. A new format gets files of its own.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from taut.codec.files import load_state_dict, save
from taut.compressors.codebook import CodebookCode
from taut.compressors.low_rank import LowRankCode
from taut.compressors.prune import PruneCode
from taut.compressors.quantize import QuantizeCode
from taut.layers import Alias

HERE = Path(__file__).parent


def state() -> dict:
    """Every built-in code, most ways a tensor is stored, and a tie."""
    g = torch.Generator().manual_seed(1)
    density = torch.rand(40, 1, generator=g) ** 2 * torch.rand(60, generator=g) ** 3
    mask = torch.rand(40, 60, generator=g) < density
    kept = int(mask.sum())
    book = CodebookCode(torch.randn(5, generator=g), torch.randint(0, 5, (kept,), generator=g).to(torch.uint8), True)
    grid = torch.round(torch.randn(12, 30, generator=g) * 2).to(torch.int8)
    return {
        "pruned.weight": PruneCode(book, mask),
        "pruned.bias": torch.randn(40, generator=g),
        "tied.weight": Alias("pruned.weight"),
        "low_rank.weight": LowRankCode(torch.randn(2, 30, generator=g), torch.randn(20, 2, generator=g), (20, 30), 1),
        "grid.weight": QuantizeCode(torch.tensor(0.03), grid),
        "wide.weight": QuantizeCode(torch.rand(9, generator=g), torch.randint(-40_000, 40_000, (9, 50), generator=g).int()),
        "zeros": torch.zeros(64),
        "ones": torch.ones(64),
        "special": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        "half": torch.randn(200, generator=g).half(),
        "brain": torch.randn(200, generator=g).bfloat16().float(),
        "double": torch.randn(50, generator=g).double(),
        "palette": torch.tensor([0.0, -1.5, 2.5])[torch.randint(0, 3, (20, 20), generator=g)],
        "sparse": torch.randn(30, 30, generator=g).masked_fill(torch.rand(30, 30, generator=g) < 0.8, 0.0),
        "steps": torch.tensor(123_456),
        "flags": torch.rand(9, 9, generator=g) < 0.5,
        "empty": torch.zeros(0, 3),
    }


def neighbours() -> dict:
    """Weights that are told from those beside them: filters, an image's rows, and numbers at the places of a mask."""
    g = torch.Generator().manual_seed(2)
    filters = torch.randn(20, 1, 3, 3, generator=g) + 0.4 * torch.randn(20, 8, 3, 3, generator=g)
    waves = torch.sin(torch.arange(14) / 2 + 6 * torch.rand(30, 14, 1, generator=g)).reshape(30, 196)
    rows = torch.round(1.4 * waves + 0.3 * torch.randn(30, 196, generator=g)).to(torch.int8)
    mask = filters.abs() > 0.7
    indices = (torch.round(filters * 1.5).clamp(-2, 2) + 2)[mask].to(torch.uint8)
    return {
        "pruned.weight": PruneCode(CodebookCode(torch.linspace(-1, 1, 5), indices, False), mask),
        "grid.weight": QuantizeCode(torch.tensor(0.05), rows),
        "mask": filters > 1,
    }


if __name__ == "__main__":
    name = sys.argv[1]
    save({"small": state, "neighbours": neighbours}[name](), HERE / f"{name}-1.taut", meta={"made": "golden"})
    dense = {key: t.clone() for key, t in load_state_dict(HERE / f"{name}-1.taut").items()}
    save_file(dense, HERE / f"{name}-1.safetensors")
