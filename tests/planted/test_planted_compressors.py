"""For each law of compressors a method that breaks it: the law must see it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import pytest
import torch
from laws import compressor_laws as law
from laws.compressor_laws import Case
from torch import Tensor, nn

from taut.compressors import Code, Codebook, Compressor, LowRank, LowRankCode, Prune, PruneCode, Quantize, QuantizeCode, Stats
from taut.compressors.tucker import Tucker, TuckerCode
from taut.cost import Cost

CASE = Case((12, 9))
TINY = Case((6,))


@dataclass(frozen=True)
class PlantedFlat(Prune):
    """Loses the shape."""

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        return super().compress(w.reshape(-1), stats)


@dataclass(frozen=True, eq=False)
class PlantedBoastCode(QuantizeCode):
    """Says that it is a row longer."""

    def like(self) -> tuple[tuple[int, ...], torch.dtype] | None:
        return (self.levels.shape[0] + 1, *self.levels.shape[1:]), self.step.dtype


@dataclass(frozen=True)
class PlantedBoast(Quantize):
    """Its code says another shape than it has."""

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        return PlantedBoastCode(**super().compress(w, stats).fields())


@dataclass(frozen=True)
class PlantedWide(Prune):
    """Answers in double precision."""

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        return super().compress(w.double(), stats)


@dataclass(frozen=True)
class PlantedScribble(Prune):
    """Prunes the caller's own tensor."""

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        code = super().compress(w, stats)
        w.copy_(code.decompress())
        return code


@dataclass(frozen=True)
class PlantedBorrow(Prune):
    """Keeps the caller's memory as its free tensor."""

    density: float = 1.0

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        return PruneCode(w.reshape(-1), torch.ones_like(w, dtype=torch.bool))


@dataclass(frozen=True)
class PlantedShrinks(Prune):
    """Makes weights a little smaller each time."""

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        return super().compress(w * 0.999, stats)


@dataclass(frozen=True)
class PlantedDownhill(LowRank):
    """A ladder from dense to cheap."""

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        return super().ladder(shape)[::-1]


@dataclass(frozen=True)
class PlantedUnnested(Prune):
    """Every rung keeps other weights, so that a denser one may fit worse."""

    by: str = "random"

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        return [dataclasses.replace(rung, seed=i) for i, rung in enumerate(super().ladder(shape))]


@dataclass(frozen=True)
class PlantedForgetful(Codebook):
    """A ladder that repeats one setting."""

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        return [self, self]


@dataclass(frozen=True)
class PlantedHungry(LowRank):
    """A ladder that ends with factors larger than the dense weight."""

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        return [*super().ladder(shape)[:-1], dataclasses.replace(self, rank=min(shape) - 1)]


@dataclass(frozen=True)
class PlantedStopsShort(LowRank):
    """A ladder that never gets to the dense weight."""

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        return super().ladder(shape)[:-1]


@dataclass(frozen=True)
class PlantedSmallest(Prune):
    """Keeps the smallest weights."""

    def _scores(self, w: Tensor, stats: Stats | None) -> Tensor:
        return -w.abs()


@dataclass(frozen=True)
class PlantedBlind(Prune):
    """Prunes by magnitude when asked to prune by Fisher information."""

    by: str = "fisher"

    def _scores(self, w: Tensor, stats: Stats | None) -> Tensor:
        return w.abs()


@dataclass(frozen=True)
class PlantedMedians(Codebook):
    """Evenly spaced values instead of the best ones."""

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        code = super().compress(w, stats)
        return code.with_free([torch.linspace(float(t.min()), float(t.max()), t.numel()).to(t) for t in code.free()])


@dataclass(frozen=True)
class PlantedRandomBasis(LowRank):
    """Projects on random directions."""

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        basis = torch.linalg.qr(torch.randn(w.shape[1], self.rank, generator=torch.Generator().manual_seed(0)))[0]
        return LowRankCode(basis.T, w @ basis, tuple(w.shape))


@dataclass(frozen=True)
class PlantedDeaf(LowRank):
    """Does not listen to the inputs."""

    by: str = "activation"

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        return LowRank(self.rank).compress(w)


@dataclass(frozen=True, eq=False)
class PlantedCoreCode(TuckerCode):
    """Puts the stride on the first convolution, and so skips inputs that the core should see."""

    def module(self, layer) -> nn.Module | None:
        layers = super().module(layer)
        layers[0].stride, layers[1].stride = layers[1].stride, layers[0].stride
        return layers


@dataclass(frozen=True)
class PlantedCores(Tucker):
    """Tucker-2, in a code that is broken."""

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        return PlantedCoreCode(**super().compress(w, stats).fields())


@dataclass(frozen=True)
class PlantedUnclipped(Quantize):
    """Never clips: coarse where there are outliers."""

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        return Quantize(step=float(w.abs().max()) / (2 ** (self.bits - 1) - 1)).compress(w)


@dataclass(frozen=True)
class PlantedDice(Prune):
    """Draws from the global generator."""

    def _scores(self, w: Tensor, stats: Stats | None) -> Tensor:
        return torch.rand_like(w)


@dataclass(frozen=True, eq=False)
class PlantedSwappedCode(LowRankCode):
    """Puts the free tensors back in the wrong order."""

    def _rebuild(self, tensors: Iterator[Tensor]) -> Code:
        return dataclasses.replace(self, first=next(tensors) * 0 + 1, second=next(tensors))


@dataclass(frozen=True, eq=False)
class PlantedDetachedCode(LowRankCode):
    """Lets no gradient through to the first factor."""

    def decompress(self) -> Tensor:
        return self.second @ self.first.detach()


@dataclass(frozen=True, eq=False)
class PlantedModuleCode(LowRankCode):
    """Forgets the padding of the convolution it replaces."""

    def module(self, layer) -> nn.Module | None:
        layers = super().module(layer)
        layers[0].padding = (0,) * len(layers[0].padding)
        layers[1].padding = tuple(2 * p for p in layers[1].padding)
        return layers


@dataclass(frozen=True, eq=False)
class PlantedCheapCode(LowRankCode):
    """Claims half its parameters."""

    def cost(self) -> Cost:
        return Cost(super().cost().parameters // 2, super().cost().macs)


@dataclass(frozen=True)
class PlantedCodes(LowRank):
    """Low rank, in a code that is broken."""

    kind: str = "PlantedSwappedCode"

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        return Code.registry[self.kind](**super().compress(w, stats).fields())


@dataclass(frozen=True)
class PlantedTrusting(Prune):
    """Takes whatever it is given."""

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        return PruneCode(w.reshape(-1), torch.ones_like(w, dtype=torch.bool))


@dataclass(frozen=True, eq=False)
class PlantedRowsCode(Code):
    """One number for each row."""

    values: Tensor
    shape: tuple[int, ...]

    def decompress(self) -> Tensor:
        return self.values[:, None].expand(-1, prod(self.shape[1:])).reshape(self.shape)


@dataclass(frozen=True)
class PlantedRowMedians(Compressor):
    """The medians of the rows, claimed to be optimal; no table knows its rivals."""

    optimal: ClassVar[bool] = True

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        return PlantedRowsCode(self.center(w.reshape(len(w), -1)), tuple(w.shape))

    def center(self, rows: Tensor) -> Tensor:
        return rows.median(1).values


@dataclass(frozen=True)
class PlantedRowMeans(PlantedRowMedians):
    """The means, which are optimal: the rivals that are made for any method do not beat it."""

    def center(self, rows: Tensor) -> Tensor:
        return rows.mean(1)


FAULTS = [
    (law.check_no_better_rival, PlantedRowMedians(), CASE),
    (law.check_no_better_rival, PlantedRowMedians(), Case((4, 3, 3, 3), values="heavy")),
    (law.check_shape_and_dtype, PlantedFlat(), CASE),
    (law.check_shape_and_dtype, PlantedWide(), CASE),
    (law.check_shape_and_dtype, PlantedBoast(), CASE),
    (law.check_input_untouched, PlantedScribble(), CASE),
    (law.check_input_untouched, PlantedBorrow(), CASE),
    (law.check_idempotent, PlantedShrinks(), CASE),
    (law.check_ladder, PlantedDownhill(), CASE),
    (law.check_ladder, PlantedUnnested(), CASE),
    (law.check_ladder, PlantedForgetful(), CASE),
    (law.check_ladder, PlantedHungry(), CASE),
    (law.check_dense_end, PlantedStopsShort(), CASE),
    (law.check_no_better_rival, PlantedSmallest(density=0.5), TINY),
    (law.check_no_better_rival, PlantedBlind(density=0.3), Case((3, 4))),
    (law.check_no_better_rival, PlantedMedians(k=4, keep_zero=False), TINY),
    (law.check_no_better_rival, PlantedRandomBasis(rank=2), CASE),
    (law.check_no_better_rival, PlantedDeaf(rank=2), CASE),
    (law.check_no_better_rival, PlantedUnclipped(bits=3), Case((40, 50))),
    (law.check_same_code_again, PlantedDice(density=0.5), CASE),
    (law.check_free_tensors, PlantedCodes(rank=2), CASE),
    (law.check_gradients, PlantedCodes(rank=2, kind="PlantedDetachedCode"), CASE),
]


@pytest.mark.parametrize(("check", "method", "case"), FAULTS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_the_law_sees_the_fault(check, method, case):
    with pytest.raises(AssertionError):
        check(method, case)


def test_rivals_of_any_method_are_fair():
    law.check_no_better_rival(PlantedRowMeans(), CASE)
    law.check_no_better_rival(PlantedRowMeans(), Case((4, 3, 3, 3), values="heavy"))


def test_planted_methods_enter_no_table():
    assert not {type(m) for m in law.discovered([])} & {PlantedRowMeans, PlantedRowMedians}
    assert PlantedRowMeans in Compressor.registry.values()


def test_bad_weights_are_seen_to_pass():
    with pytest.raises(pytest.fail.Exception):
        law.check_bad_weights(PlantedTrusting(), CASE)


@pytest.mark.parametrize("kind", ["PlantedModuleCode", "PlantedCheapCode"])
def test_the_layer_law_sees_the_fault(kind):
    with pytest.raises(AssertionError):
        law.check_layer(
            PlantedCodes(rank=2, scheme=2, kind=kind), lambda: nn.Conv2d(6, 10, 3, padding=(1, 2)), torch.randn(2, 6, 9, 9)
        )


def test_the_layer_law_sees_a_stride_in_the_wrong_place():
    with pytest.raises((AssertionError, RuntimeError)):
        law.check_layer(PlantedCores(2, 3), lambda: nn.Conv2d(6, 10, 3, stride=2, padding=1), torch.randn(2, 6, 9, 9))
