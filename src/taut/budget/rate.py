"""The price of a bit during entropy-penalised training, steered so that the file comes out at the size aimed at."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from taut.parametrizations.entropy import Grid
from taut.reparametrize import Wrapped

FIRST_PRICE = 0.5
"""The first price, in units of the loss per bit and weight; the course corrects it."""
GAIN = 30.0
"""How fast the price follows: its logarithm changes by this, over a whole training, for each e-fold that the rate is off."""
AHEAD = 0.06
"""The rate is compared with the course where it will be after this part of the training: it follows the price with a lag."""
DOWN, HOLD = 0.5, 0.75
"""The rate is to be down at the target after this part of the training; after that one the price stays as it is."""
WEIGHINGS = (0.0, 0.15, 0.3, 0.45, 0.6)
"""When the file's real size is compared with the estimate: contexts make it shorter, biases and headers longer."""
COUNT_EVERY = 0.005
"""The part of the training between two counts of the levels."""


class RateControl:
    """The penalty ``price * bits`` of a network in training, called with the part of the training that is done, 0 to 1.

    The rate is led from where it starts to ``target`` bytes along a geometric course, gradual as pruning should be (Zhu and
    Gupta 2017, arXiv 1710.01878), by the price's logarithm: dual ascent on the constraint that the file has at most that size,
    with a look ahead. What is led is the entropy of the levels themselves; the penalty, of continuous values, may be twice that.
    ``weigh()`` gives the real size of the file in bytes at present; ``price`` is the first one.
    """

    def __init__(self, training: Wrapped, target: float, weigh: Callable[[], float], price: float = FIRST_PRICE) -> None:
        self.training, self.target, self.weigh = training, target, weigh
        self.weights = max(1, sum(trained[0].numel() for _, trained in training.latents().values()))
        self.log_price = math.log(price / self.weights)
        self.counted, self.start, self.fixed, self.size, self.trend = -1.0, 0.0, 0.0, 0.0, 0.0
        self.left = list(WEIGHINGS)

    def __call__(self, done: float) -> Tensor:
        if self.counted < 0 or done >= self.counted + COUNT_EVERY:
            self._count(done)
        return math.exp(self.log_price) * self.training.penalty()

    @property
    def price(self) -> float:
        """The present price, in units of the loss per bit and weight."""
        return self.weights * math.exp(self.log_price)

    @torch.no_grad()
    def _count(self, done: float) -> None:
        """Take the levels' frequencies, and correct the price by where the size stands and goes."""
        bits = sum(latent.count(*trained) for latent, trained in self.training.latents().values() if isinstance(latent, Grid))
        size, since = math.log(max(bits / 8, 1.0)), done - self.counted
        if self.left and done >= self.left[0]:
            self.left.pop(0)
            self.fixed = math.log(max(self.weigh(), 1.0)) - size
        if self.counted < 0:
            self.start = self.size = size + self.fixed
        elif done < HOLD:
            # one count is noisy: the trend is that of the last few
            self.trend += 0.3 * ((size + self.fixed - self.size) / since - self.trend)
            off = size + self.fixed + AHEAD * self.trend - self._course(done + AHEAD)
            self.log_price += GAIN * since * max(-1.0, min(1.0, off))
        self.size, self.counted = size + self.fixed, done

    def _course(self, done: float) -> float:
        return self.start + min(1.0, done / DOWN) * (math.log(self.target) - self.start)
