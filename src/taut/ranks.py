"""Which rank for which layer of a trained network: by one level of energy, or to meet a budget of parameters or MACs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from taut.apply import apply
from taut.compressors.base import Compressor
from taut.compressors.coded import Factored
from taut.compressors.low_rank import LowRank, LowRankCode
from taut.compressors.tucker import Tucker
from taut.errors import BudgetError, TautError
from taut.fewer_inputs import narrow_choices
from taut.fronts import Option, allocate, convex_front
from taut.layers import Layer, find_layers, put, replaceable, select
from taut.measure import ledger
from taut.numeric.truncation import nice_ranks
from taut.sensitivity import Sensitivity, matrix_of, rank_of
from taut.shape_times import ShapeTimes
from taut.shrink import remove_zeros

Plan = dict[str, Compressor]
Choose = Callable[[nn.Module], Mapping[str, Compressor]]
Price = Callable[[str, int | None], float]
MOST = 96
"""Ranks that are considered for one layer at most, evenly spread."""


def factorable(model: nn.Module, layers: str = "*", scheme: int = 1, example_input: Any = None) -> dict[str, Layer]:
    """The layers that low rank can make smaller, of those that the pattern names; factors themselves are left alone."""
    found = find_layers(model, example_input)
    factors = {path for path, module in model.named_modules() if isinstance(module, Factored)}
    names = [n for n in select(found, layers) if n.rpartition(".")[0] not in factors]
    least = LowRank(rank=1, scheme=scheme)
    return {n: found[n] for n in names if replaceable(found[n]) and least.refuses(found[n]) is None}


def ranks_by_energy(model: nn.Module, energy: float, *, layers: str = "*", scheme: int = 1) -> Plan:
    """The same share of each layer's energy (sum of squared singular values): ``{layer: LowRank(rank)}`` for :func:`taut.apply`.

    Simple, and blind to what a layer's error does to the network: small layers are starved. Layers that would not get smaller
    are left out. ``energy=1.0`` keeps all that is not rounding: what training for low rank left.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4))
        >>> with torch.no_grad():
        ...     _ = model[0].weight.copy_(torch.randn(30, 3) @ torch.randn(3, 20))
        >>> ranks_by_energy(model, 1.0)
        {'0': LowRank(rank=3, scheme=1, by='weight')}
    """
    found = factorable(model, layers, scheme)
    chosen = {n: LowRank(rank_of(matrix_of(layer, scheme), energy), scheme) for n, layer in found.items()}
    return {n: method for n, method in chosen.items() if method.refuses(found[n]) is None}


def tucker_by_vbmf(model: nn.Module, *, layers: str = "*") -> Plan:
    """Tucker-2 with the ranks of variational Bayes for every convolution that it makes smaller (Kim et al. 2016).

    Example:
        >>> tucker_by_vbmf(nn.Sequential(nn.Conv2d(16, 32, 3)))  # weights that are noise have no rank
        {'0': Tucker(rank_in=1, rank_out=1)}
    """
    found = find_layers(model)
    fit = {n: found[n] for n in select(found, layers) if Tucker(1, 1).refuses(found[n]) is None and replaceable(found[n])}
    chosen = {n: Tucker.by_vbmf(layer.weight) for n, layer in fit.items()}
    return {n: method for n, method in chosen.items() if method.refuses(fit[n]) is None}


def ranks_by_budget(
    model: nn.Module, budget: float, sensitivity: Sensitivity | None = None, *, unit: str = "params",
    layers: str = "*", scheme: int = 1, example_input: Any = None, times: ShapeTimes | None = None, round_to: int = 1,
) -> Plan:  # fmt: skip
    """Ranks for a network of at most ``budget`` parameters (``unit="params"``), MACs (``"macs"``) or milliseconds
    (``"latency"``), shared out by sensitivity.

    The budget is that of the whole network as :class:`~taut.cost.Ledger` counts it, layers that stay dense included. The sum of
    the layers' losses is minimised by exchange on their convex fronts, the optimum of the Lagrangian (Shoham and Gersho 1988),
    and what the last exchange saved too much is spent again. MACs and milliseconds need an ``example_input``. Milliseconds are
    those of the layers alone, one after the other, each at a rank timed on the runtime that ships; ``times`` is the table to use
    (``times.total(model)``: the network as it is). Ranks are multiples of ``round_to``: processors compute channels in blocks of
    8 or 16, so that a rank of 33 may take as long as one of 40. With ``Sensitivity("activation", data,
    inputs=True)`` linear layers may also read fewer inputs: high ratios need it. A budget that the least ranks everywhere exceed
    is a :class:`~taut.errors.BudgetError` that says what they need.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        >>> plan = ranks_by_budget(model, 2500, Sensitivity("energy"))
        >>> small = apply(model, plan)
        >>> sum(p.numel() for p in small.parameters()) <= 2500
        True
    """
    if unit not in ("params", "macs", "latency") or (unit != "params" and example_input is None):
        raise TautError(f"unit={unit!r}: choose 'params', or 'macs' or 'latency' together with example_input=")
    if round_to < 1:
        raise TautError(f"round_to={round_to}: ranks are multiples of a number from 1 on")
    sensitivity = sensitivity or Sensitivity("energy")
    found = factorable(model, layers, scheme, example_input)
    shapes = {n: matrix_of(layer, scheme).shape for n, layer in found.items()}
    ranks = {n: _candidates(shape, sensitivity.by == "loss" or unit == "latency", round_to) for n, shape in shapes.items()}
    found = {n: layer for n, layer in found.items() if ranks[n]}
    losses = sensitivity.losses(model, found, ranks, scheme)
    price, total = _price(model, found, unit, scheme, times or ShapeTimes(example_input))
    choices: dict[str, list[Option]] = {}
    for n in found:
        rungs = zip(ranks[n], losses[n], strict=True)
        methods = [Option(sensitivity.method(r, scheme), price(n, r), loss) for r, loss in rungs]
        choices[n] = [Option(None, price(n, None), 0.0), *methods]
    if sensitivity.inputs:
        if unit == "latency":
            raise TautError("unit='latency': the time of layers that read fewer inputs is not in the table; leave inputs= out")
        for n, more in narrow_choices(model, found, sensitivity.batches()).items():
            uses = 1.0 if unit == "params" else float(found[n].uses or 0)
            choices[n] += [Option(method, uses * count, loss) for method, count, loss in more]
    dense = sum(options[0].cost for options in choices.values())
    room = budget - (total - dense)
    chosen = _share(choices, room, budget)
    return {n: option.method for n, option in chosen.items() if option.method is not None}


def _price(model: nn.Module, found: dict[str, Layer], unit: str, scheme: int, times: ShapeTimes) -> tuple[Price, float]:
    """What a layer costs at a rank, ``None`` for as it is; and what the whole network costs as it is."""
    if unit == "latency":
        total = times.total(model)

        def time(name: str, rank: int | None) -> float:
            layer = found[name]
            return times.dense(layer) if rank is None else times(LowRankCode.blank(layer.weight.shape, rank, scheme), layer)

        return time, total

    thin = _at_rank_one(model, found, scheme, times.example) if unit == "macs" else {}

    def count(name: str, rank: int | None) -> float:
        m, n = matrix_of(found[name], scheme).shape
        if unit == "macs":
            return found[name].macs if rank is None else rank * thin[name]
        return m * n if rank is None else rank * (m + n)

    return count, float(ledger(model, times.example).totals()[unit])


def _at_rank_one(model: nn.Module, found: dict[str, Layer], scheme: int, example: Any) -> dict[str, float]:
    """The MACs of each layer at rank 1, counted in a network that has it: the first of two factors of a convolution that strides
    runs at more positions than there are outputs.
    """
    thin = copy.deepcopy(model)
    for layer in found.values():
        put(thin, layer, LowRankCode.blank(layer.weight.shape, 1, scheme))
    macs = {row.name: row.macs for row in ledger(thin, example).rows}
    return {name: macs[layer.path] for name, layer in found.items()}


def factorize(model: nn.Module, example_input: Any, choose: Choose, data: Iterable | None = None) -> nn.Module:
    """A trained network made small: units that do nothing are removed, then the ranks chosen, then the factors explicit.

    ``choose(model) -> plan`` sees the network without those units. ``data`` is handed to :func:`taut.apply`.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4))
        >>> with torch.no_grad():
        ...     _ = model[2].weight[:, 24:].zero_()
        >>> small = factorize(model, torch.zeros(1, 20), lambda narrow: ranks_by_budget(narrow, 300))
        >>> small(torch.zeros(1, 20)).shape, sum(p.numel() for p in small.parameters()) <= 300
        (torch.Size([1, 4]), True)
    """
    small = remove_zeros(model, example_input)
    return apply(small, choose(small), example_input, data)


def _candidates(shape: Sequence[int], few: bool, round_to: int) -> list[int]:
    m, n = shape
    ranks = [r for r in range(round_to, min(m, n), round_to) if r * (m + n) < m * n]
    if few and round_to == 1:
        nice = set(nice_ranks(min(m, n)))
        return [r for r in ranks if r in nice]
    return ranks[:: -(-len(ranks) // MOST) or 1]


def _share(choices: dict[str, list[Option]], room: float, budget: float) -> dict[str, Option]:
    """One option for each layer, together within ``room``."""
    fronts = {n: convex_front(options) for n, options in choices.items()}
    least = sum(front[-1].cost for front in fronts.values())
    if least > room:
        raise BudgetError(
            f"a budget of {_told(budget)} cannot be met: the least ranks everywhere leave {_told(budget - room + least)}; remove "
            "units first (taut.shrink), or give more"
        )
    chosen = {n: front[0] for n, front in fronts.items()} | allocate(fronts, float("inf"), floor=room)
    while True:  # what the last exchange saved too much
        slack = room - sum(option.cost for option in chosen.values())
        gains = [
            ((chosen[n].predicted - o.predicted) / (o.cost - chosen[n].cost), n, o)
            for n, options in choices.items() for o in options
            if 0 < o.cost - chosen[n].cost <= slack and o.predicted < chosen[n].predicted
        ]  # fmt: skip
        if not gains:
            return chosen
        _, name, option = max(gains, key=lambda gain: gain[0])
        chosen[name] = option


def _told(amount: float) -> str:
    """Parameters and multiply-adds are whole numbers, milliseconds are not."""
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.3g}"
