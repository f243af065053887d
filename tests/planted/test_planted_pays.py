"""Faults planted in what decides whether a replacement pays, each of which must turn a law red."""

from statistics import median

import pytest
from laws.compress_laws import SlowRank, blobs, check_narrowing, check_never_chosen, check_noise_bars_nothing, check_timed_once
from torch import nn

from taut.budget import Budget, compress
from taut.budget.pays import Pays
from taut.compressors import LowRank
from taut.layers import find_layers


class Blind(Pays):
    """Lets everything through."""

    def why_not(self, model, moves):
        return {}


class Mute(Pays):
    """Bars, but for another reason than the one it measured."""

    def why_not(self, model, moves):
        return dict.fromkeys(super().why_not(model, moves), "not worth it")


@pytest.mark.parametrize("fault", [Blind, Mute])
def test_a_search_that_takes_slow_rungs_or_hides_why_is_caught(fault, monkeypatch):
    monkeypatch.setattr("taut.budget.search.Pays", fault)
    net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))
    result = compress(net, val=blobs(), budget=Budget(loss_increase=5.0), minimize="params", methods=[SlowRank()], max_steps=8)
    with pytest.raises(AssertionError):
        check_never_chosen(result)


@pytest.mark.parametrize(
    "fault",
    [
        lambda found: value if (value := next(found)) > 1.05 else None,
        lambda found: value if (value := max(found)) > 1.05 else None,
        lambda found: value if (value := median(found)) > 1.0 else None,
        lambda found: None,
    ],
    ids=["one timing decides", "the worst decides", "no room for noise", "nothing is slow"],
)
def test_a_rule_that_noise_can_turn_is_caught(fault):
    with pytest.raises(AssertionError):
        check_noise_bars_nothing(lambda found: _number(fault(found)))


def _number(value):
    return value if value is None else float(value)


class Forgetful(Pays):
    """Times every pair anew."""

    def why_not(self, model, moves):
        self._known.clear()
        return super().why_not(model, moves)


class Coarse(Pays):
    """Takes every layer for the first one."""

    def _time(self, layer, module, x):
        self._one = getattr(self, "_one", None) or super()._time(layer, module, x)
        return self._one


class Crowd(Pays):
    """Times the whole batch in the name of one input."""

    def __init__(self, example, timer):
        super().__init__(example, lambda before, after, x: timer(before, after, x.repeat(7, 1)))


@pytest.mark.parametrize("fault", [Forgetful, Coarse, Crowd])
def test_a_table_of_timings_that_is_wrong_is_caught(fault):
    net = nn.Sequential(nn.Linear(12, 32), nn.Linear(32, 32), nn.Linear(32, 32))
    moves = {name: (LowRank(rank=2), LowRank(rank=2).compress(layer.weight)) for name, layer in find_layers(net).items()}
    with pytest.raises(AssertionError):
        check_timed_once(fault, net, moves, 2)


@pytest.mark.parametrize("fault", [lambda *_: None, lambda *_: "1.4 times as long on a clock"], ids=["never", "always"])
def test_a_judge_of_narrow_networks_that_does_not_look_is_caught(fault):
    with pytest.raises(AssertionError):
        check_narrowing(fault)
