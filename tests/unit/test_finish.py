"""What is not a layer's weight is made cheap, and stays what it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from taut import apply, load, save
from taut.budget.finish import COARSE, finish, finish_by, near, shorten_vectors
from taut.codec.files import sizes
from taut.codec.records import decode, encode
from taut.compressors import LowRank
from taut.compressors.binary import Binary, BinaryCode, BinaryKernelsCode
from taut.compressors.coded import attached
from taut.layers import codes

G = torch.Generator().manual_seed(0)
PLAIN = torch.randn(500, generator=G)
OUTLIERS = torch.cat([0.1 * torch.randn(490, generator=G), 1 + torch.rand(10, generator=G)])
VECTORS = {"plain": PLAIN, "outliers": OUTLIERS, "tiny": 1e-4 * PLAIN, "shifted": 1 + 0.1 * PLAIN}
VECTORS["mostly zero"] = PLAIN * (torch.rand(500, generator=G) < 0.3)


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
    assert (layer.bias - bias).abs().max().item() <= 1.001 * COARSE * float(bias[bias != 0].abs().median())
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


def network(scale: float) -> nn.Sequential:
    """Its biases, ``scale`` times as large as what they are added to, decide the losses, or do not."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 3))
    with torch.no_grad():
        net[0].bias.mul_(scale)
    return net.eval()


X, Y = torch.randn(200, 20, generator=G), torch.randint(0, 3, (200,), generator=G)


def losses(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return nn.functional.cross_entropy(model(X), Y, reduction="none")


def bits_of(model: nn.Module) -> int:
    """The bits of the grid that a copy of a vector would need for what it came out as."""
    return len(model[0].bias.detach().unique())


def test_vectors_take_the_fewest_bits_that_leave_the_losses() -> None:
    counts = []
    for scale in (0.1, 30.0):
        net = network(scale)
        short = finish_by(net, losses)
        assert near(losses(net), losses(short))
        assert not parametrize.is_parametrized(net[0], "bias"), "the network itself was changed"
        coarser = copy.deepcopy(net)
        if bits_of(short) > 7:  # more than three bits: two bits less would not have done
            finish(coarser, 3)
            assert not near(losses(net), losses(coarser))
        counts.append(bits_of(short))
    assert counts[0] <= 7 < counts[1]


def test_a_judge_that_sees_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taut.budget.finish.near", lambda before, after: True)
    net = network(30.0)
    assert not near(losses(net), losses(finish_by(net, losses)))


def test_scales_of_norms_have_two_bits_more() -> None:
    norm = nn.BatchNorm1d(400).eval()
    with torch.no_grad():
        norm.weight.normal_(generator=G)
        norm.bias.normal_(generator=G)
    finish(nn.Sequential(norm), 4)
    assert len(norm.bias.unique()) <= 15 < len(norm.weight.unique()) <= 63


def test_a_low_rank_layer_comes_back_with_its_short_bias(tmp_path) -> None:
    def build() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 3))

    small = apply(build(), {"0": LowRank(rank=4)})
    finish(small)
    size = save(small, tmp_path / "m.taut")
    again = load(tmp_path / "m.taut", into=build())
    x = torch.randn(5, 40)
    assert torch.equal(again.eval()(x), small.eval()(x)) and save(again, tmp_path / "n.taut") == size


@pytest.mark.parametrize(("count", "kind"), [(2048, BinaryCode), (20, BinaryKernelsCode)])
def test_binary_kernels_that_repeat_are_stored_once_where_it_is_shorter(count: int, kind: type) -> None:
    w = torch.randn(count, 3, 3, generator=G)[torch.randint(0, count, (64, 32), generator=G)]
    conv = nn.Conv2d(32, 64, 3, bias=False)
    conv.weight.data = w
    net = apply(nn.Sequential(conv), {"0": Binary()}).eval()
    before, x = sizes(net)[1], torch.randn(2, 32, 5, 5, generator=G)
    with torch.no_grad():
        outputs = net(x)
        finish(net)
        assert torch.equal(net(x), outputs)
    assert type(codes(net)["0.weight"]) is kind
    assert sizes(net)[1] < before if kind is BinaryKernelsCode else sizes(net)[1] == before


def test_the_step_of_a_vector_is_short() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 40)
    shorten_vectors(layer, 8)
    step = attached(layer, "bias").step
    assert torch.equal(step, step.half().float()) and len(encode(step)) == len(encode(torch.tensor(0.1))) - 2
    assert torch.equal(decode(encode(step)), step)
