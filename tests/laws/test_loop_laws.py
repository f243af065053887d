"""ProxOptimizer obeys the laws of the user's own loop, and every regularizer that of ranks."""

import pytest
import torch
from laws.loop_laws import LOOPS, check_loop, check_same_on_every_rank

from taut.regularizers.base import Regularizer
from taut.train import ProxOptimizer

OWN = [kind for kind in Regularizer.registry.values() if kind.__module__.startswith("taut.") and kind.__name__ != "Distance"]


@pytest.mark.parametrize("loop", LOOPS, ids=str)
def test_the_loop_gives_the_reference_weights(loop):
    check_loop(ProxOptimizer, loop)


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.__name__)
def test_ranks_agree(kind):
    w = torch.randn(40, 24, generator=torch.Generator().manual_seed(1))
    check_same_on_every_rank(kind(), w)
