"""Studies ``zero-loss`` and ``records``: a record holds the one point chosen on validation data, with its certificate."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from taut.bench.data import load
from taut.bench.networks import build
from taut.bench.recipes import train
from taut.budget import Budget, Recovery
from taut.budget.recover import recover
from taut.errors import TautError
from taut.records import read_records

RECIPE = {"batch_size": 64, "augment": "shift1", "epochs": 6, "lr": 6e-3, "schedule": "onecycle"}


@pytest.fixture(scope="module")
def digits():
    return train(build("digits-cnn"), load("digits"), seed=0, threads=1, **RECIPE)


@pytest.fixture
def arguments(scripts, digits, monkeypatch, tmp_path):
    import references
    import zero_loss

    monkeypatch.setattr(references, "trained", lambda *_: digits)
    monkeypatch.setattr(references, "path", lambda network, dataset, seed: tmp_path / f"{network}-{dataset}-s{seed}.safetensors")
    monkeypatch.setitem(zero_loss.RECIPES, ("digits-cnn", "digits"), RECIPE)
    # by candidates, not by time: the same on a busy machine
    monkeypatch.setattr(zero_loss, "compress", partial(zero_loss.compress, max_steps=3))
    monkeypatch.setattr(sys, "argv", ["study.py", "--data-dir", "/secret", "--work", "/secret", "--out", "/secret"])
    return {
        "network": "digits-cnn", "dataset": "digits", "data_dir": None, "seed": 0, "minutes": 10, "threads": 1,
        "method": "default", "augment": None, "repeat": 2, "keep": tmp_path / "kept", "out": tmp_path / "records.jsonl",
        "work": tmp_path / "work", "loosest": 1.0, "precision": "float32", "long": False,
        "save_reference": False, "first": None, "epochs": None, "lr": None, "reference": None,
    }  # fmt: skip


def test_one_record_a_drop_and_none_twice(arguments, monkeypatch):
    import zero_loss

    monkeypatch.setitem(zero_loss.RECOVERY, "digits-cnn", Recovery(epochs=3, first=0.1))
    out, keep = arguments["out"], arguments["keep"]
    for drops in ([20.0, 5.0], [5.0, 20.0]):  # first both of one search
        monkeypatch.setattr(zero_loss, "arguments", lambda drops=drops: SimpleNamespace(**arguments | {"drops": drops}))
        zero_loss.main()
    found = read_records(out)
    assert [record["setting"]["max_drop"] for record in found] == [20.0, 5.0]
    for record in found:
        drop = record["setting"]["max_drop"]
        assert record["baseline"]["metric_val"] - record["metric_val"] <= drop / 100
        assert record["bytes"] == (Path(keep) / f"digits-cnn-s0-{drop:g}" / "model.taut").stat().st_size
        low, high = record["test"]["difference_interval"]
        assert low <= record["test"]["difference"] <= high
        assert record["ratio"]["bytes"] > 1 and record["setting"]["reference"] in ("as trained", "trained on", "trained on twice")
        assert "/secret" not in record["command"] and record["setting"]["repeat"] == 2
    curve = read_records(out.with_name("records-curves.jsonl"))
    kept = [(record["setting"]["point"], record["bytes"]) for record in curve]  # two candidates may have one size
    folders = (keep / f"digits-cnn-s0-{drop}" for drop in (5, 20))
    measured = {(r["step"], r["bytes"]) for folder in folders for r in read_records(folder / "curve.jsonl") if r["step"]}
    assert set(kept) == measured and len(set(kept)) == len(kept) > 1
    assert not any("metric_test" in record for record in curve)


def test_a_drop_that_the_common_search_began_below_is_searched_for_by_itself(arguments):
    import zero_loss

    study = object.__new__(zero_loss.Study)
    study.args, study.how, study.rounds = SimpleNamespace(loosest=1.0, long=False), Recovery(epochs=4, first=0.02), 12
    sizes = {1.0: [(0.3, 900), (0.8, 500)], 0.1: [(0.2, 1400), (0.05, 2000), (0.1, 1700)]}  # points lost, bytes
    begun, chosen = [], []

    def search(drop, how=None, whole=False):
        begun.append((drop, how))
        assert whole == (how is not None)
        every = [(0, 10_000), *sizes[drop]]
        curve = [SimpleNamespace(step=step, bytes=size, plan={"fc": ""} if step else {}) for step, (_, size) in enumerate(every)]

        def within(budget):
            held = [(size, step) for step, (lost, size) in enumerate(sizes[drop], 1) if lost <= 100 * budget.metric_drop]
            return SimpleNamespace(best=curve[min(held, default=(0, 0))[1]])

        return SimpleNamespace(curve=curve, baseline=curve[0], within=within)

    def choose(found, drop, aim):
        chosen.append((drop, found.within(Budget(drop / 100)).best.step))

    study.search, study.choose = search, choose
    study.deliver([(drop, {"max_drop": drop}) for drop in (0.1, 0.5, 1.0)])
    assert chosen == [(1.0, 2), (0.5, 1), (0.1, 3)]
    (whole, usual), (strict, longer) = begun
    assert (whole, usual, strict) == (1.0, None, 0.1)
    assert longer.epochs == study.rounds and longer.first * 10_000 == pytest.approx(zero_loss.LARGER * 900)


@pytest.mark.parametrize(("asked", "begun_with"), [((None, None), (200, 6e-3)), ((45, 2e-3), (45, 2e-3))])
def test_long_trainings_are_for_the_smallest_drop_and_all_are_chosen_from_there(scripts, asked, begun_with):
    import zero_loss

    study, begun, chosen = object.__new__(zero_loss.Study), [], []
    args = {"long": True, "network": "lenet-300-100", "precision": "bfloat16", "first": 0.01}
    args |= dict(zip(("epochs", "lr"), asked, strict=True))
    study.args, study.rounds = SimpleNamespace(**args), 120
    study.search = lambda drop, how=None, whole=False: begun.append((drop, how, whole)) or f"search of {drop:g}"
    study.choose = lambda *what: chosen.append(what)
    study.deliver([(0.1, {"max_drop": 0.1}), (0.0, {"max_drop": 0.0})])
    how = replace(zero_loss.LONG["lenet-300-100"], precision="bfloat16", first=0.01, epochs=begun_with[0], lr=begun_with[1])
    assert begun == [(0.0, how, True)]
    assert chosen == [("search of 0", 0.1, {"max_drop": 0.1}), ("search of 0", 0.0, {"max_drop": 0.0})]


def test_where_nothing_is_trained_the_reference_is_the_network_as_trained(arguments, monkeypatch):
    import references
    import zero_loss

    monkeypatch.setitem(zero_loss.RECOVERY, "digits-cnn", Recovery(epochs=3))
    more = {"method": "untrained", "drops": [5.0, 0.5]}
    monkeypatch.setattr(references, "recover", lambda *_, **__: pytest.fail("the dense network was trained"))
    monkeypatch.setattr(zero_loss, "arguments", lambda: SimpleNamespace(**arguments | more))
    zero_loss.main()
    found = read_records(arguments["out"])
    assert [record["setting"]["max_drop"] for record in found] == [5.0, 0.5]
    for record in found:
        setting = record["setting"]
        assert setting["reference"] == "as trained" and setting["recovery"] == "none" and setting["dense_rounds"] == [0, 0]
        assert record["baseline"]["metric_val"] - record["metric_val"] <= setting["max_drop"] / 100
        assert all(plan.startswith("RateQuantize") for plan in setting["plan"].values()) and setting["plan"]


def test_a_reference_that_was_kept_is_not_trained_again(arguments, monkeypatch, capsys):
    import references
    import zero_loss

    monkeypatch.setitem(zero_loss.RECOVERY, "digits-cnn", Recovery(epochs=2))
    trainings = []
    monkeypatch.setattr(references, "recover", lambda *of, **how: trainings.append(of[4]) or recover(*of, **how))
    args = SimpleNamespace(**arguments | {"save_reference": True, "work": None})
    first = zero_loss.Study(args)
    assert [how.epochs for how in trainings] == 2 * [first.rounds]
    again = zero_loss.Study(SimpleNamespace(**vars(args) | {"save_reference": False}))
    assert len(trainings) == 2 and again.start == first.start and again.accuracy == first.accuracy
    weights = first.reference.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.reference.state_dict().items())
    # how the search trains is another matter
    other = zero_loss.Study(SimpleNamespace(**vars(args) | {"save_reference": False, "epochs": 1, "first": 0.5}))
    assert len(trainings) == 2 and (other.how.epochs, other.how.first, other.rounds) == (1, 0.5, first.rounds)
    # so is what images it trains on
    less = zero_loss.Study(SimpleNamespace(**vars(args) | {"augment": "none", "reference": "shift1", "save_reference": False}))
    assert len(trainings) == 2 and less.train.augment is None and less.accuracy == first.accuracy
    assert zero_loss.way_of(less.args) == "default"
    # of another training it is left aside, and said so
    zero_loss.Study(SimpleNamespace(**vars(args) | {"save_reference": False, "repeat": 1}))
    assert len(trainings) == 4 and "has had another training" in capsys.readouterr().out
    # images that never come again are as good for a search whose images do
    fresh = zero_loss.Study(SimpleNamespace(**vars(args) | {"repeat": None}))
    again = zero_loss.Study(SimpleNamespace(**vars(args) | {"repeat": 1}))
    assert len(trainings) == 6 and again.accuracy == fresh.accuracy
    # and what is kept stays what it is
    zero_loss.Study(SimpleNamespace(**vars(args) | {"save_reference": False, "repeat": None}))
    assert len(trainings) == 6


def test_images_as_they_are_have_a_baseline_of_their_own(arguments, digits, monkeypatch):
    import zero_loss

    monkeypatch.setitem(zero_loss.RECOVERY, "digits-cnn", Recovery(epochs=2))
    plain = train(build("digits-cnn"), load("digits"), seed=0, threads=1, **RECIPE | {"augment": None}).state_dict()
    assert not all(torch.equal(tensor, plain[name]) for name, tensor in digits.state_dict().items())
    args = SimpleNamespace(**arguments | {"augment": "none", "long": True})
    assert zero_loss.way_of(args) == "default, long, images as they are"
    study = zero_loss.Study(SimpleNamespace(**vars(args) | {"long": False}))
    assert study.train.augment is None
    before = load_file(arguments["work"] / "dense-0.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.items())


def test_long_trainings_of_a_network_without_a_recovery_are_refused(arguments):
    import zero_loss

    with pytest.raises(TautError, match="--long has no recovery for digits-cnn"):
        zero_loss.Study(SimpleNamespace(**arguments | {"long": True, "network": "digits-cnn"}))


def test_a_target_is_kept_on_validation_data_with_its_margin(arguments, monkeypatch):
    import records
    import zero_loss

    monkeypatch.setitem(zero_loss.RECOVERY, "digits-cnn", Recovery(epochs=3, first=0.1))
    more = {"targets": [15.0], "margin": 2.0}
    for _ in range(2):
        monkeypatch.setattr(records, "arguments", lambda: SimpleNamespace(**arguments | more))
        records.main()
    (record,) = read_records(arguments["out"])
    assert record["study"] == "records" and record["command"].startswith("python benchmarks/records.py")
    assert record["setting"]["target_error"] == 15.0 and record["setting"]["margin"] == 2.0
    assert record["metric_val"] >= 0.87 and record["ratio"]["bytes"] > 1
    assert record["bytes"] == (Path(arguments["keep"]) / "digits-cnn-s0-15" / "model.taut").stat().st_size
    assert records.drop(0.9896, 1.9, 0.1) == pytest.approx(0.76)
    with pytest.raises(TautError, match="begin with a better one"):
        records.drop(0.97, 2.0, 0.1)
