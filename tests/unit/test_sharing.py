"""Study ``pull-taut``: every way of its script gives a coded network in its set, and the records hold what was measured."""

import pytest
import torch

from taut.bench.data import Batches, load
from taut.bench.networks import build
from taut.bench.recipes import evaluate, train
from taut.layers import find_layers

RECIPE = {"batch_size": 64, "augment": None, "epochs": 4, "lr": 6e-3, "optimizer": "adam", "schedule": "onecycle"}


@pytest.fixture(scope="module")
def digits():
    splits = load("digits")
    return splits, train(build("digits-cnn"), splits, seed=0, threads=1, **RECIPE)


def made(way, digits, place, epochs=6):
    from sharing import WAYS, Task

    task = Task(digits[1], build("digits-cnn"), digits[0], RECIPE, epochs, 2e-3, 0)
    setting = WAYS[way].settings[place]
    model = WAYS[way].make(task, setting)
    return task, setting, None if model is None else task.shipped(model)


@pytest.mark.parametrize("way", ["k-means", "k-means by curvature", "learning-compression"])
def test_shared_values_are_shared(scripts, digits, way):
    _, k, model = made(way, digits, 2)
    for layer in find_layers(model).values():
        assert layer.weight.unique().numel() <= k + 1  # and zero
    assert evaluate(model, digits[0].val)[1] > 0.9


@pytest.mark.parametrize(
    "way", ["uniform", "entropy codebook", "damped entropy codebook", "deep compression", "adaptive precision",
            "hashed after training", "hashed"],
)
def test_a_stronger_setting_makes_a_smaller_file(scripts, digits, way):
    from pull_taut import measured

    sizes = [measured(made(way, digits, place, epochs=2)[2], digits[0])["bytes"] for place in (0, 2)]
    assert sizes[1] < sizes[0] < 4 * sum(p.numel() for p in digits[1].parameters())


def test_binary_layers_have_two_values(scripts, digits):
    _, _, model = made("loss-aware binary", digits, 0)
    *inner, last = find_layers(model).values()
    assert all(layer.weight.unique().numel() == 2 for layer in inner) and last.weight.unique().numel() > 2


def test_a_steering_says_what_it_was_allowed_and_measured(scripts, digits, monkeypatch, tmp_path):
    import pull_taut

    monkeypatch.setattr(pull_taut, "trained", lambda *_: digits[1])
    monkeypatch.setitem(pull_taut.RECIPES, ("digits-cnn", "digits"), RECIPE)
    monkeypatch.setenv(pull_taut.KEEP, str(tmp_path))
    monkeypatch.delenv(pull_taut.DATA, raising=False)
    torch.manual_seed(0)
    (record,) = pull_taut.point("digits-cnn", "digits", "steering", 0, 0, 16, 1e-3)
    assert record["setting"]["arrived"] and record["steps"][-1]["coded"] and record["steps"][-1]["kept"]
    assert record["bytes"] == (tmp_path / record["file"]).stat().st_size < record["baseline"]["bytes"] / 4
    lost = record["baseline"]["metric_val"] - record["metric_val"]
    assert lost <= record["setting"]["max_drop"] + 2 / len(digits[0].val)  # vectors are put on short grids after it


def test_the_passes_over_the_parts_of_an_epoch_are_the_epoch(scripts):
    from sharing import Passes

    split = load("digits").train
    whole, parts = Batches(split, 64, seed=3, augment="shift1"), Passes(split, 4, 64, 3, "shift1")
    for _ in range(2):  # epochs
        expected = [y for _, y in whole]
        found = [[y for _, y in parts] for _ in range(4)]
        assert torch.equal(torch.cat(expected), torch.cat([y for piece in found for y in piece]))
        assert max(len(piece) for piece in found) == len(parts) == -(-len(whole) // 4)
    parts.set_epoch(6)
    assert torch.equal(next(iter(parts))[1], found[2][0])
