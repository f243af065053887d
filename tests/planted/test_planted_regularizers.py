"""Each law of regularizers turns red on a regularizer that breaks it, and on nothing else that is planted by mistake."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from laws import regularizer_laws as laws

from taut.regularizers import L1, L2, Distance, GroupLasso, Nuclear, NuclearSparseGroup, Regularizer, SparseGroupLasso
from taut.regularizers.force import Force
from taut.regularizers.hoyer_square import HoyerSquare
from taut.regularizers.learned_rank import LearnedRank
from taut.regularizers.trained_rank import TrainedRank

W = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
PAIR = torch.tensor([[1.3, -0.4]])


@dataclass(frozen=True)
class PlantedThreshold(L1):
    def prox(self, w, step):
        return super().prox(w, 1.02 * step)


@dataclass(frozen=True)
class PlantedHardThreshold(L1):
    """Hard instead of soft thresholding: another penalty's prox."""

    def prox(self, w, step):
        return w * (w.abs() > step * self.strength)


@dataclass(frozen=True)
class PlantedMismatch(GroupLasso):
    """The value forgets the size of the groups, the prox does not."""

    def value(self, w):
        return self.strength * w.norm(dim=1).sum()


@dataclass(frozen=True)
class PlantedWrongGroups(GroupLasso):
    """The prox works on columns, the value on rows."""

    def prox(self, w, step):
        return GroupLasso(self.strength, view="columns").prox(w, step)


@dataclass(frozen=True)
class PlantedOrder(SparseGroupLasso):
    """Groups first and single weights second: not the prox of the sum."""

    def prox(self, w, step):
        groups = GroupLasso(self.strength * (1 - self.alpha), view=self.view).prox(w, step)
        return L1(self.strength * self.alpha).prox(groups, step)


@dataclass(frozen=True)
class PlantedClaim(NuclearSparseGroup):
    """Claims that incremental steps are the joint prox."""

    exact_prox: ClassVar[bool] = True


@dataclass(frozen=True)
class PlantedSquaredSingularValues(Nuclear):
    """Thresholds the squared singular values."""

    def prox(self, w, step):
        u, s, vt = torch.linalg.svd(w, full_matrices=False)
        return (u * (s.square() - step * self.strength).clamp_min(0).sqrt()) @ vt


@dataclass(frozen=True)
class PlantedZeroStep(L1):
    """Rebuilds the weight instead of subtracting: close, but not the weight."""

    def prox(self, w, step):
        u, s, vt = torch.linalg.svd(w.float(), full_matrices=False)
        return ((u * s) @ vt).to(w.dtype)


@dataclass(frozen=True)
class PlantedSameMemory(L2):
    def prox(self, w, step):
        return w if step == 0 else super().prox(w, step)


@dataclass(frozen=True)
class PlantedNanAtZero(GroupLasso):
    def prox(self, w, step):
        norm = w.reshape(w.shape[0], -1).norm(dim=1).reshape(-1, *[1] * (w.dim() - 1))
        return (norm - step * self.strength).clamp_min(0) * (w / norm)


@dataclass(frozen=True)
class PlantedNanGradient(GroupLasso):
    def value(self, w):
        return self.strength * w.reshape(len(w), -1).square().sum(1).sqrt().sum()


@dataclass(frozen=True)
class PlantedEmpty(L1):
    def value(self, w):
        return self.strength * w.abs().mean() * w.numel()


@dataclass(frozen=True)
class PlantedInPlace(L2):
    def prox(self, w, step):
        return w.div_(1 + step * self.strength)


@dataclass(frozen=True)
class PlantedDtype(L1):
    def prox(self, w, step):
        return super().prox(w.double(), step)


@dataclass(frozen=True)
class PlantedHalf(L1):
    def value(self, w):
        return self.strength * w.abs().sum()


@dataclass(frozen=True)
class PlantedHalfProx(L2):
    def prox(self, w, step):
        pull = step * self.strength
        return w - w * (pull / (1 + pull))


@dataclass(frozen=True)
class PlantedNegative(L1):
    def value(self, w):
        return super().value(w) - 100 * self.strength


@dataclass(frozen=True)
class PlantedStrength(L2):
    """The value ignores its strength."""

    def value(self, w):
        return 0.5 * w.square().sum()


@dataclass(frozen=True)
class PlantedStrengthProx(L1):
    """The prox ignores its strength."""

    def prox(self, w, step):
        return L1(0.3).prox(w, step)


@dataclass(frozen=True)
class PlantedExpansive(L1):
    def prox(self, w, step):
        return w * (1 + step * self.strength)


@dataclass(frozen=True)
class PlantedHoyerShrinks(HoyerSquare):
    """Takes the offset and does not grow what stays."""

    def prox(self, w, step):
        z = super().prox(w, step)
        return torch.where(z == 0, z, z.sign() * (w.abs() - 0.1).clamp_min(0))


@dataclass(frozen=True)
class PlantedRankPrice(LearnedRank):
    """Forgets the half: a rank is chosen at twice the strength."""

    def prox(self, w, step):
        return LearnedRank(self.alpha, 2 * self.strength).prox(w, step / 2)


@dataclass(frozen=True)
class PlantedRepulsion(Force):
    """The rows are pushed apart."""

    def prox(self, w, step):
        return 2 * w - super().prox(w, step)


@dataclass(frozen=True)
class PlantedStandstill(TrainedRank):
    """Cuts nothing and shrinks nothing."""

    def prox(self, w, step):
        return w.clone()


@dataclass
class PlantedUnfrozen(Regularizer):
    strength: float = 1.0


FAULTS = [
    (laws.check_prox_minimises, PlantedThreshold(0.3), W),
    (laws.check_prox_minimises, PlantedHardThreshold(0.3), W),
    (laws.check_prox_minimises, PlantedMismatch(0.2), W),
    (laws.check_prox_minimises, PlantedWrongGroups(0.2), W),
    (laws.check_prox_minimises, PlantedOrder(0.4), W),
    (laws.check_prox_minimises, PlantedClaim(0.5, 0.2), W),
    (laws.check_prox_minimises, PlantedSquaredSingularValues(0.8), W),
    (laws.check_prox_against_brute_force, PlantedThreshold(0.3), PAIR),
    (laws.check_prox_against_brute_force, PlantedMismatch(0.2), PAIR),
    (laws.check_subgradient, PlantedHardThreshold(0.3), W),
    (laws.check_subgradient, PlantedThreshold(0.3), W),
    (laws.check_moreau, PlantedThreshold(0.3), W),
    (laws.check_moreau, PlantedWrongGroups(0.2), W),
    (laws.check_nonexpansive, PlantedHardThreshold(0.3), torch.full((5, 4), 0.1801)),
    (laws.check_nonexpansive, PlantedExpansive(0.3), W),
    (laws.check_descends, PlantedExpansive(0.3), W),
    (laws.check_prox_minimises, PlantedHoyerShrinks(0.3), W),
    (laws.check_prox_against_brute_force, PlantedRankPrice(0.4, 0.9), PAIR),
    (laws.check_lowers, PlantedRepulsion(0.3), W),
    (laws.check_lowers, PlantedStandstill(0.3), W),
    (laws.check_zero_step, PlantedZeroStep(0.3), W),
    (laws.check_zero_step, PlantedSameMemory(0.3), W),
    (laws.check_degenerate, PlantedNanAtZero(0.3), (3, 4)),
    (laws.check_degenerate, PlantedNanGradient(0.3), (3, 4)),
    (laws.check_degenerate, PlantedEmpty(0.3), (0, 3)),
    (laws.check_interface, PlantedInPlace(0.3), W.clone()),
    (laws.check_interface, PlantedDtype(0.3), W),
    (laws.check_interface, PlantedNegative(0.3), W),
    (laws.check_half, PlantedHalf(3.0), W),
    (laws.check_half, PlantedHalfProx(0.3), W),
    (laws.check_scaling, PlantedStrength(0.3), W),
    (laws.check_scaling, PlantedStrengthProx(0.3), W),
]


@pytest.mark.parametrize(("law", "fault", "case"), FAULTS, ids=lambda x: getattr(x, "__name__", type(x).__name__))
def test_planted_fault_is_found(law, fault, case):
    with pytest.raises(AssertionError):
        law(fault, case, 0.6)


BROKEN = [f for f in FAULTS if type(f[1]).__bases__[0] is not Regularizer and not isinstance(f[1], PlantedClaim)]
"""Those that break a sound class."""


@pytest.mark.parametrize(("law", "fault", "case"), BROKEN, ids=lambda x: getattr(x, "__name__", type(x).__name__))
def test_the_sound_class_passes_where_its_broken_subclass_fails(law, fault, case):
    law(type(fault).__bases__[0](fault.strength), case, 0.6)


def test_unfrozen_class_is_found():
    with pytest.raises(AssertionError):
        laws.check_registered(PlantedUnfrozen())


def test_every_law_has_a_planted_fault():
    every = {name for name in vars(laws) if name.startswith("check_")}
    assert every == {law.__name__ for law, _, _ in FAULTS} | {"check_registered"}
    assert Distance.exact_prox is False
