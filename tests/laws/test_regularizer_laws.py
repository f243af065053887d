"""Every law on every regularizer of taut, on every shape of weight."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from laws import regularizer_laws as laws
from laws.compressor_laws import discovered, rungs

from taut.compressors import LowRank
from taut.compressors.base import Compressor, DenseCode
from taut.regularizers import L1, L2, Distance, GroupLasso, Nuclear, NuclearSparseGroup, Regularizer, SparseGroupLasso
from taut.regularizers.force import Force
from taut.regularizers.hoyer_square import HoyerSquare
from taut.regularizers.learned_rank import LearnedRank
from taut.regularizers.trained_rank import TrainedRank


@dataclass(frozen=True)
class LawSignScale(Compressor):
    """One magnitude and a sign per weight: a set that is not convex and whose exact projection is plain to see."""

    optimal: ClassVar[bool] = True

    def compress(self, w, stats=None):
        return DenseCode(w.abs().mean() * w.sign())


@dataclass(frozen=True)
class LawGrid(Compressor):
    """Multiples of a half: an exact projection again."""

    optimal: ClassVar[bool] = True

    def compress(self, w, stats=None):
        return DenseCode((2 * w).round() / 2)


SETTINGS = [
    L1(0.3),
    L2(0.7),
    GroupLasso(0.2),
    GroupLasso(0.2, view="columns"),
    GroupLasso(0.2, view="filters"),
    GroupLasso(0.3, view="kernels"),
    SparseGroupLasso(0.4),
    SparseGroupLasso(0.4, alpha=0.1, view="columns"),
    SparseGroupLasso(0.4, alpha=0.0, view="kernels"),
    SparseGroupLasso(0.4, alpha=1.0),
    Nuclear(0.8),
    Nuclear(0.8, view="matrix2"),
    NuclearSparseGroup(0.5, 0.2),
    NuclearSparseGroup(0.5, 0.2, alpha=0.2, view="columns", matrix="matrix2"),
    Distance(LowRank(rank=1), strength=0.9),
    Distance(LawGrid(), strength=0.9),
    HoyerSquare(0.3),
    HoyerSquare(0.3, view="rows"),
    HoyerSquare(1.5, view="kernels"),
    LearnedRank(0.4, 0.9),
    LearnedRank(0.4, 0.9, view="matrix2"),
    Force(0.2),
    Force(0.2, norm="l1"),
    TrainedRank(0.3),
    TrainedRank(0.3, energy=0.7, view="matrix2"),
]
# a regularizer that is not listed is held to the laws at its defaults, strong enough to be seen on these weights
SETTINGS += laws.discovered(SETTINGS)


def _weight(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _low_rank_with_zeros():
    w = _weight(6, 2) @ _weight(2, 5, seed=1)
    w[1] = 0
    w[:, 3] = 0
    return w


WEIGHTS = {
    "tall": _weight(7, 4),
    "wide": _weight(4, 9),
    "conv1d": _weight(4, 3, 5),
    "conv2d": _weight(5, 3, 3, 2),
    "depthwise": _weight(4, 1, 3, 3),
    "one": _weight(1, 1),
    "low rank, zero rows": _low_rank_with_zeros(),
    "small": 0.05 * _weight(5, 4),
}
CASES = pytest.mark.parametrize("w", WEIGHTS.values(), ids=WEIGHTS)
ALL = pytest.mark.parametrize("regularizer", SETTINGS, ids=str)
EXACT = pytest.mark.parametrize("regularizer", [s for s in SETTINGS if s.exact()], ids=str)
CONVEX = pytest.mark.parametrize("regularizer", [s for s in SETTINGS if s.convex], ids=str)
NORMS = pytest.mark.parametrize("regularizer", [s for s in SETTINGS if s.exact() and s.convex and not isinstance(s, L2)], ids=str)


@EXACT
@CASES
def test_prox_minimises(regularizer, w):
    laws.check_prox_minimises(regularizer, w, 0.6)


@EXACT
@pytest.mark.parametrize("shape", [(1, 2), (2, 1)], ids=str)
@pytest.mark.parametrize("values", [(1.3, -0.4), (0.2, 0.1)], ids=str)
def test_prox_against_brute_force(regularizer, shape, values):
    laws.check_prox_against_brute_force(regularizer, torch.tensor(values).reshape(shape), 1.0)


@pytest.mark.parametrize("regularizer", [s for s in SETTINGS if s.exact() and s.convex], ids=str)
@CASES
def test_subgradient(regularizer, w):
    laws.check_subgradient(regularizer, w, 0.5)


@NORMS
@CASES
def test_moreau(regularizer, w):
    laws.check_moreau(regularizer, w, 0.5)


@CONVEX
@CASES
def test_nonexpansive(regularizer, w):
    laws.check_nonexpansive(regularizer, w, 0.6)


@ALL
@CASES
def test_interface_descent_and_zero_step(regularizer, w):
    laws.check_interface(regularizer, w, 0.5)
    (laws.check_descends if regularizer.proximal else laws.check_lowers)(regularizer, w, 0.5)
    laws.check_zero_step(regularizer, w)


@ALL
@pytest.mark.parametrize("shape", [(3, 4), (4, 3, 3, 3), (0, 3), (3, 0), (0, 0), (2, 0, 3, 3)], ids=str)
def test_degenerate(regularizer, shape):
    laws.check_degenerate(regularizer, shape, 0.5)


@ALL
@CASES
def test_half(regularizer, w):
    laws.check_half(regularizer, w, 0.5)


@ALL
def test_scaling_and_registry(regularizer):
    laws.check_scaling(regularizer, WEIGHTS["conv2d"], 0.4)
    laws.check_registered(regularizer)


@pytest.mark.parametrize("compressor", discovered([]), ids=str)
def test_distance_to_every_compressor(compressor):
    for w in (WEIGHTS["tall"], WEIGHTS["conv2d"]):
        ladder = rungs(compressor, w.shape)
        if not ladder:
            continue  # a method for convolutions has nothing to say of a matrix
        for rung in {ladder[0], ladder[len(ladder) // 2], ladder[-1]}:
            distance = Distance(rung, strength=0.9)
            laws.check_interface(distance, w, 0.5)
            laws.check_zero_step(distance, w)
            if distance.exact():
                laws.check_prox_minimises(distance, w, 0.6)


def test_distance_to_any_set_is_exact_where_the_projection_is():
    assert Distance(LawSignScale()).exact() and Distance(LowRank(2)).exact() == LowRank.optimal
    w = WEIGHTS["tall"].double()
    laws.check_prox_minimises(Distance(LawSignScale(), 0.9), w, 1.0)
    # the limit of a strong pull is the projection itself
    compressed = LowRank(2).compress(w).decompress()
    assert torch.allclose(Distance(LowRank(2), 1e12).prox(w, 1.0), compressed, atol=1e-9)
    assert float(Distance(LowRank(2), 3.0).value(w)) == pytest.approx(1.5 * float((w - compressed).square().sum()))


def test_incremental_prox_is_not_the_joint_one_but_meets_it_to_first_order():
    """Against the joint prox by Dykstra's algorithm (Bauschke and Combettes 2008): the gap falls faster than the step."""
    both = NuclearSparseGroup(0.5, 0.2)
    parts = (SparseGroupLasso(0.2), Nuclear(0.5))
    w = WEIGHTS["tall"].double()
    gaps = []
    for step in (0.4, 0.04, 0.004):
        z, taken = w, [torch.zeros_like(w), torch.zeros_like(w)]
        for _ in range(300):
            for i, part in enumerate(parts):
                before = z + taken[i]
                z = part.prox(before, step)
                taken[i] = before - z
        laws.assert_no_better(both, [("the incremental step", both.prox(w, step))], z, w, step)
        gaps.append(float((z - both.prox(w, step)).norm()) / step)
    assert gaps[0] > 1e-4, "the flag exact_prox=False would be wrong"
    assert gaps[1] < gaps[0] / 5 and gaps[2] < gaps[1] / 5, gaps


def test_weights_of_many_sizes_of_group_are_weighed_by_the_root_of_the_size():
    w = torch.ones(2, 8)
    assert float(GroupLasso(1.0).value(w)) == pytest.approx(16.0)
    assert float(GroupLasso(1.0, view="columns").value(w)) == pytest.approx(16.0)


def test_tables_hold_every_regularizer():
    assert Nuclear(0.4) in laws.discovered([s for s in SETTINGS if not isinstance(s, Nuclear)])
    names = {cls.__name__ for cls in Regularizer.registry.values() if cls.__module__.startswith("taut.")}
    assert names == {type(s).__name__ for s in SETTINGS}
    assert all(dataclasses.is_dataclass(s) for s in SETTINGS)
