"""Study ``text``: the record says what the delivered file is and does."""

import sys
from functools import partial

import pytest
import torch

import taut
from taut.bench.recipes import evaluate
from taut.bench.splits import Split, Splits
from taut.bench.transformer import char_transformer
from taut.records import read_records


@pytest.fixture
def small(scripts, monkeypatch):
    """A network of one narrow block, and texts in which every character is the one before and one more."""
    import text

    def made(count, seed):
        first = torch.randint(0, 10, (count, 1), generator=torch.Generator().manual_seed(seed))
        line = (first + torch.arange(17)) % 10
        return Split(line[:, :-1].clone(), line[:, 1:].clone(), torch.zeros(1, 1, 1))

    def network(*_):
        torch.manual_seed(0)
        return char_transformer(characters=10, length=16, width=24, depth=1, heads=2)

    splits = Splits("text", train=made(256, 0), val=made(64, 1), test=made(64, 2), classes=10)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(splits.train.x).flatten(0, 1), splits.train.y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    monkeypatch.setattr(text, "load", lambda *_: splits)
    monkeypatch.setattr(text, "trained", lambda *_: model.eval())
    monkeypatch.setattr(text, "build", network)
    monkeypatch.setattr(text, "compress", partial(text.compress, max_steps=3))
    return model, splits


def test_the_record_is_of_the_file_that_was_written(small, tmp_path, monkeypatch):
    import text

    model, splits = small
    out, keep = tmp_path / "text.jsonl", tmp_path / "kept"
    monkeypatch.setattr(sys, "argv", ["text.py", "--increase", "5", "--threads", "1", "--keep", str(keep), "--out", str(out)])
    text.main()
    (found,) = read_records(out)
    back = taut.load(keep / "model.taut", into=text.build()).eval()
    assert found["bytes"] == (keep / "model.taut").stat().st_size < 4 * sum(p.numel() for p in model.parameters()) / 4
    for split, loss in ((splits.val, found["loss_val"]), (splits.test, found["loss_test"]["compressed"])):
        assert loss == pytest.approx(evaluate(back, split)[0], abs=1e-4)
    assert found["baseline"]["loss_val"] < found["loss_val"] <= 1.05 * found["baseline"]["loss_val"]
    assert found["onnx_bytes"]["compressed"] == (keep / "model.onnx").stat().st_size
    assert found["metric_test"] == pytest.approx(evaluate(back, splits.test)[1]) and "DIR" in found["command"]
