"""Pooled inputs in a network: a smaller layer with the same outputs, in the file, in the graph and in the costs."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from taut import apply, load, save
from taut.compressors import Chain, Codebook, Prune
from taut.compressors.base import Stats
from taut.compressors.pool import Pool, PooledLinear
from taut.errors import LayerError, TautError
from taut.export.onnx import export_onnx
from taut.layers import bake
from taut.measure import ledger


def build(inputs=2 * 49):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


METHODS = [Pool(by=2, channels=2), Pool(by=3, channels=2), Chain(Pool(by=2, channels=2), Chain(Prune(0.5), Codebook(k=4)))]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_smaller_layer_has_the_outputs_of_the_decoded_one(method, tmp_path):
    x = torch.randn(5, 2, 7, 7)
    small = apply(build(), {"1": method}, x).eval()
    plain = build()
    plain[1].weight.data = method.compress(build()[1].weight.detach()).decompress()
    with torch.no_grad():
        assert isinstance(small[1][0], PooledLinear)
        assert torch.allclose(small(x), plain(x), atol=1e-5)
        save(small, tmp_path / "m.taut")
        assert torch.equal(load(tmp_path / "m.taut", into=build()).eval()(x), small(x))
        export_onnx(small, tmp_path / "m.onnx", x)
        (found,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"input": x.numpy()})
        assert np.allclose(found, small(x).numpy(), atol=1e-5)
        assert torch.allclose(bake(small)(x), small(x), atol=1e-6)
    blocks = -(-7 // (method.by if isinstance(method, Pool) else 2))
    assert ledger(small, x).totals()["macs"] == 12 * 2 * blocks**2 + 36
    assert torch.allclose(small[1].weight, plain[1].weight)


def test_the_layer_takes_more_than_one_leading_dimension():
    layer = nn.Sequential(nn.Linear(16, 3))
    small = apply(layer, {"0": Pool(by=2)})
    x = torch.randn(4, 5, 16)
    assert torch.allclose(small(x), torch.stack([small(part) for part in x]), atol=1e-6)


def test_the_gradient_of_a_value_is_the_sum_of_its_blocks():
    code = Pool(by=2).compress(torch.randn(3, 25))
    fisher = torch.rand(3, 25)
    found = code.part_stats(Stats(fisher=fisher))["values"].fisher.reshape(3, 3, 3)
    maps = fisher.reshape(3, 5, 5)
    wanted = torch.stack(
        [torch.stack([maps[:, i : i + 2, j : j + 2].sum((1, 2)) for j in (0, 2, 4)], 1) for i in (0, 2, 4)], 1
    )
    assert torch.allclose(found, wanted)


@pytest.mark.parametrize(
    ("method", "told"),
    [(Pool(channels=3), "not 3 square maps"), (Pool(by=8, channels=2), "larger than the maps"), (Pool(), "not 1 square maps")],
    ids=str,
)
def test_inputs_that_are_no_such_maps_are_refused(method, told):
    with pytest.raises(LayerError, match=told):
        apply(build(), {"1": method})
    with pytest.raises(TautError, match="at least 1"):
        Pool(by=0)
