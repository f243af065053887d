"""Each law of binarized networks turns red on what breaks it."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from laws import binary_laws as laws
from torch import nn

from taut.binary import Sign, signs
from taut.compressors.base import Code, Compressor
from taut.compressors.binary import Binary, BinaryCode, BinaryKernelsCode, shared
from taut.numeric.patterns import codebook
from taut.parametrizations import Binary as BinaryTraining
from taut.parametrizations.binary import RealCopy
from taut.shrink import shrink


@pytest.mark.parametrize("sign", [torch.sign, lambda x: torch.where(torch.signbit(x), -1.0, 1.0).to(x.dtype), torch.tanh])
def test_a_third_value_is_seen(sign):
    with pytest.raises(AssertionError):
        laws.check_signs(sign)


class Everywhere(Sign):
    """Lets the gradient through everywhere, and changes the values by rounding."""

    def forward(self, x):
        return x + (signs(x) - x).detach()


class Nowhere(Sign):
    def forward(self, x):
        return signs(x) + 0 * x


@pytest.mark.parametrize("module", [Everywhere, Nowhere])
def test_another_gradient_is_seen(module):
    with pytest.raises(AssertionError):
        laws.check_straight_through(module())


def test_copies_that_run_away_are_seen():
    class Runs(RealCopy):
        def forward(self, copy):
            return copy + (super().forward(copy) - copy).detach()

    @dataclass(frozen=True)
    class PlantedRuns(BinaryTraining):
        def latent(self, weight):
            made = super().latent(weight)
            made.__class__ = Runs
            return made

    with pytest.raises(AssertionError):
        laws.check_copy_gradient(PlantedRuns("none"))


@dataclass(frozen=True, eq=False)
class PlantedTernaryCode(BinaryCode):
    """Says that it is binary, and has zeros."""

    def decompress(self):
        return super().decompress() * (torch.arange(self.positive.numel()).reshape(self.positive.shape) % 5 > 0)


@dataclass(frozen=True, eq=False)
class PlantedWideCode(BinaryCode):
    """A byte a sign."""

    spare: torch.Tensor = None


@dataclass(frozen=True)
class PlantedTernary(Binary):
    def compress(self, w, stats=None):
        return PlantedTernaryCode(**super().compress(w, stats).fields())


@dataclass(frozen=True, eq=False)
class PlantedUnmarkedCode(Code):
    """Binary, and says nothing of it."""

    code: Code

    def decompress(self):
        return self.code.decompress()


@dataclass(frozen=True)
class PlantedUnmarked(Compressor):
    def compress(self, w, stats=None):
        return PlantedUnmarkedCode(Binary().compress(w))


def test_zeros_among_signs_are_seen():
    with pytest.raises(AssertionError, match="magnitudes"):
        laws.check_set(PlantedTernary().compress(torch.randn(4, 6)))
    with pytest.raises(AssertionError, match="magnitudes"):
        laws.check_stays_binary(PlantedTernary())


def test_a_code_without_the_mark_is_refused():
    assert laws.check_stays_binary(PlantedUnmarked()) == "refused"


def test_a_refusal_that_comes_too_late_is_seen(monkeypatch):
    original = laws.apply

    def changes_first(model, plan, **settings):
        if "data" in settings:
            with torch.no_grad():
                model[0].parametrizations.weight.original0.add_(1)
        return original(model, plan, **settings)

    monkeypatch.setattr(laws, "apply", changes_first)
    with pytest.raises(AssertionError, match="changed"):
        laws.check_stays_binary(PlantedUnmarked())


def test_more_than_a_bit_is_seen():
    code = Binary().compress(torch.randn(30, 30))
    with pytest.raises(AssertionError, match="bytes"):
        laws.check_bits(PlantedWideCode(**code.fields(), spare=torch.randint(0, 256, (900,), dtype=torch.uint8)))


def kernels():
    return np.random.default_rng(0).normal(size=(60, 4)) + 0.2


def one_too_many(weights, k):
    return codebook(weights, k + 1)


def not_the_nearest(weights, k):
    book, index = codebook(weights, k)
    return book, np.roll(index, 1)


def not_the_best(weights, k):
    book = np.where(np.arange(16)[:k, None] >> np.arange(4) & 1, 1.0, -1.0)
    return book, (weights @ book.T).argmax(1)


@pytest.mark.parametrize("make", [one_too_many, not_the_nearest, not_the_best])
def test_a_worse_codebook_is_seen(make):
    laws.check_codebook(kernels(), 2)
    with pytest.raises(AssertionError):
        laws.check_codebook(kernels(), 2, make)


@pytest.mark.parametrize(("pad", "value"), [(nn.ZeroPad2d, ()), (nn.ConstantPad2d, (0.5,)), (nn.ConstantPad2d, (0.0,))])
def test_padding_outside_the_binary_set_is_seen(pad, value):
    model, x, _ = laws.binarized(pad, value)
    with pytest.raises(AssertionError, match="no signs"):
        laws.check_padding(model, x, ("4", "9", "13"))


def test_codes_that_are_lost_with_the_filters_are_seen():
    with pytest.raises(AssertionError, match="no binary code"):
        laws.check_shrink(BinaryTraining(), lambda model, x, **settings: shrink(laws.bake(model), x, **settings))


def test_other_filters_are_seen():
    def another(model, x, **settings):
        return shrink(model, x, keep=0.6, importance="random")

    with pytest.raises(AssertionError):
        laws.check_shrink(BinaryTraining(), another)


class PlantedGift(RealCopy):
    """Pays for bits instead of charging them."""

    def _bits(self, index):
        return -super()._bits(index)


class PlantedEager(RealCopy):
    """Counts in evaluation too."""

    def _signs(self, copy, count=False):
        return super()._signs(copy, count=True)


class PlantedFirst(RealCopy):
    """Keeps the bits of the first step."""

    def _signs(self, copy, count=False):
        return super()._signs(copy)


class PlantedDear(RealCopy):
    """Rare kernels are cheap."""

    def _bits(self, index):
        bits = super()._bits(index)
        return bits.max() - bits


@pytest.mark.parametrize(("latent", "what"), [
    (PlantedGift, "worse|no bits"), (PlantedDear, "worse|no bits"), (PlantedFirst, "last use"),
    (PlantedEager, "evaluation counts"),
])  # fmt: skip
def test_faults_of_the_price_are_seen(latent, what):
    @dataclass(frozen=True)
    class PlantedPrice(BinaryTraining):
        def latent(self, weight):
            return latent(self, weight)

    laws.check_price(BinaryTraining(kernels=512, price=0.2), laws.copies())
    with pytest.raises(AssertionError, match=what):
        laws.check_price(PlantedPrice(kernels=512, price=0.2), laws.copies())


def unordered(code):
    """Kernels in the order of their bits."""
    found = shared(code)
    return found and BinaryKernelsCode(found.scales, found.kernels.flip(0), (len(found.kernels) - 1 - found.indices.int()).byte())


def misplaced(code):
    """Every kernel the next one."""
    found = shared(code)
    return found and BinaryKernelsCode(found.scales, found.kernels, found.indices.roll(1))


@pytest.mark.parametrize(("share", "what"), [(unordered, "first"), (misplaced, "other weights")])
def test_kernels_that_are_stored_wrongly_are_seen(share, what):
    with pytest.raises(AssertionError, match=what):
        laws.check_shared(share, (24, 20, 3, 3), "row")
