"""Wrong ways to put proximal steps into a training loop, each found by the law."""

from dataclasses import dataclass

import pytest
import torch
from laws.loop_laws import Loop, check_loop, check_same_on_every_rank

from taut.regularizers import L1
from taut.regularizers.base import Regularizer
from taut.train import PENDING, STEPS, ProxOptimizer


class LastRate(ProxOptimizer):
    """Takes the learning rate of the last step for that of all."""

    def flush(self):
        self.prox()


class FirstGroup(ProxOptimizer):
    """Takes the first group's learning rate for every weight."""

    def flush(self):
        self._apply(lambda group: self.param_groups[0][PENDING])


class EveryBackward(ProxOptimizer):
    """Counts batches, not optimizer steps."""

    def __init__(self, optimizer, model, regularizers, every):
        super().__init__(optimizer, model, regularizers, every)
        list(model.parameters())[0].register_post_accumulate_grad_hook(lambda _: self.stepped())

    def step(self, closure=None):
        return self.inner.step()


class SkipsCount(ProxOptimizer):
    """Counts the steps that the gradient scaler skips."""

    _step_supports_amp_scaling = True

    def step(self, closure=None):
        if not self.found_inf:
            self.inner.step()
        self.stepped()


class Forgets(ProxOptimizer):
    """Resumes the optimizer and starts counting anew."""

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group[STEPS] = 0


class ForgetsRates(ProxOptimizer):
    """Resumes the count and forgets how far the steps since the last proximal one went."""

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group[PENDING] = 0.0


class HalfPrecise(ProxOptimizer):
    """Lets autocast round the products inside the proximal operators."""

    @torch.no_grad()
    def flush(self):
        for layer, regularizer in self.chosen:
            layer.weight.copy_(regularizer.prox(layer.weight, self.param_groups[0][PENDING]))
        for group in self.param_groups:
            group[PENDING] = 0.0


class NeverFlushes(ProxOptimizer):
    """Leaves the last steps without a proximal step."""

    def flush(self):
        if self.steps % self.every == 0:
            super().flush()


FAULTS = [
    (LastRate, Loop(every=5, schedule=True, steps=10)),
    (FirstGroup, Loop(every=3, groups=True)),
    (EveryBackward, Loop(every=3, accumulate=4)),
    (SkipsCount, Loop(every=2, scaler=True, overflow=(1, 4))),
    (Forgets, Loop(every=3, resume_at=4)),
    (ForgetsRates, Loop(every=3, resume_at=4)),
    (HalfPrecise, Loop(autocast=True, step_in_autocast=True)),
    (NeverFlushes, Loop(every=3)),
]


@pytest.mark.parametrize(("fault", "loop"), FAULTS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_the_law_finds_it(fault, loop):
    with pytest.raises(AssertionError):
        check_loop(fault, loop)


@dataclass(frozen=True)
class PlantedRandomProx(Regularizer):
    """Shrinks along a direction that every rank draws for itself."""

    def value(self, w):
        return w.abs().sum()

    def prox(self, w, step):
        return w - step * torch.randn(w.shape)


def test_the_law_of_ranks_finds_random_numbers():
    w = torch.ones(3, 3)
    with pytest.raises(AssertionError, match="global generator"):
        check_same_on_every_rank(PlantedRandomProx(), w)
    check_same_on_every_rank(L1(0.1), w)
