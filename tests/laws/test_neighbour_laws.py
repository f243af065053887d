"""Coding by neighbours: what it says comes back, a plain reader agrees, and it is short where neighbours tell something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import neighbour_laws as laws
from laws import plain_neighbours as plain
from laws.neighbour_laws import Coder

from taut.codec import mixing, records
from taut.codec.contexts import Within, fits
from taut.codec.masks import MIXED, plan_mask
from taut.codec.wire import Reader
from taut.compressors.base import _same
from taut.compressors.codebook import CodebookCode
from taut.compressors.prune import PruneCode
from taut.errors import FormatError

CODER = Coder()
SHAPES = [(9, 7), (1, 40), (3, 2), (6, 36), (4, 3, 3, 3), (6, 1, 5, 5), (5, 4, 7), (3, 5, 1, 3), (2, 2, 2, 2, 2), (8, 4, 1, 1)]


def weights(shape: tuple[int, ...], seed: int, most: int = 3, density: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    signed = np.rint(rng.laplace(scale=most / 3, size=shape)).clip(-most, most).astype(np.int64)
    signed[rng.random(shape) > density] = 0
    signed.reshape(-1)[:2] = most, 0
    return signed


def smooth(rows: int, side: int, seed: int = 0) -> np.ndarray:
    """Rows of squares: filters of an image that are smooth, in a part of it, and zero elsewhere."""
    rng = np.random.default_rng(seed)
    kernel = np.exp(-((np.arange(-5, 6) / 2) ** 2))

    def blur(image: np.ndarray, axis: int) -> np.ndarray:
        return np.apply_along_axis(lambda line: np.convolve(line, kernel, "same"), axis, image)

    images = blur(blur(rng.normal(size=(rows, side, side)), 1), 2)
    images /= images.std()
    return np.rint(1.2 * np.where(np.abs(images) > 1.2, images, 0)).astype(np.int64).reshape(rows, -1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_masks_and_values_come_back_and_a_plain_reader_agrees(shape: tuple[int, ...], seed: int) -> None:
    signed = weights(shape, seed)
    mask = signed != 0
    laws.check_mask(CODER, mask)
    if len(np.unique(signed[mask])) > 1:
        laws.check_values(CODER, signed[mask], Within(mask, 0))
        laws.check_values(CODER, signed[mask], Within(mask))


@pytest.mark.parametrize("low", [-300, 0, 7])
@pytest.mark.parametrize(("most", "common"), [(1, None), (1, 0), (2, 1), (30, None), (30, 0)])
def test_values_of_any_range(low: int, most: int, common: int | None) -> None:
    rng = np.random.default_rng(most)
    mask = rng.random((12, 30)) < 0.6
    values = low + np.minimum(rng.geometric(0.3, int(mask.sum())) - 1, most)
    if common is not None:
        values += values >= low + common  # none of them is the common one
    laws.check_values(CODER, values, Within(mask, None if common is None else low + common))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(2, 9), st.integers(1, 3), st.integers(0, 10**6), st.floats(0.02, 0.98))
def test_any_mask_and_values(rows: int, channels: int, kernel: int, seed: int, density: float) -> None:
    signed = weights((rows, channels, kernel, kernel), seed, 4, density)
    laws.check_mask(CODER, signed != 0)
    if len(np.unique(signed[signed != 0])) > 1:
        laws.check_values(CODER, signed[signed != 0], Within(signed != 0, 0))


def test_images_are_coded_by_their_lines() -> None:
    pictures = smooth(60, 20)
    assert 0.1 < (pictures != 0).mean() < 0.4
    laws.check_smooth(CODER, pictures, 0.6)
    head, _ = CODER.plan_places(pictures != 0)
    assert plain.neighbours(list(plain.varints(head))[1:], pictures.shape)[0] == 20, "the line above was not found"


@pytest.mark.parametrize(("shape", "geometry"), [((30, 8, 3, 3), (3, 9)), ((30, 8, 5, 5), (5, 25)), ((30, 8, 7), (0, 7))])
def test_kernels_are_coded_by_their_shape(shape: tuple[int, ...], geometry: tuple[int, int]) -> None:
    """Each kernel is like the one before it."""
    rng = np.random.default_rng(0)
    signed = np.rint(rng.normal(size=(shape[0], 1, *shape[2:])) + 0.4 * rng.normal(size=shape)).astype(np.int64)
    head, _ = CODER.plan_places(signed != 0)
    assert plain.neighbours(list(plain.varints(head))[1:], shape)[:2] == geometry
    matrix = signed.reshape(shape[0], -1)
    laws.check_smooth(CODER, signed, 0.87)
    with pytest.raises(AssertionError):  # without its shape nothing of that is seen
        laws.check_smooth(_ShapeLess(), matrix, 0.87)


class _ShapeLess(Coder):
    def plan_places(self, mask: np.ndarray) -> Any:
        return super().plan_places(mask.reshape(len(mask), -1, 1, 1))

    def plan_values(self, values: np.ndarray, within: Within) -> Any:
        return super().plan_values(values, Within(within.mask.reshape(len(within.mask), -1, 1, 1), within.common))


def test_where_nothing_is_to_be_told_little_is_lost() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((120, 200)) < 0.1
    laws.check_no_worse_than_chance(CODER, mask, rng.integers(0, 4, int(mask.sum())))


def test_records_use_it_for_pruned_and_for_dense_weights() -> None:
    signed = smooth(60, 20)
    mask = torch.from_numpy(signed != 0)
    table = torch.linspace(-1, 1, 2 * int(np.abs(signed).max()) + 1)
    indices = torch.from_numpy((signed + np.abs(signed).max())[signed != 0].astype(np.uint8))
    pruned = PruneCode(CodebookCode(table, indices, False), mask)
    dense = torch.from_numpy(signed.astype(np.int8))
    for value in (pruned, dense):
        back = records.decode(records.encode(value))
        assert _same(back, value)
    apart = len(records.encode(mask)) + len(records.encode(indices))
    assert len(records.encode(pruned)) - len(records.encode(table)) < 0.85 * apart
    assert len(records.encode(dense)) < 0.85 * apart


def test_tables_follow_their_definitions() -> None:
    logits = [-3071, -2000, -257, -256, -1, 0, 1, 100, 2047, 3071]
    assert [int(mixing.SQUASH[y + mixing.REACH]) for y in logits] == [plain.squash(y) for y in logits]
    assert [int(mixing.STRETCH[q >> 4]) for q in range(0, 65536, 4099)] == [plain.stretch(q) for q in range(0, 65536, 4099)]
    assert [int(mixing.LOG[r]) for r in range(0, 4096, 315)] == [plain.log(r) for r in range(0, 4096, 315)]
    assert mixing.LOG[mixing.UNIT] == 0 and mixing.STRETCH[2048] == 1


@dataclass
class Hostile:
    head: bytes
    message: str


@pytest.mark.parametrize(
    "case",
    [
        Hostile(b"\0\4", "declares 0 ones"),
        Hostile(b"\5\14", "unknown neighbours 3"),
        Hostile(b"\5\10\377\377\3\0", "places away"),
        Hostile(b"\5", "cut short|ends"),
    ],
    ids=lambda case: case.message,
)
def test_a_damaged_head_of_a_mask_is_one_clear_error(case: Hostile) -> None:
    with pytest.raises(FormatError, match=case.message):
        CODER.read_places(case.head, b"\1", (4, 9))


@pytest.mark.parametrize(
    ("head", "count", "message"),
    [
        (b"\0\3\1\0", 5, "places of a mask"),
        (b"\0\0\1\0", 4, "1 whole numbers from 0"),
        (b"\0\3\11\0", 4, "9 of them negative"),
        (b"\0\377\377\3\1\0", 4, "whole numbers from 0"),
    ],
)
def test_a_damaged_head_of_values_is_one_clear_error(head: bytes, count: int, message: str) -> None:
    mask = np.zeros((3, 4), dtype=bool)
    mask[0] = True
    from taut.codec.coder import Decoder
    from taut.codec.contexts import read_values

    with pytest.raises(FormatError, match=message):
        read_values(Reader(head), Decoder(b"\1"), Within(mask), count)


def test_a_small_stream_cannot_ask_for_endless_decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bit that is always the same costs next to nothing, and a size has one for each step."""
    from taut.codec import contexts

    mask = np.ones((100, 100), dtype=bool)
    values = np.arange(10_000) % 401
    monkeypatch.setattr(contexts, "STEPS", 1000)
    planned = CODER.plan_values(values, Within(mask))
    assert planned is not None
    head, enc = planned
    monkeypatch.setattr(contexts, "STEPS", 10)
    with pytest.raises(FormatError, match="100000 decisions"):
        CODER.read_values(head, enc.finish(), Within(mask))


def test_what_has_no_rows_is_left_to_the_other_models() -> None:
    assert not fits((50,)) and not fits((50, 1)) and fits((1, 50)) and not fits((1 << 11, 1 << 11))
    assert CODER.plan_values(np.array([1, 2, 3]), Within(np.ones(3, dtype=bool))) is None
    flat = np.random.default_rng(0).random(4000) < 0.2
    assert plan_mask(flat, (4000,))[0][0] != MIXED
