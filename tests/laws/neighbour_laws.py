"""The laws of coding by neighbours, as functions of the coder under test, so that a broken one can be shown to fail them."""

from __future__ import annotations

import numpy as np
from laws import plain_neighbours as plain

from taut.codec import contexts
from taut.codec.coder import Decoder, Encoder
from taut.codec.contexts import Within
from taut.codec.wire import Reader

Shape = tuple[int, ...]


class Coder:
    """The coder under test."""

    def plan_places(self, mask: np.ndarray) -> tuple[bytes, Encoder]:
        return contexts.plan_places(mask.reshape(-1), mask.shape)

    def read_places(self, head: bytes, stream: bytes, shape: Shape) -> np.ndarray:
        decoder, reader = Decoder(stream), Reader(head)
        found = contexts.read_places(reader, decoder, int(np.prod(shape)), shape).reshape(shape)
        decoder.close()
        assert not reader.left
        return found

    def plan_values(self, values: np.ndarray, within: Within) -> tuple[bytes, Encoder] | None:
        return contexts.plan_values(values, within)

    def read_values(self, head: bytes, stream: bytes, within: Within) -> np.ndarray:
        decoder, reader = Decoder(stream), Reader(head)
        found = contexts.read_values(reader, decoder, within, int(within.mask.sum()))
        decoder.close()
        assert not reader.left
        return found


def check_mask(coder: Coder, mask: np.ndarray) -> None:
    """It comes back, and the plain reader of docs/format.md reads the same."""
    head, enc = coder.plan_places(mask)
    stream = enc.finish()
    assert np.array_equal(coder.read_places(head, stream, mask.shape), mask), "the mask came back as another"
    again = plain.Stream(stream)
    rows = plain.read_mask(head, again, mask.shape)
    assert np.array_equal(np.array(rows, dtype=bool).reshape(mask.shape), mask), "the plain reader reads another mask"
    assert again.state == 0 and not again.words


def check_values(coder: Coder, values: np.ndarray, within: Within) -> None:
    """They come back, and the plain reader of docs/format.md reads the same."""
    planned = coder.plan_values(values, within)
    assert planned is not None
    head, enc = planned
    stream = enc.finish()
    assert np.array_equal(coder.read_values(head, stream, within), values), "the numbers came back as others"
    again, mask = plain.Stream(stream), within.mask
    rows = mask.reshape(len(mask), -1).astype(int).tolist()
    assert plain.read_values(head, again, rows, mask.shape, within.common) == values.tolist(), "the plain reader reads others"
    assert again.state == 0 and not again.words


def bits(planned: tuple[bytes, Encoder] | None) -> float:
    assert planned is not None
    return 8 * len(planned[0]) + planned[1].bits


def check_smooth(coder: Coder, weights: np.ndarray, share: float) -> None:
    """Where neighbours tell, the mask and the signed sizes together take at most a ``share`` of their entropy, place by place, in
    which the density of every column is known for nothing."""
    mask = weights != 0
    density = np.clip(mask.mean(axis=0), 1e-9, 1 - 1e-9)
    places = -(np.where(mask, np.log2(density), np.log2(1 - density))).sum()
    _, counts = np.unique(weights[mask], return_counts=True)
    values = -(counts * np.log2(counts / counts.sum())).sum()
    found = bits(coder.plan_places(mask)) + bits(coder.plan_values(weights[mask], Within(mask, 0)))
    assert found <= share * (places + values), f"{found:.0f} bits; places {places:.0f} and values {values:.0f} by themselves"


def check_no_worse_than_chance(coder: Coder, mask: np.ndarray, values: np.ndarray) -> None:
    """Where neighbours tell nothing, what is learnt in vain costs at most 2 % and 80 bytes."""
    p = mask.mean()
    places = -mask.size * (p * np.log2(p) + (1 - p) * np.log2(1 - p))
    _, counts = np.unique(values, return_counts=True)
    entropy = -(counts * np.log2(counts / counts.sum())).sum()
    assert bits(coder.plan_places(mask)) <= 1.02 * places + 640
    assert bits(coder.plan_values(values, Within(mask))) <= 1.02 * entropy + 640
