"""Second moments of inputs, and what low rank makes of them."""

import copy

import pytest
import torch
from torch import nn

from taut import moments
from taut.apply import apply
from taut.compressors import Chain, Codebook, LowRank, Prune
from taut.compressors.base import Stats
from taut.compressors.pool import Pool
from taut.errors import BudgetError, LayerError, TautError
from taut.layers import find_layers
from taut.moments import input_moments, patches

CONVOLUTIONS = {
    "1d": (nn.Conv1d(3, 4, 5, stride=2, padding=3, dilation=2), (2, 3, 30)),
    "2d": (nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=(1, 4), dilation=(1, 2)), (2, 3, 9, 11)),
    "2d same": (nn.Conv2d(3, 4, (4, 3), padding="same"), (2, 3, 6, 7)),
    "2d circular": (nn.Conv2d(3, 4, 3, padding=2, padding_mode="circular"), (2, 3, 6, 7)),
    "2d reflect": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (2, 3, 6, 7)),
    "3d": (nn.Conv3d(2, 4, (2, 3, 1), padding=(1, 0, 0)), (2, 2, 4, 5, 3)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_patches_are_what_the_convolution_multiplies(name):
    conv, shape = CONVOLUTIONS[name]
    conv, x = copy.deepcopy(conv).double(), torch.randn(shape, dtype=torch.float64)
    out = (patches(conv, x) @ conv.weight.flatten(1).T + conv.bias).reshape(shape[0], -1, 4).movedim(-1, 1)
    assert torch.allclose(out, conv(x).flatten(2))


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(54, 20), nn.ReLU(), nn.Linear(20, 3))


def batches(count=4, size=16):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(count, size, 2, 5, 5, generator=draw).cumsum(-1)
    return [(part, torch.zeros(size, dtype=torch.long)) for part in x]


def near(found, expected):
    """Equal, but for single precision within a batch."""
    return found.dtype == torch.float64 and bool(((found - expected).abs() <= 2e-6 * expected.abs().max()).all())


def test_moments_are_means_over_inputs_and_positions():
    model = small()
    found = input_moments(model, batches(), find_layers(model))
    x = torch.cat([x for x, _ in batches()])
    rows = torch.nn.functional.unfold(x, 3).movedim(1, 2).reshape(-1, 18).double()
    assert near(found["0"], rows.T @ rows / len(rows))
    hidden = model[:3](x).detach().double()
    assert near(found["3"], hidden.T @ hidden / len(hidden))
    assert not model[0]._forward_pre_hooks
    half = input_moments(model, batches(), find_layers(model), samples=32)
    assert near(half["0"], rows[: len(rows) // 2].T @ rows[: len(rows) // 2] * 2 / len(rows))


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_of_many_positions_some_say_as_much_and_every_batch_counts_alike(name, monkeypatch):
    """The first batch, all of which is taken, is three times as large as the others, of which a fourth is."""
    conv, shape = CONVOLUTIONS[name]
    draw = torch.Generator().manual_seed(2)
    data = [(1 + torch.randn(40, *shape[1:], generator=draw)) * (1.0 if i else 3.0) for i in range(30)]
    model, n = nn.Sequential(copy.deepcopy(conv)), conv.weight[0].numel()
    rows = torch.cat([patches(conv, x) for x in data]).double()
    expected = rows.T @ rows / len(rows)
    monkeypatch.setattr(moments, "WHOLE", 1)
    monkeypatch.setattr(moments, "ROWS", len(rows) // (4 * n))
    seen = []
    monkeypatch.setattr(moments, "_rows", lambda *of, rows=moments._rows: seen.append(rows(*of)) or seen[-1])
    found = input_moments(model, data, find_layers(model), samples=1200)["0"]
    assert sum(len(some) for some, _ in seen) < 0.6 * len(rows)
    assert (found - expected).norm() < 0.05 * expected.norm()
    assert not torch.equal(found, expected)


def test_a_layer_that_sums_its_inputs_first_is_told_of_the_sums():
    x = torch.rand(50, 1, 4, 4)
    net = nn.Sequential(nn.Flatten(), apply(nn.Sequential(nn.Linear(16, 3)), {"0": Pool(by=2)}))
    sums = nn.functional.avg_pool2d(x, 2).flatten(1).double() * 4
    (moments,) = input_moments(net, [x], find_layers(net)).values()
    assert torch.allclose(moments, sums.T @ sums / 50, rtol=1e-5)


def test_what_is_not_seen_is_left_out():
    model = nn.ModuleDict({"used": nn.Linear(3, 3), "table": nn.Embedding(4, 3), "unused": nn.Linear(3, 3)})
    model.forward = lambda ids: model["used"](model["table"](ids))
    assert set(input_moments(model, [torch.tensor([1, 2])], find_layers(model))) == {"used"}


def test_bad_inputs_are_named():
    model = small()
    with pytest.raises(BudgetError, match="0: "):
        input_moments(model, [torch.full((1, 2, 5, 5), float("nan"))], find_layers(model))
    with pytest.raises(BudgetError):
        input_moments(model, [], find_layers(model))


def test_outputs_move_less_than_with_plain_low_rank():
    model, data = small(), batches()
    x = torch.cat([x for x, _ in data])
    for name, layers in (("0", 1), ("3", 4)):
        want = model[:layers](x)
        plain, aware = (apply(model, {name: LowRank(3, by=by)}, data=data)[:layers](x) for by in ("weight", "activation"))
        assert (aware - want).square().sum() < 0.9 * (plain - want).square().sum()


def test_few_inputs_leave_the_other_directions_to_the_weights():
    """With fewer inputs than columns the products alone do not say what the rest of the matrix should be."""
    w = torch.randn(12, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    v = LowRank(6, by="activation").compress(w, Stats(inputs=x.T @ x / 2)).decompress()
    assert torch.allclose(v @ x.T, w @ x.T, atol=1e-5)
    u = torch.linalg.qr(w @ x.T)[0]
    rest = w - u @ (u.T @ w)
    least = torch.linalg.svdvals(rest)[4:].square().sum()
    assert (v - w).square().sum() == pytest.approx(float(least), rel=1e-3)
    indefinite = Stats(inputs=x.T @ x / 2 - 1e-6 * torch.eye(30, dtype=torch.float64) * float((x.T @ x).trace()))
    indefinite.inputs.diagonal().clamp_(min=0)
    assert torch.isfinite(LowRank(6, by="activation").compress(w, indefinite).decompress()).all()


def test_statistics_are_measured_for_those_that_want_them():
    model, data = small(), batches()
    mixed = {"0": LowRank(2, by="activation"), "3": Prune(0.3, by="fisher"), "5": Codebook(4)}
    assert apply(model, mixed, data=data)(data[0][0]).shape == (16, 3)
    assert apply(model, {"3": Chain(LowRank(2, by="activation"), Codebook(4))}, data=iter(data))(data[0][0]).shape == (16, 3)


def test_mistakes_are_named():
    method = LowRank(2, by="activation")
    with pytest.raises(LayerError, match="second moments"):
        apply(small(), {"3": method})
    with pytest.raises(LayerError, match=r"\(54, 54\)"):
        method.compress(torch.randn(20, 54), Stats(inputs=torch.eye(3)))
    with pytest.raises(LayerError, match="NaN"):
        method.compress(torch.randn(4, 5), Stats(inputs=torch.full((5, 5), float("nan"))))
    with pytest.raises(TautError, match="scheme"):
        LowRank(2, scheme=2, by="activation")
    with pytest.raises(TautError, match="by must"):
        LowRank(2, by="luck")
    with pytest.raises(LayerError, match="embedding"):
        apply(nn.Sequential(nn.Embedding(50, 20)), {"0": method}, data=[torch.tensor([[1]])])
