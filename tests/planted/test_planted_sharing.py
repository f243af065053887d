"""For each law of shared values and bits a method that breaks it: the law must see it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from laws import sharing_laws as laws
from torch import Tensor, nn

from taut.compressors import Codebook, Quantize
from taut.compressors.adaptive_precision import AdaptivePrecision, tolerances
from taut.compressors.base import Code, Stats
from taut.numeric.entropy_kmeans import entropy_kmeans_1d
from taut.numeric.kmeans import kmeans_1d
from taut.parametrizations.loss_aware import LossAware, SignedScale
from taut.reparametrize import wrap
from taut.shared_codebook import share_codebook

WEIGHT = torch.randn(30, 40, generator=torch.Generator().manual_seed(0)) * 0.1


def free_bits(values, k, price, weights, keep_zero):
    """Plain k-means: bits cost nothing."""
    return kmeans_1d(values, k, weights, keep_zero)


def far_too_dear(values, k, price, weights, keep_zero):
    return entropy_kmeans_1d(values, k, 20 * price, weights, keep_zero)


def too_many(values, k, price, weights, keep_zero):
    return entropy_kmeans_1d(values, k + 1, price, weights, keep_zero)


def nearest_ones(values, k, price, weights, keep_zero):
    """Each value takes the nearest center, however long its code."""
    centers, index = entropy_kmeans_1d(values, k, price, weights, keep_zero)
    used = np.unique(index)
    return centers, used[np.abs(np.asarray(values)[:, None] - centers[used]).argmin(1)]


def deaf(values, k, price, weights, keep_zero):
    """Importance is ignored."""
    return entropy_kmeans_1d(values, k, price, None, keep_zero)


@pytest.mark.parametrize("solve", [free_bits, far_too_dear, too_many])
def test_the_law_of_the_optimum_sees_the_fault(solve):
    with pytest.raises(AssertionError):
        for seed in range(40):
            laws.check_entropy_optimum(solve, seed)


@pytest.mark.parametrize("solve", [free_bits, nearest_ones, deaf])
def test_the_law_of_stationary_points_sees_the_fault(solve):
    with pytest.raises(AssertionError):
        for seed in range(4):
            laws.check_entropy_stationary(solve, seed)


def test_the_law_of_the_trade_sees_the_fault():
    def upside_down(values, k, price, weights, keep_zero):
        return entropy_kmeans_1d(values, k, 1 / price, weights, keep_zero)

    with pytest.raises(AssertionError):
        laws.check_entropy_trade(upside_down, np.random.default_rng(0).normal(size=200))


@dataclass(frozen=True)
class PlantedDrift(Codebook):
    """A codebook of a weight a little smaller."""

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        return super().compress(0.99 * w, stats)


@dataclass(frozen=True)
class PlantedWasteful(Quantize):
    """Levels with noise in their upper bits, which cost and say nothing."""

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        code = super().compress(w, stats)
        return PlantedPaddedCode(code.step, code.levels, torch.randn(w.shape))


@dataclass(frozen=True, eq=False)
class PlantedPaddedCode(Code):
    """A grid, and a tensor that nothing needs."""

    step: Tensor | Code
    levels: Tensor
    noise: Tensor

    def decompress(self) -> Tensor:
        return self.levels * self.step

    def parts(self) -> dict[str, Tensor | Code]:
        return {"step": self.step}


def test_the_laws_of_codes_see_the_fault():
    with pytest.raises(AssertionError):
        laws.check_idempotent_by_magnitude(PlantedDrift(k=4), WEIGHT)
    with pytest.raises(AssertionError):
        laws.check_bytes_near_entropy(PlantedWasteful(step=0.05), WEIGHT)


def over_budget(slopes, mean, spread):
    return 1.01 * tolerances(slopes, mean, spread)


def equal_ones(slopes, mean, spread):
    return torch.full_like(slopes, mean)


@pytest.mark.parametrize("solve", [over_budget, equal_ones])
def test_the_law_of_tolerances_sees_the_fault(solve):
    with pytest.raises(AssertionError):
        for seed in range(12):
            laws.check_tolerances(solve, seed)


@dataclass(frozen=True)
class PlantedFine(AdaptivePrecision):
    """Twice as fine as asked."""

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        return dataclasses.replace(
            AdaptivePrecision(self.tolerance, self.by, self.spread), tolerance=self.tolerance / 2
        ).compress(w)


@dataclass(frozen=True)
class PlantedCoarse(AdaptivePrecision):
    """Half as fine as asked."""

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        return AdaptivePrecision(2 * self.tolerance, self.by, self.spread).compress(w, stats)


@dataclass(frozen=True)
class PlantedSpare(AdaptivePrecision):
    """Digits that no weight uses."""

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        code = super().compress(w, stats)
        return dataclasses.replace(code, digits=torch.cat([code.digits, torch.rand(len(code.digits)) < 0.5]))


@pytest.mark.parametrize("method", [PlantedFine(0.1), PlantedCoarse(0.1), PlantedSpare(0.1)], ids=str)
def test_the_law_of_the_fewest_digits_sees_the_fault(method):
    with pytest.raises(AssertionError):
        laws.check_fewest_digits(method, WEIGHT, laws.random_stats(WEIGHT))


def test_the_law_of_all_bits_sees_the_fault():
    with pytest.raises(AssertionError):
        laws.check_all_bits_are_counted(PlantedSpare(0.02), WEIGHT, laws.random_stats(WEIGHT))


class PlantedForgetfulScale(SignedScale):
    """The curvature is never seen."""

    def see(self, gradient: Tensor) -> None:
        return


@dataclass(frozen=True)
class PlantedLossBlind(LossAware):
    """Trains with the mean magnitude as its scale."""

    def latent(self, weight: Tensor) -> SignedScale:
        return PlantedForgetfulScale(weight, self.decay)


def test_the_law_of_loss_aware_training_sees_the_fault():
    with pytest.raises(AssertionError, match="algorithm"):
        laws.check_loss_aware_training(wrap, PlantedLossBlind(decay=0.9))


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4))


def each_its_own(model, method):
    """A table for each layer."""
    import taut

    return taut.apply(model, {"*": method})


def apart(model, method):
    """The same table, twice a parameter."""
    shared = share_codebook(model, method)
    chain = shared[2].parametrizations.weight
    chain.original0 = nn.Parameter(chain.original0.detach().clone())
    return shared


def shifted(model, method):
    """A table that is not the best for all weights in a row."""
    shared = share_codebook(model, method)
    with torch.no_grad():
        shared[0].parametrizations.weight.original0.mul_(1.01)
    return shared


@pytest.mark.parametrize("share", [each_its_own, apart, shifted])
def test_the_law_of_shared_tables_sees_the_fault(share, tmp_path):
    with pytest.raises(AssertionError):
        laws.check_shared(share, Codebook(k=5), make, torch.randn(3, 5), tmp_path / "m.taut")


def test_the_law_of_shared_tables_sees_a_code_behind_another(tmp_path, monkeypatch):
    """Layers with one parameter were once taken for tied weights."""
    from taut import layers
    from taut.compressors.coded import free_parameters

    plain = layers._identity

    def by_parameter(module, parameter):
        known = hasattr(module, "parametrizations") and parameter in module.parametrizations
        return id(free_parameters(module, parameter)[0]) if known else plain(module, parameter)

    monkeypatch.setattr(layers, "_identity", by_parameter)
    with pytest.raises(AssertionError):
        laws.check_shared(share_codebook, Codebook(k=5), make, torch.randn(3, 5), tmp_path / "m.taut")


@pytest.mark.parametrize(
    "make",
    [
        lambda k, damping: Codebook(k=k, by="fisher"),
        lambda k, damping: Codebook(k=k),
        lambda k, damping: Codebook(k=k, by="fisher", damping=damping**2),
    ],
    ids=["not damped", "no curvature", "squared"],
)
def test_the_law_of_damping_sees(make):
    with pytest.raises(AssertionError):
        for seed in range(6):
            laws.check_damping(make, seed)
