"""Whole neurons and filters removed: a network that really is narrower, and an ordinary one.

Zeros scattered in a weight make no matrix product smaller; a missing neuron does. :func:`shrink` removes the least important
units, :func:`remove_zeros` those that training (a group lasso) has made useless, without changing the outputs, and
:func:`shrinkable` says what could be removed and why the rest stays.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from taut.binary import Sign
from taut.compressors.coded import Factored, attached
from taut.errors import LayerError, TautError
from taut.flat import flatten, rebuild
from taut.layers import Layer, bake, find_layers, put, select
from taut.shrink_graph import find_groups
from taut.shrink_groups import Group, workpiece
from taut.shrink_importance import Importance, Loss, choose, scores
from taut.shrink_narrow import STOPS, check_runs, fault, narrow, randomized, sound, staying
from taut.shrink_zeros import idle_units, settle

log = logging.getLogger(__name__)

Keep = float | Mapping[str, float]
SCOPES = ("global", "layer")
"""What units are ranked in."""


def shrink(
    model: nn.Module,
    example_input: Any,
    keep: Keep = 0.5,
    *,
    importance: str | Importance = "magnitude",
    scope: str = "global",
    round_to: int = 1,
    protect: Iterable[str] = (),
    data: Iterable | None = None,
    loss: Loss | None = None,
    seed: int = 0,
) -> nn.Module:
    """A copy of ``model`` without its least important neurons and filters.

    Channels that residual joins, batch norms, flattening, concatenation or grouped convolutions couple go together. Inputs and
    outputs of the network keep their size. Every removal is proved on ``example_input`` to equal a network in which the
    removed channels are read as zeros; layers for which that fails stay whole (:func:`shrinkable` says why). Values of the kept
    weights, ``requires_grad`` and running statistics stay as they are: fine-tune afterwards. Binary weights stay binary; since
    they are all of one size, rank their units by ``fisher``.

    Args:
        example_input: A batch, with values as in use: a tensor, a tuple of arguments or a dict of keywords.
        keep: Fraction of channels that stays, over all removable layers (``scope="global"``, one ranking) or in each of them
            (``"layer"``); or ``{pattern: fraction}`` for some layers only, each its own. Coupled layers keep the largest one.
        importance: ``magnitude``; ``fisher`` (``w² E[g²]`` over ``data``, batches of ``(input, target)`` under cross-entropy,
            or any batches under ``loss(model, batch)``); ``batchnorm`` (its scale); ``random`` (from ``seed``); or a function of
            ``layers`` (names) and ``slices`` (``{(tensor name, dimension): (units, elements)}``) that returns a score a unit.
        round_to: Kept widths are multiples of this (8 suits most runtimes), and at least this, or stay as they are.
        protect: Patterns of layers that stay whole.

    Raises:
        TautError: the network fixes a size in ``forward`` (``x.view(-1, 800)``), holds compressed layers, or nothing would be
            removed though ``keep`` is less than 1; the message says why.

    A pattern that names no layer, or none that can be narrowed, is a ``LayerError``.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> shrink(model, torch.zeros(1, 4), keep=0.5)[0]
        Linear(in_features=4, out_features=4, bias=True)
    """
    _check_settings(keep, scope, round_to)
    coded, plain = _cuttable(model)
    trial, groups, reasons = _analyse(plain, example_input, seed)
    groups, fractions = _wanted(plain, groups, reasons, keep, tuple(protect))
    values = scores(plain, groups, importance, seed, data, loss) if groups else []
    kept = choose(groups, values, fractions, "layer" if isinstance(keep, Mapping) else scope, round_to)
    if all(len(units) == group.units for group, units in zip(groups, kept, strict=True)):
        if min(keep.values() if isinstance(keep, Mapping) else [keep]) < 1:
            raise TautError(_nothing(keep, round_to, groups, reasons))
        return copy.deepcopy(model)
    _prove(trial, groups, kept)
    small = copy.deepcopy(plain)
    narrow(small, groups, kept)
    _recode(small, plain, coded, groups, kept)
    _report(groups, kept, reasons)
    return small


def remove_zeros(model: nn.Module, example_input: Any, *, round_to: int = 1) -> nn.Module:
    """A copy of ``model`` without the units that do nothing; the outputs stay what they are.

    A unit goes if every layer that reads it has zero weights for it, or if its own weights are exactly zero and the constant it
    then sends on is zero, or can be added to the biases of its readers (linear layers, convolutions without padding). This is
    what a group lasso leaves (:mod:`taut.regularizers`). Outputs are compared on ``example_input`` before the result is
    returned. With ``round_to`` widths are multiples of it (8 suits most runtimes, which take longer for 63 than for 64), or stay
    as they are. Nothing to remove is no error: the copy is then as large as the model. A network with compressed layers, or one
    that cannot be run on ``example_input``, is a ``TautError``.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> with torch.no_grad():
        ...     _ = model[2].weight[:, :5].zero_()
        >>> remove_zeros(model, torch.zeros(1, 4))[0]
        Linear(in_features=4, out_features=3, bias=True)
    """
    _check_round(round_to)
    coded, plain = _cuttable(model)
    _, groups, reasons = _analyse(plain, example_input, seed=0)
    idle = idle_units(plain, example_input, groups, round_to)
    small = copy.deepcopy(plain)
    settle(small, example_input, groups, idle)
    _recode(small, plain, coded, groups, idle.kept)
    _report(groups, idle.kept, reasons)
    return small


def shrinkable(model: nn.Module, example_input: Any) -> dict[str, str | int]:
    """For each layer the number of output channels that can be removed, or the reason why it stays as it is.

    Example:
        >>> import torch
        >>> shrinkable(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 4))
        {'0': 8, '2': "its channels are the network's output"}
    """
    plain = _cuttable(model)[1]
    _, groups, reasons = _analyse(plain, example_input, seed=0)
    free: dict[str, str | int] = {}
    for name in find_layers(plain):
        channels = sum(
            slot.channels.numel() for g in groups for slot in g.slots if slot.name == name and slot.side in ("out", "through")
        )
        free[name] = channels or reasons.get(name, "its weight is tied to another layer's")
    return free


def _analyse(model: nn.Module, example_input: Any, seed: int) -> tuple[tuple[nn.Module, Any], list[Group], dict[str, str]]:
    """A randomized network with its input to try on, the groups proved removable, and why the other layers stay."""
    _check_plain(model)
    work = workpiece(model)
    if any(isinstance(module, Sign) for module in work.modules()):
        # rounding must not turn signs: what differs by it there differs by 2
        work, example_input = work.double(), rebuild(example_input, iter([_wide(t) for _, t in flatten(example_input)]))
    check_runs(work, example_input)
    groups, reasons = find_groups(work, example_input)
    trial = randomized(work, example_input, seed)
    good, failed = sound(*trial, groups, seed)
    for group in groups:
        why = failed.get(group.layers[0])
        if why is not None and why.startswith(STOPS) and group.flattened:
            names = " and ".join(repr(n) for n in group.layers)
            fix = f"in forward, write x.flatten(1) in place of x.view or x.reshape with a fixed size, or protect {names}"
            failed.update(dict.fromkeys(group.layers, f"{why}; {fix}"))
    return trial, good, {**reasons, **failed}


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _cuttable(model: nn.Module) -> tuple[dict[str, Layer], nn.Module]:
    """The layers whose codes can lose rows and columns, and the model with these codes decoded."""
    coded = {}
    for name, layer in find_layers(model).items():
        code = attached(layer.module, layer.parameter)
        if code is not None and all(code.cut(dim, torch.arange(layer.weight.shape[dim])) is not None for dim in (0, 1)):
            coded[name] = layer
    parametrized = sum(parametrize.is_parametrized(module) for module in model.modules())
    # with others beside them nothing can be removed, and the check says so
    return (coded, bake(model)) if coded and len(coded) == parametrized else ({}, model)


def _recode(small: nn.Module, plain: nn.Module, coded: Mapping[str, Layer], groups: list[Group], kept: list[Tensor]) -> None:
    """Put the codes back, of what is left of the weights."""
    stays = staying(plain, groups, kept)
    for layer in coded.values():
        code = attached(layer.module, layer.parameter)
        for (tensor, dim), indices in stays.items():
            if tensor == layer.path and code is not None:
                code = code.cut(dim, indices)
        if code is not None:
            put(small, layer, code)


def _check_plain(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, Factored) or parametrize.is_parametrized(module):
            raise TautError(
                f"{name or 'the model'}: its weight is not a plain tensor (it is compressed or parametrized), so that no neuron "
                "can be removed; shrink first, then compress (torch's own: remove_parametrizations first)"
            )
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and "weight" not in module._parameters:
            raise TautError(f"{name}: its weight is computed by a hook (weight_norm, pruning …); remove the hook first")


def _check_settings(keep: Keep, scope: str, round_to: int) -> None:
    for fraction in keep.values() if isinstance(keep, Mapping) else [keep]:
        if not 0 < fraction <= 1:
            raise TautError(f"keep={fraction}: a fraction of the channels, above 0 and at most 1")
    if isinstance(keep, Mapping) and not keep:
        raise TautError("keep is an empty dict; give {pattern: fraction}")
    if scope not in SCOPES:
        raise TautError(f"scope={scope!r}: choose {' or '.join(map(repr, SCOPES))}")
    _check_round(round_to)


def _check_round(round_to: int) -> None:
    if round_to < 1 or int(round_to) != round_to:
        raise TautError(f"round_to={round_to}: a whole number, 1 or more")


def _wanted(
    model: nn.Module, groups: list[Group], reasons: dict[str, str], keep: Keep, protect: tuple[str, ...]
) -> tuple[list[Group], list[float]]:
    """The groups to narrow and their fractions, after patterns and protection."""
    names = [n for n, _ in model.named_modules() if n in {*reasons, *(x for g in groups for x in g.layers)}]
    held = {n for pattern in protect for n in select(names, pattern)}
    _check_fixed_sizes(reasons, held, names, keep)
    free = [g for g in groups if not held.intersection(g.layers)]
    if not isinstance(keep, Mapping):
        return free, [keep] * len(free)
    chosen: dict[str, float] = {}
    for pattern, fraction in keep.items():
        matched = select(names, pattern)
        if not any(n in g.layers for g in free for n in matched):
            why = "; ".join(f"{n}: {reasons.get(n, 'protected')}" for n in matched)
            raise LayerError(f"keep[{pattern!r}]: no layer of this name can be narrowed ({why})")
        chosen.update({n: max(fraction, chosen.get(n, 0.0)) for n in matched})
    free = [g for g in free if any(n in chosen for n in g.layers)]
    return free, [max(chosen[n] for n in g.layers if n in chosen) for g in free]


def _check_fixed_sizes(reasons: dict[str, str], held: set[str], names: list[str], keep: Keep) -> None:
    wanted = {n for p in keep for n in select(names, p)} if isinstance(keep, Mapping) else set(names)
    for name, why in reasons.items():
        if "x.flatten(1)" in why and name in wanted - held:
            raise TautError(f"{name}: {why} (protect=({name!r},))")


def _prove(trial: tuple[nn.Module, Any], groups: list[Group], kept: list[Tensor]) -> None:
    why = fault(*trial, groups, kept)
    if why is not None:
        layers = ", ".join(n for g, units in zip(groups, kept, strict=True) if len(units) < g.units for n in g.layers)
        raise TautError(f"removing channels of {layers} together does more than mask them: {why}; protect some of them")


def _nothing(keep: Keep, round_to: int, groups: list[Group], reasons: dict[str, str]) -> str:
    if groups:
        widths = ", ".join(f"{g.layers[0]}: {g.units * g.width}" for g in groups)
        return f"keep={keep} with round_to={round_to} removes nothing from widths {widths}; lower keep or round_to"
    stays = "; ".join(f"{name or 'the layer'}: {why}" for name, why in reasons.items()) or "all layers are protected"
    return f"keep={keep} removes nothing, because no layer can be narrowed: {stays}"


def _report(groups: list[Group], kept: list[Tensor], reasons: dict[str, str]) -> None:
    for group, units in zip(groups, kept, strict=True):
        log.debug("%s: %d of %d channels kept", "+".join(group.layers), len(units) * group.width, group.units * group.width)
    for name, why in reasons.items():
        log.debug("%s stays as it is: %s", name, why)
