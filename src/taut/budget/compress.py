"""``taut.compress``: a trained network, a budget, and the smallest network that the measurements allow."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

from torch import nn

from taut.budget.budget import Budget
from taut.budget.narrow import Shrink
from taut.budget.price import Meter
from taut.budget.recover import Recovery
from taut.budget.run import Method, Result, Run
from taut.budget.squeeze import WAYS
from taut.budget.trial import Setup
from taut.compressors import Chain, Codebook, LowRank, Prune, Quantize, RateQuantize
from taut.curve import Point
from taut.errors import TautError
from taut.layers import check_model
from taut.measure import evaluate
from taut.objective import Loss, Metric, Objective, batches_of, has_target, inputs_of
from taut.parametrizations import Entropy


def default_methods(minimize: str, trains: bool = True) -> list[Method]:
    """What is tried when ``methods`` is not given; ``trains``: whether there is training data to recover with.

    For bytes: where there is training data, entropy-penalised training of all layers together, then, layer by layer, pruning by
    Fisher importance and a codebook on what is left; else rate-aware quantization of all layers at one price of a bit. For
    parameters, MACs and latency: narrower layers, then low rank with its factors on a fine grid, in both matricisations.
    """
    if minimize == "bytes":
        chains: list[Method] = [Chain(Prune(by="fisher"), Codebook(k=k, keep_zero=False)) for k in (8, 16, 32)]
        return [Entropy(), *chains] if trains else [RateQuantize(by="loss")]
    return [Shrink(), *(Chain(LowRank(scheme=scheme), Quantize(bits=8)) for scheme in (1, 2))]


def compress(
    model: nn.Module,
    train: Iterable | None = None,
    val: Iterable | None = None,
    budget: Budget | None = None,
    minimize: str = "bytes",
    loss: Loss | None = None,
    metric: Metric | None = None,
    methods: Sequence[Method] | None = None,
    recover: bool | int | Recovery = True,
    seed: int = 0,
    time_limit: float | None = None,
    workdir: str | Path | None = None,
    max_steps: int | None = None,
    progress: Callable[[Point], None] | None = None,
    labels: dict[str, Any] | None = None,
) -> Result:
    """Compress a trained network while its measured loss stays within ``budget``; ``model`` is not changed.

    The search moves layers down their methods' ladders. A local model of the loss orders the moves; a move is kept if and only
    if the network *as it would ship* (coded, fine-tuned, batch norms re-estimated) is measured to be within the budget on
    ``val`` and cheaper. It ends when a measured probe of every layer's next move has failed, at ``time_limit`` seconds,
    or after ``max_steps`` steps (the same on every machine): each measures a candidate, or several of one training.

    ``train``, ``val``: iterables of batches, ``(input, target)``, dicts, or inputs alone (then the original network's outputs
    are the target). Without ``train`` nothing is fine-tuned. ``budget``: default ``Budget(metric_drop=0.0)``. ``minimize``:
    ``"bytes"``, ``"params"``, ``"macs"`` or ``"latency"``. ``methods``, tried in this order: :class:`Shrink`,
    :class:`taut.parametrizations.Entropy` or :class:`Gradual`, and compressors, each of which stands for its whole ladder;
    default :func:`default_methods`. ``recover``: whether to fine-tune, or for how many epochs a step. ``workdir``: where the
    log and the kept networks go; a second call with the same settings resumes there. ``progress`` is called with every measured
    point.

    Raises :class:`~taut.errors.BudgetError` for a budget that cannot be measured, and :class:`~taut.errors.TautError` for
    weights that are not finite or settings that do not fit; both say what to change.

    Example:
        >>> import torch, taut
        >>> x = torch.randn(64, 8); net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
        >>> result = taut.compress(net, val=[x], budget=taut.Budget(metric_drop=0.1))
        >>> result.best.bytes < result.baseline.bytes and result.best.metric >= 0.9
        True
    """
    start = time.monotonic()
    budget = budget or Budget(metric_drop=0.0)
    check_model(model)
    original = copy.deepcopy(model).eval()
    original.requires_grad_(False)
    dense = copy.deepcopy(model).eval()
    setup = _setup(original, dense, train, val, budget, minimize, (loss, metric), recover, seed, start + (time_limit or inf))
    setup = replace(setup, max_steps=max_steps)
    trains = setup.recovery is not None
    chosen = list(methods) if methods is not None else default_methods(minimize, trains)
    _check_methods(chosen, minimize, trains)
    run = Run(setup, chosen, minimize, start, workdir, progress, labels or {})
    return run.result(run.go(model))


def _setup(
    original: nn.Module, dense: nn.Module, train: Any, val: Any, budget: Budget, minimize: str, own: tuple, recover: Any,
    seed: int, deadline: float,
) -> Setup:  # fmt: skip
    loss, metric = own
    val = batches_of(val, "validation")
    train = None if train is None else batches_of(train, "training")
    first = next(iter(val))
    objective = Objective(loss, metric, None if has_target(first) or loss is not None else original)
    baseline = evaluate(dense, val, objective)
    meter = Meter(minimize, inputs_of(first), original)
    recovery = _recovery(recover, train)
    return Setup(original, train, val, objective, budget, baseline, meter, recovery, seed, deadline, meter.margin)


def _recovery(recover: bool | int | Recovery, train: Iterable | None) -> Recovery | None:
    if isinstance(recover, Recovery):
        how = recover
    elif recover is False or recover == 0:
        return None
    else:
        how = Recovery() if recover is True else Recovery(epochs=int(recover))
    return None if train is None else how


def _check_methods(methods: Sequence[Method], minimize: str, trains: bool) -> None:
    if not methods:
        raise TautError("methods is empty: give at least one, e.g. [taut.compressors.Prune()], or leave it out")
    for method in methods:
        if not isinstance(method, Method):
            raise TautError(f"{method!r} is not a method: give compressors, e.g. taut.compressors.Prune(), or taut.Shrink()")
        if isinstance(method, tuple(WAYS)) and not (trains and minimize == "bytes"):
            raise TautError(
                f"{method} trains the network towards a size in bytes: give train= data, recover= and minimize='bytes'"
            )
    if sum(isinstance(method, tuple(WAYS)) for method in methods) > 1:
        told = " and ".join(way.__name__ for way in WAYS)
        raise TautError(f"{told} all train the whole network towards a size; give one of them")
