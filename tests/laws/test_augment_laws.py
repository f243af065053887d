import pytest
from laws.augment_laws import check_move, check_only_moves, check_resize

from taut.bench.augment import AUGMENTATIONS, move, resize


@pytest.mark.parametrize("by", [0, 1, 2, 4])
@pytest.mark.parametrize("shape", [(7, 1, 8, 8), (5, 3, 6, 9), (1, 2, 5, 4), (64, 1, 28, 28)])
def test_move_is_the_loop(shape, by):
    check_move(move, shape, by)


@pytest.mark.parametrize(("name", "by", "mirrors"), [("shift1", 1, False), ("shift2", 2, False), ("flip-crop", 4, True)])
def test_augmentation_only_moves(name, by, mirrors):
    check_only_moves(AUGMENTATIONS[name], by, mirrors)


def test_every_augmentation_is_under_the_law():
    assert set(AUGMENTATIONS) == {"shift1", "shift2", "flip-crop"}


@pytest.mark.parametrize("side", [4, 7, 16, 32, 40])
@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 1, 28, 28), (3, 2, 9, 12)])
def test_resize_is_a_weighted_mean(shape, side):
    check_resize(resize, shape, side)
