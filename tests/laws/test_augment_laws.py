import pytest
import torch
from laws.augment_laws import check_affine, check_half_shifted, check_middle, check_move, check_only_moves, check_own_image

from taut.bench.augment import AUGMENTATIONS, middle, move


@pytest.mark.parametrize("by", [0, 1, 2, 4])
@pytest.mark.parametrize("shape", [(7, 1, 8, 8), (5, 3, 6, 9), (1, 2, 5, 4), (64, 1, 28, 28)])
def test_move_is_the_loop(shape, by):
    check_move(move, shape, by)


@pytest.mark.parametrize(("name", "by", "mirrors"), [("shift1", 1, False), ("shift2", 2, False), ("flip-crop", 4, True)])
def test_augmentation_only_moves(name, by, mirrors):
    check_only_moves(AUGMENTATIONS[name], by, mirrors)


def test_every_augmentation_is_under_the_law():
    assert set(AUGMENTATIONS) == {"shift1", "shift2", "flip-crop", "affine", "affine-or-shift"}


@pytest.mark.parametrize("name", ["affine", "affine-or-shift"])
def test_affine_turns_scales_and_moves(name):
    check_affine(AUGMENTATIONS[name], turn=10.0, scale=0.1, by=1.5)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_no_image_takes_the_place_of_another(name):
    check_own_image(AUGMENTATIONS[name])


def test_half_of_the_images_are_only_moved():
    check_half_shifted(AUGMENTATIONS["affine-or-shift"], by=1)


def test_what_comes_in_from_outside_is_the_fill():
    x, fill = torch.full((50, 2, 9, 9), 5.0), torch.tensor([-1.0, 5.0]).reshape(2, 1, 1)
    out = AUGMENTATIONS["affine"](x, fill, torch.Generator().manual_seed(0))
    assert torch.allclose(out[:, 1], x[:, 1], atol=1e-5)
    assert out[:, 0].amin() < 0 and out[:, 0, 3:6, 3:6].amin() > 4.99


@pytest.mark.parametrize("side", [1, 4, 7, 9, 16, 40])
@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 1, 13, 13), (3, 2, 9, 12)])
def test_the_middle_is_as_far_from_all_edges(shape, side):
    check_middle(middle, shape, side)
