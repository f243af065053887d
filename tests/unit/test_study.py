"""The studies: plans are whole, choices are by validation data alone, and pages say what the records say."""

import copy
import dataclasses
import doctest
import importlib
from pathlib import Path

import pytest
import torch

from taut.bench.networks import build
from taut.layers import find_layers
from taut.records import append_record
from taut.strengths import even

ROOT = Path(__file__).parents[2]


def test_the_pages_say_what_the_records_say(scripts):
    import tables

    records = tables.studies()
    for page in tables.PAGES:
        text = page.read_text(encoding="utf-8")
        assert tables.TABLE.search(text), page
        assert tables.filled(text, records) == text, "run python benchmarks/tables.py"


def test_a_table_without_records_says_so(scripts):
    import tables

    assert tables.table([record(1, 2, 0.9) | {"dataset": "other"}], "net", "data", "low-rank") == "No records yet."
    assert tables.chosen([], "zero-loss", "net", "data") == "No records yet."


def test_a_table_of_chosen_points_has_the_median_and_every_seed(scripts):
    import tables

    def point(seed, drop, ratio, size, change, methods="now"):
        return {
            "network": "net", "dataset": "data", "seed": seed, "setting": {"max_drop": drop, "methods": methods},
            "ratio": {"bytes": ratio}, "bytes": size, "metric_test": 0.98 - change,
            "test": {"difference": -change, "difference_interval": [-0.01, 0.002]},
        }  # fmt: skip

    records = [point(1, 0.5, 90.0, 2000, 0.004), point(0, 0.5, 70.0, 3000, 0.001), point(2, 0.5, 80.0, 2500, 0.002)]
    records = [*records, point(1, 0.5, 10.0, 9000, 0.0, "a larger file"), point(0, 0.0, 40.0, 9000, 0.0)]
    records.append(point(1, 0.5, 99.0, 100, 0.0, "now, images as they are"))
    *_, other = tables.chosen(records, "zero-loss", "net", "data, images as they are").splitlines()
    assert other.startswith("| 0.5 | 99 | 100 |")
    *_, row = tables.chosen(records, "zero-loss", "net", "data").splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:3] == ["0.5", "80 <small>70–90</small>", "2,500 <small>2,000–3,000</small>"]
    assert cells[3:5] == ["2.20 <small>2.10–2.40</small>", "+0.20"]
    assert cells[5] == "+0.10 (-0.20 to +1.00); +0.40 (-0.20 to +1.00); +0.20 (-0.20 to +1.00)"


def steered(way, value, seed, metric, size, loss=0.05, **more):
    told = {"way": way, "value": value, "arrived": size is not None, "max_drop": 0.005}
    record = {"method": way, "seed": seed, "setting": told, "baseline": {"params": 1000, "metric_val": 0.98, "metric_test": 0.97}}
    if size is not None:
        record |= {"bytes": size, "metric_val": metric, "metric_test": metric - 0.02, "loss_val": loss}
    return record | more


def test_the_tables_of_shared_values_say_what_was_chosen_and_what_failed(scripts):
    import pull_tables

    steps = [
        {"measured": 0.01, "predicted": 0.0, "error": 0.002, "kept": True},
        {"measured": 0.0, "predicted": 0.003, "error": 0.002, "kept": False},
    ]
    records = [
        steered("k-means", 8, 0, 0.98, 400, 0.05), steered("k-means", 4, 0, 0.975, 200, 0.06),
        steered("k-means", 8, 1, 0.976, 500, 0.07),
        steered("steering", 8, 0, 0.98, 380, 0.04, steps=steps), steered("steering", 4, 0, None, None, steps=steps[1:]),
    ]  # fmt: skip
    assert pull_tables.within(records).splitlines()[2:] == [
        "| steering | 380 (10.5×), test +1.00 | 380 (10.5×), test +1.00 | 380 (10.5×), test +1.00 | 380 (10.5×), test +1.00 |",
        "| k-means | — | — | 350 (14.0×), test +1.45 | 350 (14.0×), test +1.45 |",
    ]
    assert pull_tables.codebooks(records).splitlines()[2:] == [
        "| 8 | **0.0400**, 4.00 %, 380 bytes | 0.0600, 4.20 %, 450 bytes |", "| 4 | — | **0.0600**, 4.50 %, 200 bytes |"
    ]  # fmt: skip
    assert pull_tables.predicted(records).splitlines()[2:] == [
        "| steering | 1 of 2 | 0.5 (1×) | 1 of 3 | 0.0030 | 0.0020 | 2 of 3 |"
    ]


def test_every_plan_names_ways_and_families_that_exist(scripts):
    from families import FAMILIES
    from plans import PLANS, SLICE
    from trainings import WAYS

    for plan in PLANS.values():
        assert set(plan.pairs) <= set(WAYS)
        assert {family for families in plan.pairs.values() for family in families} <= set(FAMILIES)
    assert set(SLICE) <= set(WAYS)
    for way in WAYS.values():
        assert len(way.strengths) in (1, 4) or way.families == ("hashed",), "every way gets the same number of tries"


def record(strength, level, metric_val, **more):
    setting = {"way": "l1", "strength": strength, "level": level}
    return {"network": "net", "seed": 0, "method": "low-rank", "setting": setting, "metric_val": metric_val, **more}


def test_the_strengths_that_win_a_level_on_validation_data_go_on(scripts):
    from plans import Plan
    from train_taut import winners
    from trainings import WAYS

    weak, middle, strong, strongest = WAYS["l1"].strengths
    plan = Plan(1, 1)
    wins = {2: weak, 5: strong, 10: strong, 40: strong}
    records = [
        record(s, level, 0.9 if s == best else 0.8, metric_test=0.0 if s == best else 1.0)
        for level, best in wins.items()
        for s in WAYS["l1"].strengths
    ]
    # where nothing is left of any, none wins; other seeds, networks and the network before compression have no say
    records += [record(strongest, 80, 0.5), record(weak, 80, 0.4)]
    records += [record(middle, level, 1.0, seed=1) for level in wins] + [record(middle, 1, 1.0)]
    records += [record(middle, level, 1.0) | {"network": "other"} for level in wins]
    assert winners(records, "net", "l1", plan) == [0, 2]
    assert winners([], "net", "hashed", plan) == list(range(6))


def test_specs_of_a_run_of_a_few_minutes(scripts, tmp_path):
    from train_taut import specs

    (spec,) = specs("lenet-300-100", "mnist", True, tmp_path / "none.jsonl")
    assert sorted(grid["way"] for grid in spec["grid"]) == [["group lasso"], ["nuclear + sparse group"], ["plain"]]
    assert all(grid["seed"] == [0] for grid in spec["grid"]) and spec["fixed"]["epochs"] == 5


def test_the_strengths_of_a_plan_exist(scripts, tmp_path):
    from plans import PLANS
    from train_taut import specs

    for network, plan in PLANS.items():
        assert set(plan.ranks) | set(plan.strengths) <= set(plan.pairs)
        grids = next(iter(specs(network, "any", False, tmp_path / "none.jsonl")))["grid"]
        assert sorted(grid["way"][0] for grid in grids) == sorted(plan.pairs)
        for grid in grids:
            (way,) = grid["way"]
            assert grid["rank"] == list(plan.ranks.get(way, range(len(plan.tried(way)))))
            assert all(rank < len(plan.tried(way)) for rank in grid["rank"])


@pytest.mark.parametrize("way", ["nuclear", "nuclear + sparse group", "trained rank pruning", "l1"])
def test_a_plan_in_multiply_adds_prices_those_and_sees_its_matrices(scripts, way):
    from fitting import priced, seen
    from trainings import WAYS

    model, example = build("digits-cnn"), torch.zeros(1, 1, 8, 8)
    layers = find_layers(model, example)
    first = WAYS[way].at(0.9 if way == "trained rank pruning" else 1e-5).regularizer
    convolution = torch.randn(6, 5, 3, 3)
    ranks = getattr(seen(first, "matrix2"), "matrix" if way == "nuclear + sparse group" else "view", None)
    assert ranks == (None if way == "l1" else "matrix2")
    assert seen(first, "matrix").value(convolution) == first.value(convolution)
    if way == "trained rank pruning":
        return  # its strengths are those of its authors
    shared = even(model, {"*": priced(first, model, example)}, "macs", example)
    total = sum(float(r.value(layers[name].weight.detach())) for name, r in shared.items())
    weights = sum(layer.weight.numel() for layer in layers.values())
    assert total == pytest.approx(weights * sum(getattr(first, name) for name in first.strengths), rel=1e-4)
    for name, r in shared.items():
        part = float(r.value(layers[name].weight.detach())) / total
        assert part == pytest.approx(layers[name].macs / sum(layer.macs for layer in layers.values()), rel=1e-4)


def test_a_later_seed_runs_what_won_and_trainings_that_others_use_first(scripts, tmp_path):
    from train_taut import specs
    from trainings import WAYS

    out, strengths = tmp_path / "out.jsonl", {way: WAYS[way].strengths for way in ("l2", "l2, narrow")}
    for way, won in (("l2", 2), ("l2, narrow", 1)):
        setting = {"way": way, "strength": strengths[way][won], "level": 10}
        append_record(out, {"network": "lenet-300-100", "seed": 0, "method": "any", "metric_val": 0.9, "setting": setting})
    found = [spec["grid"] for spec in specs("lenet-300-100", "mnist", False, out)]
    won = [{"way": ["l2"], "rank": [2]}, {"way": ["hashed"], "rank": [0, 1, 2, 3, 4, 5]}, {"way": ["l2, narrow"], "rank": [1]}]
    assert found[1:] == [[{**grid, "seed": [seed]} for grid in won] for seed in (1, 2)]
    names = [WAYS[grid["way"][0]].name for grid in found[0]]
    assert names == sorted(names, key=lambda name: name is not None)


def test_sensitivities_are_found_once_a_network_and_change_nothing(scripts, monkeypatch):
    from families import Trained, low_rank, size

    from taut.bench.data import Batches, load
    from taut.bench.networks import build
    from taut.sensitivity import Sensitivity

    splits, net, calls = load("digits"), build("digits-cnn").eval(), []
    calibration = list(Batches(splits.train, 256, seed=0))[:2]
    losses = Sensitivity.losses
    monkeypatch.setattr(Sensitivity, "losses", lambda self, *more: calls.append(self.by) or losses(self, *more))

    def networks():
        return Trained(net, None, splits, calibration, net, "macs", (1, 2), calibration)

    def sizes(trained, level):
        return [(how, size(small, trained)) for how, small in low_rank(trained, level)]

    shared = networks()
    together = [sizes(shared, level) for level in (1.5, 4)]
    assert sorted(calls) == ["activation", "energy", "energy", "fisher", "fisher"], "once for each matricisation"
    assert together == [sizes(networks(), level) for level in (1.5, 4)]


def test_batch_norms_take_their_averages_of_images_as_in_training(scripts, monkeypatch):
    from fitting import fit
    from plans import Plan
    from train_taut import best
    from trainings import Training

    from taut.bench import augment
    from taut.bench.data import load

    monkeypatch.setitem(augment.AUGMENTATIONS, "brighter", lambda x, fill, random: x + 5)
    splits = load("digits")
    splits = dataclasses.replace(splits, train=splits.train.take(512))
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 10))
    trained = fit(Plan(1, 0, augment="brighter"), Training(), net, splits, 1, 0)
    _, chosen = best([("as it is", copy.deepcopy(net))], trained)
    assert torch.allclose(chosen[0].running_mean, splits.train.x.mean().reshape(1) + 5, atol=1e-4)


@pytest.mark.parametrize("name", ["md_tables", "records", "within"])
def test_the_examples_of_the_studies_run(scripts, name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0 and found.failed == 0
