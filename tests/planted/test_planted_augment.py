from functools import partial

import pytest
import torch
from laws.augment_laws import check_affine, check_half_shifted, check_middle, check_move, check_only_moves, check_own_image

from taut.bench.augment import affine, affine_or_shift, flip_crop, middle, move, shift


def wraps_around(x, down, right, fill):
    return torch.stack([x[i].roll((int(down[i]), int(right[i])), (1, 2)) for i in range(len(x))])


def swaps_axes(x, down, right, fill):
    return move(x, right, down, fill)


def one_move_for_all(x, down, right, fill):
    return move(x, down[:1].expand_as(down), right[:1].expand_as(right), fill)


@pytest.mark.parametrize("broken", [wraps_around, swaps_axes, one_move_for_all])
def test_broken_moves_are_caught(broken):
    with pytest.raises(AssertionError):
        check_move(broken, (7, 1, 8, 8), 2)


@pytest.mark.parametrize(
    ("broken", "by", "mirrors"),
    [
        (partial(shift, by=2), 1, False),
        (lambda x, fill, random: x, 1, False),
        (lambda x, fill, random: shift(x, fill, random, 1) + 1e-3, 1, False),
        (flip_crop, 4, False),
    ],
    ids=["too far", "never", "changes values", "mirrors unasked"],
)
def test_broken_augmentations_are_caught(broken, by, mirrors):
    with pytest.raises(AssertionError):
        check_only_moves(broken, by, mirrors)


@pytest.mark.parametrize(
    "broken",
    [
        partial(affine, turn=5.0),
        partial(affine, scale=0.2),
        partial(affine, by=0.0),
        lambda x, fill, random: affine(x, fill, random) ** 2,
        lambda x, fill, random: affine(torch.cat([x[:, :1], 1.1 * x[:, 1:]], 1), fill, random),
    ],
    ids=["turns less", "scales more", "never moves", "bends", "stretches"],
)
def test_broken_turns_are_caught(broken):
    with pytest.raises(AssertionError):
        check_affine(broken, turn=10.0, scale=0.1, by=1.5)


@pytest.mark.parametrize(
    "broken",
    [
        lambda x, side: x[:, :, :side, :side],
        lambda x, side: x[:, :, :: x.shape[2] // side, :: x.shape[3] // side],
        lambda x, side: middle(x, side).mT,
        lambda x, side: middle(x, side + 1),
    ],
    ids=["a corner", "every other pixel", "turned", "too large"],
)
def test_broken_middles_are_caught(broken):
    with pytest.raises(AssertionError):
        check_middle(broken, (2, 3, 16, 16), 8)


@pytest.mark.parametrize(
    "broken",
    [
        affine,
        partial(shift, by=1),
        lambda x, fill, random: affine_or_shift(affine_or_shift(x, fill, random), fill, random),
        lambda x, fill, random: torch.cat([affine(x[:200], fill, random), x[200:]]),
    ],
    ids=["all turned", "none turned", "twice", "others stay"],
)
def test_broken_halves_are_caught(broken):
    with pytest.raises(AssertionError):
        check_half_shifted(broken, 1)


@pytest.mark.parametrize(
    "broken",
    [
        lambda x, fill, random: affine_or_shift(x.flip(0), fill, random),
        lambda x, fill, random: torch.cat([affine(x[::2], fill, random), shift(x[1::2], fill, random, by=1)]),
    ],
    ids=["backwards", "by kind"],
)
def test_images_that_change_places_are_caught(broken):
    with pytest.raises(AssertionError, match="changed places"):
        check_own_image(broken)
