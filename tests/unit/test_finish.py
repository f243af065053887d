"""What is not a layer's weight is made cheap, and stays what it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from taut.budget.finish import COARSE, finish
from taut.codec.files import sizes

G = torch.Generator().manual_seed(0)
PLAIN = torch.randn(500, generator=G)
OUTLIERS = torch.cat([0.1 * torch.randn(490, generator=G), 1 + torch.rand(10, generator=G)])
VECTORS = {"plain": PLAIN, "outliers": OUTLIERS, "tiny": 1e-4 * PLAIN, "shifted": 1 + 0.1 * PLAIN}


def finished(bias: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(2, len(bias))
    with torch.no_grad():
        layer.bias.copy_(bias)
    finish(nn.Sequential(layer))
    return layer


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_goes_on_a_grid_that_is_fine_enough(name: str) -> None:
    bias = VECTORS[name]
    layer = finished(bias)
    assert parametrize.is_parametrized(layer, "bias")
    assert (layer.bias - bias).abs().max().item() <= 1.001 * COARSE * float(bias.abs().median())
    assert sizes(layer)[0]["bias"] < 1.3 * len(bias)  # bytes; half precision takes two for each


@pytest.mark.parametrize(
    "bias",
    [torch.cat([1e-6 * torch.rand(20, generator=G), torch.tensor([1.0])]), torch.cat([torch.zeros(15), torch.tensor([0.3])])],
    ids=["an outlier a million times larger", "mostly zero"],
)
def test_where_no_grid_is_fine_enough_half_precision_is(bias: torch.Tensor) -> None:
    layer = finished(bias)
    assert torch.allclose(layer.bias, bias, rtol=2**-10, atol=0)


@pytest.mark.parametrize("bias", [torch.zeros(20), torch.full((20,), 0.7)], ids=["zeros", "constant"])
def test_constant_vectors_cost_next_to_nothing(bias: torch.Tensor) -> None:
    layer = finished(bias)
    assert torch.allclose(layer.bias, bias, rtol=0.01)
    assert sizes(layer)[0]["bias"] < 30
