"""What every result of a search must be, and what a search must never choose, as plain functions."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from taut.compressors import LowRank
from taut.compressors.coded import Factored
from taut.compressors.low_rank import LowRankCode
from taut.layers import bake


def blobs(seed=0, size=12, classes=4, count=240, image=False):
    """Batches of Gaussian classes."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (count,), generator=draw)
    x = 2 * torch.randn(classes, size, generator=draw)[y] + torch.randn(count, size, generator=draw)
    if image:
        x = x.reshape(count, 1, -1, int(size**0.5))
    return [(x[i : i + 60], y[i : i + 60]) for i in range(0, count, 60)]


def trained(net, batches, epochs=20):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    return net.eval()


def check_result(result, budget, unit, example):
    """Within budget; the ledger is that of the modules that ship, counted by torch; every dense tensor says why."""
    first = result.baseline
    if budget.metric_drop is not None:
        assert result.best.metric >= first.metric - budget.metric_drop - 1e-12
    if budget.loss_increase is not None:
        assert result.best.loss <= first.loss + budget.loss_increase + 1e-12
    plain = bake(result.model)
    assert result.ledger.parameters == sum(p.numel() for p in plain.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        plain(example[:1])
    assert result.ledger.macs == counter.get_total_flops() / 2
    for row in result.ledger.rows:
        assert (row.what == "dense") == bool(row.why), row
    if unit != "latency":
        costs = [point.ledger.totals()[unit] for point in result.curve.kept]
        assert all(b < a for a, b in zip(costs, costs[1:], strict=False)), costs


class SlowFactored(Factored):
    """Two layers with the parameters of two small ones and the time of large ones."""

    def forward(self, x):
        out = super().forward(x)
        waste = x.repeat(*[1] * (x.dim() - 1), 2048 // x.shape[-1])
        for _ in range(8):
            waste = torch.sin(waste)
        return out + 0.0 * waste.mean()


@dataclass(frozen=True, eq=False)
class SlowLowRankCode(LowRankCode):
    """Low rank with a slow module."""

    def module(self, layer):
        fast = super().module(layer)
        return fast and SlowFactored(*fast, template=self)


@dataclass(frozen=True)
class SlowRank(LowRank):
    """Low rank whose layers are far slower than the dense one, though they hold less."""

    def compress(self, w, stats=None):
        code = super().compress(w, stats)
        return SlowLowRankCode(**code.fields()) if isinstance(code, LowRankCode) else code


def check_never_chosen(result):
    """No measured point, kept or not, holds a rung that was slower than the dense layer; the reasons say so."""
    assert not [p.plan for p in result.curve if any("SlowRank" in text for text in p.plan.values())]
    weights = [row for row in result.ledger.rows if row.name.endswith("weight")]
    assert weights
    assert all("times as long as the dense layer on " in row.why for row in weights), weights


def check_noise_bars_nothing(slower):
    """One disturbed timing, or two of five, are no reason; a median above the noise is."""
    for noisy in ([1.0], [1.05] * 5, [1.5, 1.0, 1.0, 1.0], [1.5, 1.0, 1.4, 1.0, 0.9], [0.5] * 5):
        assert slower(iter(noisy)) is None, noisy
    for slow in ([1.2] * 5, [1.2, 1.0, 1.3, 0.9, 1.1], [3.0, 3.0, 3.0]):
        assert (slower(iter(slow)) or 0.0) > 1.05, slow


def check_timed_once(pays, model, moves, count):
    """``count`` different pairs of layer and replacement: each is timed once, in however many searches' steps."""
    calls = []

    def timer(before, after, x):
        calls.append((before, after, tuple(x.shape)))
        return iter([1.3] * 5), "a clock"

    table = pays(torch.zeros(7, 12), timer)
    first = table.why_not(model, moves)
    assert table.why_not(model, moves) == first
    assert len(calls) == count, calls
    assert all(shape[0] == 1 for *_, shape in calls), "one input goes through"
    assert set(first) == set(moves)
    assert all("took 1.3 times as long as the dense layer on a clock, batch 1" in why for why in first.values())


def check_narrowing(narrower_but_slower):
    """A slower network is named, an equal one is not."""
    nets = nn.Linear(2, 2), nn.Linear(2, 2)

    def timer(factor):
        return lambda before, after, example, fixed: (iter([factor] * 5), "a clock")

    assert narrower_but_slower(*nets, None, timer(1.0)) is None
    assert "1.4 times as long on a clock" in (narrower_but_slower(*nets, None, timer(1.4)) or "")
