"""The ends of a training's last epochs, measured as they would ship: the best of them is taken, as early stopping does."""

from __future__ import annotations

from collections.abc import Callable

from taut.budget.trial import Setup, Trial, rank

LOOK, LOOKS = 0.6, 12
"""From this part of a training on up to so many epochs' ends are measured."""


class Looks:
    """Called after every epoch with the part of the training that is done; ``measure()`` gives the network as it would ship now.

    Where the learning rate falls to zero a network changes little, but its metric still goes up and down by a few samples.
    """

    def __init__(self, setup: Setup, measure: Callable[[], Trial], epochs: int) -> None:
        self.setup, self.measure = setup, measure
        self.apart = max((1 - LOOK) / LOOKS, 1 / max(1, epochs))
        self.ends: list[Trial] = []

    def __call__(self, done: float) -> None:
        if done > 1 - 1e-9 or done >= LOOK + len(self.ends) * self.apart:
            self.ends.append(self.measure())

    def best(self) -> Trial:
        """The best end; the network as it is, where no epoch has ended."""
        return max(self.ends or [self.measure()], key=lambda trial: rank(self.setup, trial))
