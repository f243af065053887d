"""Tucker-2 against tensorly, its bounds, and its way through a network and a file."""

import pytest
import tensorly
import torch
from tensorly.decomposition import partial_tucker
from torch import nn

from taut.apply import apply
from taut.codec.files import load, save
from taut.compressors.tucker import Tucker
from taut.errors import LayerError, TautError
from taut.layers import find_layers
from taut.measure import ledger
from taut.numeric.truncation import leading_vectors
from taut.ranks import tucker_by_vbmf


def weight(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error(w, v):
    return float((w - v).square().sum())


@pytest.mark.parametrize("ranks", [(1, 1), (2, 4), (5, 3), (6, 9)])
@pytest.mark.parametrize("shape", [(10, 6, 3, 3), (9, 7, 5)], ids=str)
def test_as_good_as_tensorly(shape, ranks):
    w = weight(*shape)
    tensorly.set_backend("numpy")
    (core, factors), _ = partial_tucker(w.numpy(), rank=[ranks[1], ranks[0]], modes=[0, 1], n_iter_max=200, tol=1e-12)
    theirs = tensorly.tenalg.multi_mode_dot(core, factors, modes=[0, 1])
    ours = Tucker(*ranks).compress(w).decompress()
    assert error(w, ours) <= error(w, torch.from_numpy(theirs)) * 1.001


@pytest.mark.parametrize("seed", range(5))
def test_never_worse_than_the_truncated_decomposition(seed):
    w = weight(10, 8, 3, 3, seed=seed)
    t = w.flatten(2)
    u, v = leading_vectors(t.flatten(1), 4), leading_vectors(t.movedim(1, 0).flatten(1), 3)
    plain = torch.einsum("op,iq,pqk->oik", u @ u.T, v @ v.T, t).reshape(w.shape)
    assert error(w, Tucker(3, 4).compress(w).decompress()) <= error(w, plain) * (1 + 1e-12)


def test_a_small_core_is_found_exactly():
    w = torch.einsum("os,srk,ri->oik", weight(10, 3), weight(3, 2, 9, seed=1), weight(2, 6, seed=2)).reshape(10, 6, 3, 3)
    assert torch.allclose(Tucker(2, 3).compress(w).decompress(), w, atol=1e-12)
    noisy = w + 0.05 * weight(*w.shape, seed=3)
    assert Tucker.by_vbmf(noisy) == Tucker(2, 3)


def test_a_convolution_becomes_three(tmp_path):
    def build():
        return nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 4))

    x = torch.randn(2, 8, 8, 8)
    small = apply(build(), {"0": Tucker(4, 6)}, x)
    assert [tuple(c.weight.shape) for c in small[0]] == [(4, 8, 1, 1), (6, 4, 3, 3), (16, 6, 1, 1)]
    assert ledger(small, x).row("0.weight").parameters == 4 * 8 + 6 * 4 * 9 + 16 * 6
    # the first convolution runs before the stride
    assert ledger(small, x).row("0.weight").macs == 64 * 4 * 8 + 16 * (6 * 4 * 9 + 16 * 6)
    save(small, tmp_path / "small.taut")
    assert torch.equal(load(tmp_path / "small.taut", into=build())(x), small(x))


def test_the_plan_by_variational_bayes_takes_convolutions_only():
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 3, groups=2), nn.Flatten(), nn.Linear(64, 4))
    core = Tucker(2, 3).compress(model[0].weight.detach())
    with torch.no_grad():
        model[0].weight.copy_(core.decompress() + 1e-4 * torch.randn(16, 8, 3, 3))
    assert tucker_by_vbmf(model) == {"0": Tucker(2, 3)}


def test_mistakes_are_named():
    layers = find_layers(nn.Sequential(nn.Linear(8, 8), nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(4, 8, 3)))
    assert "linear" in Tucker(2, 2).refuses(layers["0"]) and "2 groups" in Tucker(2, 2).refuses(layers["1"])
    assert "above" in Tucker(5, 2).refuses(layers["2"]) and "dense" in Tucker(4, 8).refuses(layers["2"])
    with pytest.raises(TautError, match="at least 1"):
        Tucker(0, 2)
    for call in (
        lambda: Tucker().ladder((8, 8)),
        lambda: Tucker.by_vbmf(torch.ones(3, 3)),
        lambda: Tucker(9, 2).compress(weight(4, 4, 3)),
    ):
        with pytest.raises(LayerError):
            call()
