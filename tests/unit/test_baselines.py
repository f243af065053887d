"""Study ``baselines``: the trained weights and their record, and training on from there."""

import sys

import pytest
import torch
from safetensors.torch import load_file

from taut.records import read_records

RECIPE = {"batch_size": 64, "epochs": 1, "lr": 4e-3}


@pytest.fixture
def study(scripts, monkeypatch, tmp_path):
    import baselines

    threads = torch.get_num_threads()
    monkeypatch.setattr(baselines, "HERE", tmp_path)
    monkeypatch.setitem(baselines.RECIPES, ("digits-cnn", "digits"), RECIPE)
    (tmp_path / "results").mkdir()

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["baselines.py", "digits-cnn", "digits", *more])
        baselines.main()
        return load_file(tmp_path / "baselines" / "digits-cnn-digits-s0.safetensors")

    yield baselines, run, tmp_path / "results" / "baselines.jsonl"
    torch.set_num_threads(threads)


def test_a_baseline_is_trained_on_from_its_weights_and_takes_their_place(study, monkeypatch):
    baselines, run, out = study
    first = run()
    # steps so small that one can see where the training began
    monkeypatch.setitem(baselines.MORE, ("digits-cnn", "digits"), {"lr": 1e-9})
    on = run("--on")
    weights = [name for name in first if name.endswith("weight") and first[name].dim() > 1]
    assert weights and all(torch.allclose(on[name], first[name], atol=1e-6) for name in weights)
    before, after = read_records(out)
    assert (before["setting"]["trained_on"], after["setting"]["trained_on"]) == (False, True)
    assert after["setting"]["lr"] == 1e-9 and after["command"].endswith("--on") and "--on" not in before["command"]


def test_a_network_without_settings_for_training_on_is_refused(study, capsys):
    _, run, out = study
    with pytest.raises(SystemExit):
        run("--on")
    assert "--on has no settings for digits-cnn on digits: add them to MORE" in capsys.readouterr().err
    assert not out.exists()
