"""The price of a bit during entropy-penalised training, steered so that the file comes out at the size aimed at."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from taut.parametrizations.entropy import Grid
from taut.reparametrize import Wrapped

FIRST_PRICE = 0.1
"""The first price, in units of the loss per bit and weight; the course corrects it."""
GAIN = 30.0
"""How fast the price follows: its logarithm changes by this, over a whole training, for each e-fold that the rate is off."""
DOWN, HOLD = 0.5, 0.75
"""The rate is to be down at the target after this part of the training; after that one the price stays as it is."""
WEIGHINGS = (0.15, 0.3, 0.45, 0.6)
"""When the file's real size is compared with the estimate: contexts make it shorter, biases and headers longer."""
COUNT_EVERY = 20
"""Steps between two counts of the levels' frequencies."""


class RateControl:
    """The penalty ``price * bits`` of a network in training, called with the part of the training that is done, 0 to 1.

    The rate is led from where it starts to ``target`` bytes along a geometric course, gradual as pruning should be (Zhu and
    Gupta 2017, arXiv 1710.01878), by integral control of the price's logarithm: dual ascent on the constraint that the file
    has at most that size. ``weigh()`` gives the real size of the file in bytes at present; ``price`` is the first one.
    """

    def __init__(self, training: Wrapped, target: float, weigh: Callable[[], float], price: float = FIRST_PRICE) -> None:
        self.training, self.target, self.weigh = training, target, weigh
        self.weights = max(1, sum(trained[0].numel() for _, trained in training.latents().values()))
        self.log_price = math.log(price / self.weights)
        self.calls, self.done, self.start, self.fixed, self.left = 0, 0.0, 0.0, 0.0, list(WEIGHINGS)

    def __call__(self, done: float) -> Tensor:
        if self.calls % COUNT_EVERY == 0:
            self._count()
        self.calls += 1
        bits = self.training.penalty()
        present = float(bits.detach()) / 8
        self.start = self.start or present
        if self.left and done >= self.left[0]:
            self.left.pop(0)
            # what the estimate misses is about the same share at every size
            self.fixed = math.log(max(self.weigh(), 1.0) / max(present, 1.0))
        if done < HOLD:
            wanted = math.log(self.start) + min(1.0, done / DOWN) * math.log(self.target / self.start)
            off = math.log(max(present, 1.0)) + self.fixed - wanted
            self.log_price += GAIN * (done - self.done) * max(-1.0, min(1.0, off))
        self.done = done
        return math.exp(self.log_price) * bits

    @property
    def price(self) -> float:
        """The present price, in units of the loss per bit and weight."""
        return self.weights * math.exp(self.log_price)

    @torch.no_grad()
    def _count(self) -> None:
        for latent, trained in self.training.latents().values():
            assert isinstance(latent, Grid)
            latent.count(*trained)
