"""The families of compression that study ``train-taut`` pairs with ways of training: how a trained network meets a level.

A family makes candidates for a level, networks of at most the parameters (or multiply-adds) that the level leaves; which of
them stands is decided on validation data by the study.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from taut import apply, shrink
from taut.bench.data import Splits
from taut.budget.trial import densify
from taut.compressors import Prune
from taut.errors import BudgetError, TautError
from taut.layers import find_layers
from taut.measure import fisher_diagonal, ledger
from taut.parametrizations import SparseVariationalDropout, Variational
from taut.ranks import Sensitivity, factorize, ranks_by_budget
from taut.reparametrize import Wrapped

Candidates = Iterator[tuple[str, nn.Module]]


@dataclass(frozen=True)
class Known(Sensitivity):
    """What was found of one network's layers holds for all of its levels."""

    found: dict[int, Any] = field(default_factory=dict, compare=False)

    def losses(self, model: nn.Module, layers: Any, ranks: Any, scheme: int) -> Any:
        if scheme not in self.found:
            self.found[scheme] = super().losses(model, layers, ranks, scheme)
        return self.found[scheme]


@dataclass(frozen=True)
class Trained:
    """A trained network: ``model`` in evaluation mode; ``training``, where parametrizations are still in it.

    ``skeleton``: the network with plain layers, whatever its weights; ``unit``: what a level divides, ``params`` or ``macs``;
    ``schemes``: the matricisations of convolutions that low rank tries, the same for all layers; ``augmented``: batches as
    training had them, for the averages of batch norms.
    """

    model: nn.Module
    training: Wrapped | None
    splits: Splits
    calibration: list[Any]
    skeleton: nn.Module
    unit: str = "params"
    schemes: tuple[int, ...] = (1,)
    augmented: list[Any] = field(default_factory=list)
    known: dict[str, Known] = field(default_factory=dict)

    @property
    def example(self) -> torch.Tensor:
        return self.splits.example_input


def plain(trained: Trained) -> nn.Module:
    """The network with ordinary layers, whatever its training made of them."""
    if trained.training is None:
        return trained.model
    return densify(copy.deepcopy(trained.training).finalize(), trained.skeleton).eval()


def size(model: nn.Module, trained: Trained) -> float:
    """The parameters, or the multiply-adds of one input, that the network has."""
    if trained.unit == "params":
        return sum(p.numel() for p in model.parameters())
    return float(ledger(model, trained.example).totals()["macs"])


def room(trained: Trained, level: float) -> float:
    """What a level allows, in the level's unit."""
    return size(plain(trained), trained) / level


def low_rank(trained: Trained, level: float) -> Candidates:
    """Units that do nothing are removed, ranks shared out for the room there is, factors made explicit."""
    model, fixed = plain(trained), {"unit": trained.unit, "example_input": trained.example}
    for scheme in trained.schemes:
        # outputs are products with the matrix of scheme 1
        for by in ("energy", "activation", "fisher") if scheme == 1 else ("energy", "fisher"):
            sensitivity = trained.known.setdefault(by, Known(by, None if by == "energy" else trained.calibration))
            choose = partial(ranks_by_budget, budget=room(trained, level), sensitivity=sensitivity, scheme=scheme, **fixed)
            try:
                how = by if scheme == 1 else f"{by}, scheme {scheme}"
                yield how, factorize(model, trained.example, choose, trained.calibration)
            except BudgetError:
                break  # rank 1 everywhere is too much


def narrow(trained: Trained, level: float) -> Candidates:
    """Low rank where the layers may also read fewer inputs, both shared out by what the outputs lose on training data."""
    sensitivity = Sensitivity("activation", trained.calibration, inputs=True)
    settings = {"unit": trained.unit, "example_input": trained.example, "sensitivity": sensitivity}
    choose = partial(ranks_by_budget, budget=room(trained, level), **settings)
    try:
        yield "activation", factorize(plain(trained), trained.example, choose, trained.calibration)
    except BudgetError:
        return  # the last layer alone is too much


def pruning(trained: Trained, level: float) -> Candidates:
    """The weights that matter least over all layers go; for a distribution over weights, those that are mostly noise."""
    model, count = plain(trained), int(room(trained, level))
    if trained.training is not None:
        yield "noise", by_noise(trained, count)
        return
    layers = find_layers(model)
    fisher = fisher_diagonal(model, trained.calibration, layers)
    yield "magnitude", keep(model, {n: layer.weight.detach().abs() for n, layer in layers.items()}, count)
    yield "fisher", keep(model, {n: fisher[n].sqrt() * layer.weight.detach().abs() for n, layer in layers.items()}, count)


def random(trained: Trained, level: float) -> Candidates:
    """Any weights: what a ranking has to beat."""
    model = plain(trained)
    yield "random", apply(model, {"*": Prune(density=1 / level, by="random")})


def keep(model: nn.Module, scores: dict[str, torch.Tensor], count: int) -> nn.Module:
    """The network with the ``count`` weights of the largest score over all layers, and at least one in each."""
    least = torch.cat([s.flatten() for s in scores.values()]).topk(count).values[-1]
    kept = copy.deepcopy(model)
    plan = {}
    with torch.no_grad():
        for name, layer in find_layers(kept).items():
            layer.module.weight.mul_(scores[name] >= least)
            plan[name] = Prune(density=max(1, int(layer.weight.count_nonzero())) / layer.weight.numel())
    return apply(kept, plan)


def by_noise(trained: Trained, count: int) -> nn.Module:
    """The threshold, the same for all layers, that keeps ``count`` weights."""
    copied = copy.deepcopy(trained.training)
    assert copied is not None
    pairs = list(copied.latents().values())
    signal = torch.cat([(mean.abs().log() - log_sigma).detach().flatten() for _, (mean, log_sigma) in pairs])
    least = float(signal.topk(count).values[-1])
    for latent, _ in pairs:
        # |mu| / sigma, or log alpha = 2 (log sigma - log |mu|)
        latent.threshold = -2 * least if isinstance(latent, KINDS[SparseVariationalDropout]) else float(torch.tensor(least).exp())
    return copied.finalize()


KINDS = {kind: type(kind().latent(torch.ones(1, 1))) for kind in (Variational, SparseVariationalDropout)}


def neurons(trained: Trained, level: float) -> Candidates:
    """Whole units go, by one ranking over all layers, until the network is as small as the level."""
    model, most = plain(trained), room(trained, level)
    for importance in ("magnitude", "fisher"):
        data = trained.calibration if importance == "fisher" else None
        low, high, found = 0.0, 1.0, None
        for _ in range(9):
            middle = (low + high) / 2
            try:
                small = shrink(model, trained.example, keep=middle, importance=importance, data=data)
            except TautError:
                low = middle
                continue
            if size(small, trained) <= most:
                low, found = middle, small
            else:
                high = middle
        if found is not None:
            yield importance, found


def hashed(trained: Trained, level: float) -> Candidates:
    """As it was trained: the number of values was set before."""
    assert trained.training is not None
    yield "hashed", copy.deepcopy(trained.training).finalize()


FAMILIES: dict[str, Callable[[Trained, float], Candidates]] = {
    "low-rank": low_rank, "narrow low-rank": narrow, "pruning": pruning, "random": random, "neurons": neurons, "hashed": hashed,
}  # fmt: skip
