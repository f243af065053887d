"""A data set in three parts, and batches of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from taut.bench.augment import augmentation
from taut.errors import TautError


@dataclass(frozen=True)
class Split:
    """One part of a data set: ``x`` float32 ``(n, channels, height, width)``, normalised; ``y`` int64 ``(n,)``.

    ``black`` is the normalised value of a zero pixel, one a channel ``(channels, 1, 1)``: what augmentation fills with. Of text,
    ``x`` are characters, int64 ``(n, length)``, ``y`` those that come next, of the same shape, and ``black`` is not used.
    """

    x: Tensor
    y: Tensor
    black: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, count: int) -> "Split":
        """The first ``count`` examples (the order is already random)."""
        return Split(self.x[:count], self.y[:count], self.black)


@dataclass(frozen=True)
class Splits:
    """A data set: ``train``, ``val`` and ``test``, and the number of classes."""

    name: str
    train: Split
    val: Split
    test: Split
    classes: int = 10

    @property
    def example_input(self) -> Tensor:
        """A batch of one, from the training part."""
        return self.train.x[:1]


class Batches:
    """Batches ``(x, y)`` of a split, over and over: each pass is one epoch.

    Each epoch has its own order and augmentation, drawn from ``seed`` and the epoch's number alone. ``epoch`` is the number
    of the next pass: set it to go on where an interrupted run stopped. ``augment`` is None, ``"shift1"`` or ``"shift2"``
    (up to 1 or 2 pixels each way, every image by its own amount), ``"flip-crop"`` (mirrored half of the time, shifted by
    up to 4 pixels), ``"affine"`` (turned, scaled and moved a little) or ``"affine-or-shift"`` (half of them so).
    With ``repeat`` only so many epochs differ, and the next are those again: what is computed of a batch can be kept
    (:class:`taut.budget.answers.Answers`).

    Raises:
        TautError: an empty split, a batch size or a ``repeat`` below 1, or an unknown augmentation.

    Example:
        >>> from taut.bench.data import load
        >>> batches = Batches(load("digits").train, 100, augment="shift1")
        >>> len(batches), next(iter(batches))[0].shape
        (11, torch.Size([100, 1, 8, 8]))
    """

    def __init__(
        self, split: Split, batch_size: int, shuffle: bool = True, seed: int = 0, augment: str | None = None,
        repeat: int | None = None,
    ) -> None:  # fmt: skip
        if batch_size < 1 or not len(split):
            raise TautError(f"batches of {batch_size} from {len(split)} examples: both must be at least 1")
        if repeat is not None and repeat < 1:
            raise TautError(f"epochs cannot repeat after {repeat} of them: give at least 1, or None")
        self.split, self.batch_size, self.shuffle, self.seed, self.repeat = split, batch_size, shuffle, seed, repeat
        self.augment = augmentation(augment)
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass the one numbered ``epoch``: fine-tuning calls this, so that a resumed run sees the same batches."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # a prime keeps the epochs of neighbouring seeds apart
        epoch = self.epoch if self.repeat is None else self.epoch % self.repeat
        random = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        self.epoch += 1
        order = torch.randperm(len(self.split), generator=random) if self.shuffle else torch.arange(len(self.split))
        for at in order.split(self.batch_size):
            x = self.split.x[at]
            yield (self.augment(x, self.split.black, random) if self.augment else x), self.split.y[at]
