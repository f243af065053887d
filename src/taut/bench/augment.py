"""Image augmentation for a whole batch at once: each image is moved, and perhaps mirrored or turned, by a random amount."""

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn import functional

from taut.errors import TautError

Augmentation = Callable[[Tensor, Tensor, Generator], Tensor]


def move(x: Tensor, down: Tensor, right: Tensor, fill: Tensor) -> Tensor:
    """Image ``i`` of ``x`` moved by ``down[i]`` and ``right[i]`` pixels; what comes in from outside is ``fill``.

    ``x`` is ``(n, channels, height, width)``, ``down`` and ``right`` integers ``(n,)``, ``fill`` one value a channel
    ``(channels, 1, 1)``. One gather from a padded copy, so that it costs little beside a training step.

    Example:
        >>> x = torch.arange(4.0).reshape(1, 1, 2, 2)
        >>> move(x, torch.tensor([1]), torch.tensor([0]), torch.tensor([[[-1.0]]]))
        tensor([[[[-1., -1.],
                  [ 0.,  1.]]]])
    """
    n, channels, height, width = x.shape
    by = int(max(down.abs().max(), right.abs().max())) if n else 0
    padded = fill.expand(n, channels, height + 2 * by, width + 2 * by).clone()
    padded[:, :, by : by + height, by : by + width] = x
    # windows[i, r, c] is image i as seen from offset (r, c) of the padded copy: a view, nothing is copied before the gather
    windows = padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
    return windows[torch.arange(n), by - down, by - right]


def shift(x: Tensor, fill: Tensor, random: Generator, by: int) -> Tensor:
    """Each image moved by up to ``by`` pixels along each axis, all moves equally likely."""
    down, right = torch.randint(-by, by + 1, (2, len(x)), generator=random)
    return move(x, down, right, fill)


def flip_crop(x: Tensor, fill: Tensor, random: Generator) -> Tensor:
    """Mirrored left to right half of the time, then moved by up to 4 pixels (He et al., 2016, section 4.2)."""
    mirrored = torch.rand(len(x), generator=random) < 0.5
    return shift(torch.where(mirrored[:, None, None, None], x.flip(3), x), fill, random, by=4)


def affine(x: Tensor, fill: Tensor, random: Generator, turn: float = 10.0, scale: float = 0.1, by: float = 1.5) -> Tensor:
    """Each image turned about its middle by up to ``turn`` degrees, made larger or smaller by up to the part ``scale``, and moved
    by up to ``by`` pixels along each axis, all evenly likely; bilinear between pixels.

    Example:
        >>> x = torch.rand(2, 1, 8, 8)
        >>> still = affine(x, torch.zeros(1, 1, 1), torch.Generator(), turn=0, scale=0, by=0)
        >>> torch.allclose(still, x, atol=1e-6)
        True
    """
    return _turned(x, fill, 2 * torch.rand(4, len(x), generator=random) - 1, turn, scale, by)


def _turned(x: Tensor, fill: Tensor, amounts: Tensor, turn: float = 10.0, scale: float = 0.1, by: float = 1.5) -> Tensor:
    """As :func:`affine`, by amounts ``(4, n)`` from -1 to 1: of the turn, the size, and the moves down and right."""
    angle, size, down, right = amounts
    angle, size, height, width = angle * math.pi * turn / 180, 1 + scale * size, x.shape[2], x.shape[3]
    cos, sin = angle.cos() / size, angle.sin() / size  # from a place in the output to where it comes from
    # coordinates run from -1 to 1 along either axis; by outer sums, which is faster than affine_grid
    across, along = (torch.arange(1 - side, side, 2) / side for side in (width, height))
    rows = (cos, -sin * height / width, 2 * by * right / width), (sin * width / height, cos, 2 * by * down / height)
    where = torch.stack([
        torch.outer(a, across)[:, None, :] + (torch.outer(b, along) + c[:, None])[:, :, None] for a, b, c in rows
    ], 3).to(x)  # fmt: skip
    return functional.grid_sample(x - fill, where, align_corners=False).add_(fill)


def affine_or_shift(x: Tensor, fill: Tensor, random: Generator) -> Tensor:
    """Half of the images as :func:`affine` has them, the others moved by up to a pixel, nearer to the data."""
    turned = torch.rand(len(x), generator=random) < 0.5
    amounts = 2 * torch.rand(4, len(x), generator=random) - 1
    down, right = torch.randint(-1, 2, (2, len(x)), generator=random)
    out = torch.empty_like(x)
    out[turned] = _turned(x[turned], fill, amounts[:, turned])
    out[~turned] = move(x[~turned], down[~turned], right[~turned], fill)
    return out


AUGMENTATIONS: dict[str, Augmentation] = {
    "shift1": partial(shift, by=1), "shift2": partial(shift, by=2), "flip-crop": flip_crop, "affine": affine,
    "affine-or-shift": affine_or_shift,
}  # fmt: skip


def augmentation(name: str | None) -> Augmentation | None:
    """The augmentation called ``name``; None for none; an unknown name raises an error that lists the known ones."""
    if name is not None and name not in AUGMENTATIONS:
        raise TautError(f"unknown augmentation {name!r}; choose one of {', '.join(AUGMENTATIONS)}, or None")
    return None if name is None else AUGMENTATIONS[name]


def pixels(sizes: Mapping[float, int], part: float) -> int:
    """The side of the images when ``part`` of a training, 0 to 1, is over: that of the last of ``sizes`` to have begun.

    Raises:
        TautError: no size begins at 0, or one has no pixels.

    Example:
        >>> [pixels({0: 16, 0.5: 24, 0.8: 32}, part) for part in (0, 0.5, 0.79, 1)]
        [16, 24, 24, 32]
    """
    if 0 not in sizes or min(sizes.values()) < 1:
        raise TautError(f"sizes map the part of the training at which they begin to pixels, from 0 on; got {dict(sizes)}")
    return sizes[max(begin for begin in sizes if begin <= part)]


def middle(x: Tensor, side: int) -> Tensor:
    """The middle ``side`` by ``side`` pixels of images ``(n, channels, height, width)``; all of an image that is no larger.

    Example:
        >>> middle(torch.arange(16.0).reshape(1, 1, 4, 4), 2)
        tensor([[[[ 5.,  6.],
                  [ 9., 10.]]]])
    """
    top, left = (max(0, (size - side) // 2) for size in x.shape[2:])
    return x[:, :, top : top + side, left : left + side]
