"""What an augmentation may do: move each image (and mirror it, if it says so), and nothing else."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

Move = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Middle = Callable[[Tensor, int], Tensor]


def slow_move(image: Tensor, down: int, right: int, fill: Tensor) -> Tensor:
    """One image ``(channels, height, width)`` moved pixel by pixel."""
    channels, height, width = image.shape
    moved = fill.expand(channels, height, width).clone()
    for row, column in itertools.product(range(height), range(width)):
        if 0 <= row - down < height and 0 <= column - right < width:
            moved[:, row, column] = image[:, row - down, column - right]
    return moved


def check_move(move: Move, shape: tuple[int, int, int, int], by: int) -> None:
    """``move`` equals the pixel-by-pixel loop for every image and leaves its input alone."""
    random = torch.Generator().manual_seed(1)
    x, fill = torch.randn(shape, generator=random), torch.randn(shape[1], 1, 1, generator=random)
    down, right = torch.randint(-by, by + 1, (2, shape[0]), generator=random)
    before = x.clone()
    moved = move(x, down, right, fill)
    assert torch.equal(x, before)
    for i in range(shape[0]):
        assert torch.equal(moved[i], slow_move(x[i], int(down[i]), int(right[i]), fill))


def check_only_moves(augment: Callable, by: int, mirrors: bool) -> None:
    """Each image becomes a move of itself (or of its mirror) by up to ``by``, and every such move occurs."""
    random = torch.Generator().manual_seed(2)
    image, fill = torch.randn(2, 6, 5, generator=random), torch.tensor([-3.0, -4.0]).reshape(2, 1, 1)
    sources = [image, image.flip(2)] if mirrors else [image]
    steps = range(-by, by + 1)
    allowed = torch.stack([slow_move(source, d, r, fill) for source, d, r in itertools.product(sources, steps, steps)])
    count = 40 * len(allowed)
    out = augment(image.expand(count, -1, -1, -1).contiguous(), fill, torch.Generator().manual_seed(3))
    same = (out.flatten(1)[:, None] == allowed.flatten(1)[None]).all(2)
    assert same.any(1).all(), "an image that is no move of its source"
    distinct = torch.unique(allowed.flatten(1), dim=0)
    seen = torch.unique(out.flatten(1), dim=0)
    assert len(seen) == len(distinct), "some moves never happen"


def check_affine(augment: Callable, turn: float, scale: float, by: float) -> None:
    """Of an image whose brightness is a plane, each image is the plane turned, scaled and moved, within the bounds, and all that
    they allow occurs. The middle of the image is looked at, where nothing comes in from outside.
    """
    size, count, random = 33, 400, torch.Generator().manual_seed(5)
    row, column = torch.meshgrid(torch.arange(size) - 16.0, torch.arange(size) - 16.0, indexing="ij")
    planes = torch.stack([row, column])[None].expand(count, -1, -1, -1).contiguous()  # two channels that move together
    out = augment(planes, torch.zeros(2, 1, 1), random)[:, :, 12:21, 12:21].flatten(2).double()
    known = torch.stack([row, column, torch.ones(size, size)])[:, 12:21, 12:21].flatten(1).T.double()
    found = torch.linalg.lstsq(known.expand(count, -1, -1), out.transpose(1, 2)).solution  # of row, column and one: (count, 3, 2)
    assert torch.allclose(known @ found, out.transpose(1, 2), atol=1e-3), "no affine map"
    a, b, c, d = found[:, 0, 0], found[:, 1, 0], found[:, 0, 1], found[:, 1, 1]
    assert torch.allclose(a, d, atol=1e-4) and torch.allclose(b, -c, atol=1e-4), "no turn and scale"
    angle, scaled, moved = torch.atan2(b, a).rad2deg(), 1 / torch.hypot(a, b) - 1, found[:, 2].flatten()
    for values, most in ((angle, turn), (scaled, scale), (moved, by)):
        assert float(values.abs().max()) <= most * 1.001 + 1e-4
        assert float(values.max()) > 0.9 * most and float(values.min()) < -0.9 * most


def check_half_shifted(augment: Callable, by: int) -> None:
    """About half of the images are moves of themselves by up to ``by`` pixels, the others are turned, no two alike."""
    random = torch.Generator().manual_seed(6)
    image, fill, count = torch.randn(1, 6, 5, generator=random), torch.full((1, 1, 1), -3.0), 400
    out = augment(image.expand(count, -1, -1, -1).contiguous(), fill, torch.Generator().manual_seed(7)).flatten(1)
    moves = [slow_move(image, d, r, fill) for d, r in itertools.product(range(-by, by + 1), repeat=2)]
    moved = (out[:, None] == torch.stack(moves).flatten(1)[None]).all(2).any(1)
    assert 0.4 < float(moved.float().mean()) < 0.6
    assert len(torch.unique(out[moved], dim=0)) == len(moves)
    assert len(torch.unique(out[~moved], dim=0)) == int((~moved).sum())


def check_own_image(augment: Callable) -> None:
    """Each image comes from the one in its place: of images of one brightness each, the middle stays as bright."""
    values = torch.arange(1.0, 65.0)
    x = values[:, None, None, None].expand(64, 2, 15, 15).contiguous()
    out = augment(x, torch.zeros(2, 1, 1), torch.Generator().manual_seed(8))
    assert out.shape == x.shape
    assert torch.allclose(out[:, :, 7, 7], values[:, None].expand(64, 2), rtol=1e-4), "images have changed places"


def check_middle(middle: Middle, shape: tuple[int, int, int, int], side: int) -> None:
    """As many pixels, one by one, as there are, none nearer to one edge than to the other by more than one."""
    x = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    found = middle(x, side)
    rows, columns = (min(side, size) for size in shape[2:])
    assert found.shape == (*shape[:2], rows, columns)
    for row, column in itertools.product(range(rows), range(columns)):
        top, left = (shape[2] - rows) // 2, (shape[3] - columns) // 2
        assert torch.equal(found[:, :, row, column], x[:, :, top + row, left + column])
