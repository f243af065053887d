"""How much each unit of a group matters: magnitude, Fisher information, batch-norm scale, chance, or the user's own rule."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from math import floor, gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from taut.errors import TautError
from taut.layers import call
from taut.shrink_groups import Group

Slices = dict[tuple[str, int], Tensor]
Importance = Callable[[tuple[str, ...], Slices], Tensor]
Loss = Callable[[nn.Module, Any], Tensor]
KINDS = ("magnitude", "fisher", "random", "batchnorm")


def slices(model: nn.Module, group: Group, values: dict[str, Tensor] | None = None) -> Slices:
    """What each unit holds: ``{(tensor name, dimension): (units, elements)}``; of ``values`` instead of the weights, if given."""
    tensors = dict(model.named_parameters(remove_duplicate=False)) if values is None else values
    held = {}
    for cut in group.cuts(model):
        if cut.tensor in tensors:
            rows = tensors[cut.tensor].detach().movedim(cut.dim, 0)[cut.index.to(tensors[cut.tensor].device)]
            held[cut.tensor, cut.dim] = rows.flatten(1).to(torch.promote_types(rows.dtype, torch.float32)).cpu()
    return held


def magnitude(_layers: tuple[str, ...], held: Slices) -> Tensor:
    """Root of the summed squared weights of each unit, every tensor first divided by its mean over the units.

    So each member of a coupled group has one vote, whatever its size, and a group's mean is about 1: units of different
    layers can be ranked together (Li et al. 2017 for one layer; Fang et al. 2023, eq. 5, for coupled ones). Biases and norms,
    which are no weights, count only where there is nothing else.
    """
    matrices = [m for (name, _), m in held.items() if not name.endswith("bias") and m.shape[1] > 1] or list(held.values())
    votes = [m.square().sum(1, dtype=torch.float64) for m in matrices]
    return torch.stack([v / v.mean().clamp_min(1e-300) for v in votes]).sum(0).sqrt()


def scores(
    model: nn.Module, groups: list[Group], importance: str | Importance, seed: int, data: Iterable | None, loss: Loss | None
) -> list[Tensor | None]:
    """One score for each unit of each group; ``None`` where the rule does not apply to a group."""
    if callable(importance):
        return [_own(importance, group, slices(model, group)) for group in groups]
    if importance == "magnitude":
        return [magnitude(group.layers, slices(model, group)) for group in groups]
    if importance == "random":
        generator = torch.Generator().manual_seed(seed)
        return [torch.rand(group.units, generator=generator, dtype=torch.float64) for group in groups]
    if importance == "batchnorm":
        return _batch_norm(model, groups)
    if importance == "fisher":
        values = fisher_values(model, data, loss)
        return [torch.stack([m.sum(1, dtype=torch.float64) for m in slices(model, g, values).values()]).sum(0) for g in groups]
    raise TautError(f"unknown importance {importance!r}; choose one of {', '.join(KINDS)}, or give a function")


def _own(importance: Importance, group: Group, held: Slices) -> Tensor:
    score = torch.as_tensor(importance(group.layers, held), dtype=torch.float64)
    if score.shape != (group.units,) or bool(score.isnan().any()):
        raise TautError(
            f"importance of {', '.join(group.layers)}: expected {group.units} numbers, one a unit, "
            f"got shape {tuple(score.shape)}{' with NaN' if bool(score.isnan().any()) else ''}"
        )
    return score


def _batch_norm(model: nn.Module, groups: list[Group]) -> list[Tensor | None]:
    """The scale of the batch norm behind each channel (Liu et al., ICCV 2017, "network slimming")."""
    result: list[Tensor | None] = []
    for group in groups:
        scales = [
            model.get_submodule(slot.name).weight.detach().abs()[slot.channels].sum(1).double().cpu()
            for slot in group.slots
            if slot.side == "through"
            and isinstance(_submodule(model, slot.name), nn.modules.batchnorm._BatchNorm)
            and model.get_submodule(slot.name).affine
        ]
        result.append(torch.stack(scales).sum(0) if scales else None)
    if all(score is None for score in result):
        raise TautError("importance='batchnorm': no removable layer has a batch norm with weights behind it; use 'magnitude'")
    return result


def _submodule(model: nn.Module, name: str) -> nn.Module | None:
    return dict(model.named_modules()).get(name)


def fisher_values(model: nn.Module, data: Iterable | None, loss: Loss | None) -> dict[str, Tensor]:
    """``w² E[g²]`` for every parameter: the loss that zeroing it would add, by the diagonal Fisher information, times two.

    ``g`` is the gradient of one batch's mean loss, so small batches estimate it better. Theis et al. 2018, eq. 7.
    """
    if data is None:
        raise TautError("importance='fisher' needs data=: batches of (input, target)")
    work = copy.deepcopy(model).eval()
    parameters = {name: p.requires_grad_(True) for name, p in work.named_parameters() if p.is_floating_point()}
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    batches = 0
    for batch in data:
        with torch.enable_grad():
            value = (loss or cross_entropy)(work, batch)
        if not bool(value.isfinite().all()):
            raise TautError(f"importance='fisher': the loss of batch {batches} is {float(value)}; check the data and the weights")
        gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient.square()
        batches += 1
    if not batches:
        raise TautError("importance='fisher': data is empty; is it an iterator that was used up?")
    return {name: p.detach().square() * total[name] / batches for name, p in parameters.items()}


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """The mean cross-entropy of a batch ``(input, target)``."""
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        raise TautError(f"a batch is a {type(batch).__name__}, not (input, target); give loss=, a function of model and batch")
    return functional.cross_entropy(call(model, batch[0]), batch[1])


def choose(groups: list[Group], scores: list[Tensor | None], fractions: list[float], scope: str, round_to: int) -> list[Tensor]:
    """The kept units of each group. A smaller fraction always keeps a subset."""
    counts = [group.units for group in groups]
    if scope == "global":
        _rank_all(groups, scores, fractions, round_to, counts)
    else:
        for g, group in enumerate(groups):
            if scores[g] is not None:
                counts[g] = floor(fractions[g] * group.units + 0.5)
    kept = []
    for group, score, count in zip(groups, scores, counts, strict=True):
        count = group.units if score is None else _rounded(group, count, round_to)
        order = torch.arange(group.units) if score is None else torch.argsort(score, descending=True, stable=True)
        kept.append(order[:count].sort().values)
    return kept


def _step(group: Group, round_to: int) -> int:
    """Units that make a width a multiple of ``round_to``."""
    return round_to // gcd(round_to, group.width)


def _rounded(group: Group, count: int, round_to: int) -> int:
    """The nearest allowed number of units: a multiple, at least one multiple, or all."""
    step = _step(group, round_to)
    return min(max(floor(count / step + 0.5) * step, step), group.units)


def rounded_up(group: Group, count: int, round_to: int) -> int:
    """The least number of units, from ``count`` on, that makes the width a multiple; or all."""
    step = _step(group, round_to)
    return min(-(-count // step) * step, group.units)


def _rank_all(groups: list[Group], scores: list[Tensor | None], fractions: list[float], round_to: int, counts: list[int]) -> None:
    """Remove the least important units of all groups together until the fraction of channels is reached."""
    ranked = sorted(
        (float(value), g, u) for g, score in enumerate(scores) if score is not None for u, value in enumerate(score.tolist())
    )
    target = sum((1 - f) * g.units * g.width for f, g, s in zip(fractions, groups, scores, strict=True) if s is not None)
    gone = 0
    for _, g, _unit in ranked:
        if counts[g] <= min(_step(groups[g], round_to), groups[g].units):
            continue  # a layer is never emptied
        gone += groups[g].width
        if gone > target + 1e-9:
            break
        counts[g] -= 1
