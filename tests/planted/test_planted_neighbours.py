"""Each law of coding by neighbours turns red on a coder with one fault."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from laws import neighbour_laws as laws
from laws.neighbour_laws import Coder

from taut.codec import contexts, neighbours
from taut.codec.contexts import Within
from taut.errors import FormatError

RNG = np.random.default_rng(0)
FILTERS = np.rint(RNG.normal(size=(8, 1, 3, 3)) + 0.4 * RNG.normal(size=(8, 6, 3, 3))).astype(np.int64)
MANY = np.rint(RNG.normal(size=(30, 1, 3, 3)) + 0.4 * RNG.normal(size=(30, 8, 3, 3))).astype(np.int64)
MASK = FILTERS != 0
VALUES = FILTERS[MASK]


def faulty_mask() -> None:
    laws.check_mask(Coder(), MASK)


def faulty_values() -> None:
    laws.check_values(Coder(), VALUES, Within(MASK, 0))


def test_the_right_coder_passes() -> None:
    faulty_mask()
    faulty_values()
    laws.check_smooth(Coder(), MANY, 0.87)


@pytest.mark.parametrize("check", [faulty_mask, faulty_values])
def test_a_reader_that_forgets_the_period(monkeypatch: pytest.MonkeyPatch, check: Any) -> None:
    right = contexts._read_how
    monkeypatch.setattr(contexts, "_read_how", lambda head, shape: (right(head, shape)[0], 0, right(head, shape)[2]))
    with pytest.raises((AssertionError, FormatError)):
        check()


def test_a_writer_that_starts_from_another_density(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides agree: only the plain reader sees it."""
    monkeypatch.setattr(contexts, "_density", lambda ones, count: max(1, (ones << 16) // count) + 64)
    with pytest.raises(AssertionError, match="plain reader"):
        faulty_mask()


def test_signs_that_change_in_another_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "_signed", lambda values, zero: values - zero + (values > zero) + (values == zero) * 2)
    with pytest.raises(AssertionError):
        faulty_values()


def test_a_common_value_that_is_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reader and writer agree, and waste a size: only the plain reader sees it."""
    for name in ("closed", "opened"):
        monkeypatch.setattr(Within, name, lambda self, values: values)
    with pytest.raises(AssertionError, match="plain reader"):
        faulty_values()


def test_mixers_that_do_not_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, how in (("places", 2), ("sizes", 3)):
        right = getattr(neighbours, name)

        def slow(*args: Any, right: Any = right, at: int = how) -> Any:
            return right(*args[:at], (0, 0, 40), *args[at + 1 :])

        monkeypatch.setattr(neighbours, name, slow)
    with pytest.raises(AssertionError, match="by themselves"):
        laws.check_smooth(Coder(), MANY, 0.87)


def test_a_model_that_expects_neighbours_to_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is by chance is then paid for."""
    right = contexts._cost

    def dear(bits: np.ndarray, freqs: np.ndarray) -> Any:
        return right(bits, np.clip(freqs // 4, 64, None))

    monkeypatch.setattr(contexts, "_cost", dear)
    mask = RNG.random((60, 80)) < 0.3
    with pytest.raises(AssertionError):
        laws.check_no_worse_than_chance(Coder(), mask, RNG.integers(0, 4, int(mask.sum())))
