"""Old files still open, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from taut.codec.files import inspect, load_state_dict, verify

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("*.taut"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_file_opens(path: Path) -> None:
    verify(path)
    found, expected = load_state_dict(path), load_file(path.with_suffix(".safetensors"))
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
        if tensor.numel():
            same = found[name].reshape(-1).view(torch.uint8).equal(tensor.reshape(-1).view(torch.uint8))
            assert same, f"{name} is not what it was"


def test_there_is_a_golden_file_of_every_format() -> None:
    from taut.codec.container import VERSION

    assert {path.read_bytes()[4] for path in FILES} == set(range(1, VERSION + 1))


def test_the_golden_file_says_what_is_in_it() -> None:
    chains = {t.name: t.chain for t in inspect(HERE / "small-1.taut").tensors}
    assert chains["pruned.weight"] == "Prune -> Codebook" and chains["tied.weight"] == "= pruned.weight"
    assert chains["grid.weight"] == "Quantize" and chains["low_rank.weight"] == "LowRank"
    assert inspect(HERE / "small-1.taut").meta == {"made": "golden"}
