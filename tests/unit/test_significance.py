"""What a weight's place costs: against a generic optimizer, and against counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from taut.numeric import significance
from taut.numeric.geometry import distances, of_shape
from taut.numeric.significance import beside, log_odds
from taut.parametrizations import Entropy
from taut.reparametrize import wrap


def mask(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Rows and columns of different densities, and neighbours that agree."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape[0], 1, generator=g) + torch.randn(1, math.prod(shape[1:]), generator=g) - 1
    noise = torch.randn(logits.shape, generator=g)
    return (logits + noise + noise.roll(1, 1) > 0).reshape(shape)


@pytest.mark.parametrize(("shape", "near"), [((30, 40), (1,)), ((20, 36), (1, 5, 6, 7)), ((8, 4, 3, 3), (1, 2, 3, 4, 9))])
def test_the_regression_is_that_of_a_generic_optimizer(shape: tuple[int, ...], near: tuple[int, ...]) -> None:
    ones = mask(shape).reshape(shape[0], -1).double().numpy()
    rows, columns = ones.shape
    share = (ones.sum() + 0.5) / (ones.size + 1)

    def logit(p: np.ndarray | float) -> np.ndarray | float:
        return np.log(p) - np.log1p(-p)

    row = logit((ones.sum(1) + 4 * share) / (columns + 4))[:, None]
    column = logit((ones.sum(0) + 4 * share) / (rows + 4))[None]
    own = row + column - logit(share)
    count = np.zeros_like(ones)
    for r in range(rows):
        for c in range(columns):
            count[r, c] = sum(ones[r, c + d] for n in near for d in (-n, n) if 0 <= c + d < columns)
    features = np.stack([own, count, np.ones_like(own)], -1).reshape(-1, 3)
    wanted, start = ones.reshape(-1), np.array([1.0, 0, 0])

    def loss(w: np.ndarray) -> float:
        z = features @ w
        return float(np.logaddexp(0, z).sum() - wanted @ z + 0.5 * ((w - start) ** 2).sum())

    best = minimize(loss, start, method="BFGS", options={"gtol": 1e-6}).x
    expected = (logit(share) + significance.TRUST * ((features @ best).clip(-9, 3) - logit(share))) / math.log(2)
    odds, overall = log_odds(mask(shape), near)
    assert odds.shape == shape and float(overall) == pytest.approx(logit(share) / math.log(2), rel=1e-5)
    np.testing.assert_allclose(odds.reshape(-1).numpy(), expected, atol=2e-3)


@pytest.mark.parametrize("shape", [(30, 40), (8, 4, 3, 3)], ids=str)
def test_counted_bits_are_those_of_every_weight_in_its_place(shape: tuple[int, ...]) -> None:
    layer = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], shape[2])
    with torch.no_grad():
        layer.weight.copy_(torch.where(mask(shape), torch.randn(shape).sign(), torch.zeros(())))
    training = wrap(nn.Sequential(layer), {"0": Entropy(levels=1)})
    ((latent, trained),) = training.latents().values()
    found = latent.count(*trained)
    nonzero, near = mask(shape), beside(layer.weight)
    odds, _ = log_odds(nonzero, near)
    places = torch.where(nonzero, 1 + 2**-odds, 1 + 2**odds).log2().sum()
    up = int((layer.weight > 0).sum())
    count = int(nonzero.sum())
    signs = -(up * math.log2(up / count) + (count - up) * math.log2((count - up) / count))
    assert found == pytest.approx(float(places) + signs, rel=0.01)
    assert latent.penalty(*trained).item() == pytest.approx(found, rel=1e-4)  # all of them lie on the grid


def test_what_lies_beside_others_is_cheaper() -> None:
    """A penalty per place pulls least where the others are."""
    layer = nn.Linear(50, 40)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:20, :15] = 1.0
        layer.weight[30, 40] = 1.0
    training = wrap(nn.Sequential(layer), {"0": Entropy(levels=1)})
    ((latent, trained),) = training.latents().values()
    latent.count(*trained)
    values = (0.7 * trained[0].detach()).requires_grad_()
    latent.penalty(values, trained[1]).backward()
    assert values.grad is not None
    assert float(values.grad[5, 5]) < 0.5 * float(values.grad[30, 40])


def test_a_weight_without_rows_or_nonzeros_has_no_places() -> None:
    training = wrap(nn.Sequential(nn.Linear(6, 5)), {"0": Entropy()})
    ((latent, trained),) = training.latents().values()
    with torch.no_grad():
        trained[0].zero_()
    assert latent.count(*trained) < 30 and latent.more is None
    assert math.isfinite(latent.penalty(*trained).item())
    assert Entropy().latent(torch.zeros(8)).near == ()


@pytest.mark.parametrize(
    ("shape", "near"),
    [((6, 3, 3, 3), (1, 2, 3, 4, 9)), ((6, 3, 5), (1, 5)), ((6, 4), (1,)), ((6, 1), ()), ((6, 9, 1, 1), (1,)),
     ((6, 1, 2, 2), (1, 2, 3))],
)
def test_neighbours_of_a_shape(shape: tuple[int, ...], near: tuple[int, ...]) -> None:
    assert beside(torch.zeros(shape)) == near
    if near:
        odds, _ = log_odds(torch.rand(shape) < 0.5, near)
        assert odds.shape == shape and bool(odds.isfinite().all())


def test_the_line_of_an_image_is_found_from_the_weights() -> None:
    assert of_shape((4, 3, 1, 7)) == (0, 7) and of_shape((4, 3, 2, 3, 4)) == (4, 24)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(40, 9, 11))
    for axis in (1, 2):
        images = images + np.roll(images, 1, axis) + np.roll(images, -1, axis)
    assert distances(images.reshape(40, -1), 1) == [11]
    assert beside(torch.from_numpy(images.reshape(40, -1))) == (1, 10, 11, 12)
    assert distances(np.zeros((3, 40))) == [] and distances(np.ones((3, 5))) == []


@pytest.mark.parametrize("zeros", [0, 1, 300 * 784 - 1])
def test_weights_that_are_nearly_all_alike_have_finite_odds(zeros: int) -> None:
    """In single precision the density of a full row is 1, and its odds are infinite."""
    nonzero = torch.ones(300 * 784, dtype=torch.bool)
    nonzero[:zeros] = False
    odds, overall = log_odds(nonzero.reshape(300, 784), (1, 27, 28, 29))
    assert bool(odds.isfinite().all()) and bool(overall.isfinite())
