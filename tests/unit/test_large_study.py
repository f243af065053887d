"""Study ``large``: what it records is of the files that the program wrote, and a tensor beyond its bound ends it."""

import pytest
import torch
from safetensors.torch import load_file, save_file


def test_a_point_is_measured_on_the_program(scripts, monkeypatch, tmp_path):
    import large

    monkeypatch.setitem(large.BLOCKS, 10, (32, 2))
    record = large.point(tmp_path, 10, 1)
    assert record["bytes"] == (tmp_path / "w.taut").stat().st_size < record["baseline"]["bytes"] / 3
    assert record["params"] == 2 * (12 * 32 * 32 + 32) and 0.01 < record["max_error"] <= 0.02
    for what in ("compress", "decode"):
        assert record[f"{what}_seconds"] > 0.1 and record[f"{what}_memory"] > 50e6
    back = load_file(tmp_path / "back.safetensors")
    back["blocks.1.out"] = back["blocks.1.out"] * 1.05
    save_file(back, tmp_path / "spoiled.safetensors")
    with pytest.raises(AssertionError, match="blocks.1.out: relative error"):
        large.check(tmp_path / "model.safetensors.index.json", tmp_path / "spoiled.safetensors")
    assert torch.equal(back["blocks.0.norm"], torch.ones(32))
