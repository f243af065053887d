"""Units that do nothing: which they are, and taking them out without moving the outputs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from taut.errors import TautError
from taut.layers import call, evaluating
from taut.resize import CONVOLUTIONS
from taut.shrink_groups import Group, Slot, workpiece
from taut.shrink_importance import rounded_up, slices
from taut.shrink_narrow import differs, narrow, run, shaken


@dataclass(frozen=True)
class Idle:
    """``kept``: the units to keep in each group; ``folds``: what the others send on, as ``{reader's name: bias to add}``."""

    kept: list[Tensor]
    folds: dict[str, Tensor]


def idle_units(model: nn.Module, example_input: Any, groups: list[Group], round_to: int = 1) -> Idle:
    """The units of each group whose removal leaves the outputs as they are; one unit always stays, and as many idle ones as make
    the width a multiple of ``round_to``.
    """
    seen = _readings(model, example_input, {s.name for g in groups for s in g.slots if s.side == "in"})
    kept: list[Tensor] = []
    folds: dict[str, Tensor] = {}
    for group in groups:
        keep = torch.ones(group.units, dtype=torch.bool)
        if not group.mixing(model):  # a norm over channels would see fewer of them
            keep, constants = _group(model, group, seen, round_to)
            for name, shift in constants.items():
                folds[name] = folds[name] + shift if name in folds else shift
        kept.append(keep.nonzero().flatten())
    return Idle(kept, folds)


def _group(
    model: nn.Module, group: Group, seen: dict[str, list[Tensor]], round_to: int
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """Which units stay, and the biases that the readers gain from those that go."""
    held = slices(model, group)
    read = {(c.tensor, c.dim) for c in group.cuts(model) if c.side == "in"}
    unread = _all_zero([m for key, m in held.items() if key in read], group.units)
    made = {f"{s.name}.weight".lstrip(".") for s in group.slots if s.side == "out"}
    unmade = _all_zero([m for key, m in held.items() if key not in read and key[0] in made], group.units)
    readers = [s for s in group.slots if s.side == "in"]
    modules = [model.get_submodule(slot.name) for slot in readers]
    sent = [_constants(module, slot, seen.get(slot.name, [])) for module, slot in zip(modules, readers, strict=True)]
    gone = unread.clone()
    folded = torch.zeros_like(gone)
    for u in unmade.logical_and(~unread).nonzero().flatten().tolist():
        values = [value[u] for value in sent]
        silent = all(bool((v == 0).all()) for v in values)
        gone[u] = silent or all(_foldable(module, v) for module, v in zip(modules, values, strict=True))
        folded[u] = gone[u] and not silent
    count = rounded_up(group, max(1, int((~gone).sum())), round_to)
    # those that send nothing on come back first
    back = torch.argsort((2 * ~gone + folded).float(), stable=True)[: count - int((~gone).sum())]
    gone[back] = folded[back] = False
    if not bool(folded.any()):
        return ~gone, {}
    return ~gone, {s.name: _shift(m, s, v, folded) for m, s, v in zip(modules, readers, sent, strict=True)}


def _all_zero(matrices: list[Tensor], units: int) -> Tensor:
    if not matrices:
        return torch.zeros(units, dtype=torch.bool)
    return torch.stack([(m == 0).all(1) for m in matrices]).all(0)


def _readings(model: nn.Module, example_input: Any, names: set[str]) -> dict[str, list[Tensor]]:
    """What the layers that read channels get, at every call."""
    work, inputs = workpiece(model), (example_input, shaken(example_input))
    seen: dict[str, list[Tensor]] = defaultdict(list)
    for name in names:
        work.get_submodule(name).register_forward_pre_hook(lambda _m, args, name=name: seen[name].append(args[0].detach()))
    with evaluating(work), torch.no_grad():
        for batch in inputs:
            call(work, batch)
    return seen


def _channel_dim(module: nn.Module) -> int:
    return -1 - (len(module.kernel_size) if isinstance(module, CONVOLUTIONS) else 0)


def _constants(module: nn.Module, slot: Slot, inputs: list[Tensor]) -> list[Tensor]:
    """The values each unit sends to one reader: ``(places,)``, NaN unless they are the same for all inputs and positions.

    Without weights of its own a unit sends the same for every input; what may still differ is the position (padding).
    """
    if not inputs:
        return [torch.full((1,), torch.nan)] * len(slot.channels)
    flat = torch.cat([x.movedim(_channel_dim(module), 0).flatten(1) for x in inputs], 1)
    result = []
    for places in slot.channels:
        rows = flat[places.to(flat.device)]
        result.append(rows[:, 0].clone() if bool((rows == rows[:, :1]).all()) else torch.full((len(places),), torch.nan))
    return result


def _foldable(module: nn.Module, value: Tensor) -> bool:
    """Whether a constant input can move into the bias: one number a channel, a bias to take it, and no zeros at the border."""
    if bool(value.isnan().any()) or getattr(module, "bias", None) is None:
        return False
    if not isinstance(module, CONVOLUTIONS):
        return isinstance(module, nn.Linear)
    padded = module.padding not in (0, "valid") and any(module.padding) and module.padding_mode == "zeros"
    return not (padded or module.transposed or module.groups > 1)


def _shift(module: nn.Module, slot: Slot, sent: list[Tensor], folded: Tensor) -> Tensor:
    x = torch.zeros(module.weight.shape[1], dtype=torch.float64)
    for u in folded.nonzero().flatten().tolist():
        x[slot.channels[u]] = sent[u].double().cpu()
    weight = module.weight.detach().double().cpu()
    return weight.flatten(2).sum(2) @ x if weight.dim() > 2 else weight @ x


def settle(small: nn.Module, example_input: Any, groups: list[Group], idle: Idle) -> None:
    """Remove idle units from ``small`` in place and add what they sent to the biases, once the outputs are seen to agree."""
    trial = workpiece(small)
    inputs = (example_input, shaken(example_input))
    expected = [t for batch in inputs for t in run(trial, batch)]
    for model in (trial, small):
        for name, shift in idle.folds.items():
            bias = model.get_submodule(name).bias
            bias.data = (bias.detach().double() + shift.to(bias.device)).to(bias.dtype)
        if any(len(units) < group.units for group, units in zip(groups, idle.kept, strict=True)):
            narrow(model, groups, idle.kept)
        if model is trial:
            why = differs(expected, [t for batch in inputs for t in run(trial, batch)], part=0.02)
            if why is not None:
                raise TautError(f"removing idle neurons would change the outputs: {why}; no neuron was removed")
