"""Removing units from modules, and the proof that nothing else changed.

The proof: a network narrowed by some units must compute what the full network computes when every layer that reads those units
reads zeros. Both are run on the example input with random values in all tensors, so that zeros and ties in the real weights hide
nothing. A group that fails stays whole, with the reason.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from taut.errors import TautError
from taut.layers import call
from taut.resize import CHANNEL_NORMS, assign, shapes_of
from taut.shrink_groups import Group, Slot, module_of, tensors_of

STOPS = "the network does not run with fewer channels there"
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}


def narrow(model: nn.Module, groups: list[Group], kept: list[Tensor]) -> None:
    """Keep the units ``kept[g]`` (indices) of each group, in place; the shapes before are written down in the model."""
    state = _tensors(model)
    new: dict[str, Tensor] = {}
    for (name, dim), stays in staying(model, groups, kept).items():
        tensor = new.get(name, state[name].detach())
        new[name] = tensor.index_select(dim, stays.to(tensor.device))
    before = shapes_of(model)
    assign(model, new)
    _bare_norms(model, groups, kept)
    dense = {name: before[name] for name in new if name in before}
    model.__dict__["_taut_dense_shapes"] = {**dense, **model.__dict__.get("_taut_dense_shapes", {})}


def staying(model: nn.Module, groups: list[Group], kept: list[Tensor]) -> dict[tuple[str, int], Tensor]:
    """For each tensor and dimension that gets smaller with the groups' units, the indices that stay."""
    state = _tensors(model)
    gone: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
    for group, units in zip(groups, kept, strict=True):
        out = removed(group, units)
        for cut in group.cuts(model) if len(out) else ():
            gone[cut.tensor, cut.dim].append(cut.index[out].flatten())
    found = {}
    for (name, dim), indices in gone.items():
        stays = torch.ones(state[name].shape[dim], dtype=torch.bool)
        stays[torch.cat(indices)] = False
        found[name, dim] = stays.nonzero().flatten()
    return found


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def removed(group: Group, kept: Tensor) -> Tensor:
    """The units of a group that are not in ``kept``."""
    gone = torch.ones(group.units, dtype=torch.bool)
    gone[kept] = False
    return gone.nonzero().flatten()


def _bare_norms(model: nn.Module, groups: list[Group], kept: list[Tensor]) -> None:
    """Norms without any tensor (instance norm, by default) carry their width in an attribute only."""
    for group, units in zip(groups, kept, strict=True):
        for slot in group.slots:
            module = module_of(model, slot)
            if isinstance(module, CHANNEL_NORMS) and not (module.affine or module.track_running_stats):
                module.num_features -= len(removed(group, units)) * slot.channels.shape[1]


def mask(model: nn.Module, groups: list[Group], kept: list[Tensor]) -> None:
    """Make every layer that reads removed units read zeros instead: the full-size twin of :func:`narrow`. Tensors are replaced.

    Its weights for those inputs become zero; layer and group norms take their statistics over the kept channels only.
    """
    tensors = {name: p.detach() for name, p in model.named_parameters(remove_duplicate=False)}
    zeroed: dict[str, Tensor] = {}
    alive: dict[str, Tensor] = {}
    for group, units in zip(groups, kept, strict=True):
        out = removed(group, units)
        for cut in group.cuts(model):
            if cut.side == "in" and len(out):
                weight = zeroed.setdefault(cut.tensor, tensors[cut.tensor].clone())
                weight.index_fill_(cut.dim, cut.index[out].flatten().to(weight.device), 0.0)
        for slot in group.mixing(model):
            _silence(model, slot, out, alive)
    assign(model, zeroed)
    for name, channels in alive.items():
        _narrow_statistics(model.get_submodule(name), channels.nonzero().flatten())


def _silence(model: nn.Module, slot: Slot, out: Tensor, alive: dict[str, Tensor]) -> None:
    width = model.get_submodule(slot.name).weight.shape[0]
    alive.setdefault(slot.name, torch.ones(width, dtype=torch.bool))[slot.channels[out].flatten()] = False


def _narrow_statistics(norm: nn.Module, channels: Tensor) -> None:
    def only_kept(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        dim = -1 if isinstance(module, nn.LayerNorm) else 1
        keep = channels.to(output.device)
        x = args[0].index_select(dim, keep)
        weight, bias = (None if t is None else t[keep] for t in (module.weight, module.bias))
        if isinstance(module, nn.LayerNorm):
            y = functional.layer_norm(x, (len(keep),), weight, bias, module.eps)
        else:
            per_channel = module.num_groups == module.num_channels
            y = functional.group_norm(x, len(keep) if per_channel else module.num_groups, weight, bias, module.eps)
        return torch.zeros_like(output).index_copy(dim, keep, y)

    norm.register_forward_hook(only_kept)


def run(model: nn.Module, example_input: Any) -> list[Tensor]:
    """The outputs for the example input, in evaluation mode, as a flat list; a failure is the user's model's own."""
    with torch.no_grad():
        return [t for t in tensors_of(call(model, example_input)) if t.is_floating_point()]


def differs(a: list[Tensor], b: list[Tensor], part: float = 1.0) -> str | None:
    """How two lists of outputs differ, in words; ``None`` if they agree within ``part`` of the tolerance."""
    if [t.shape for t in a] != [t.shape for t in b]:
        return f"the outputs have shapes {[tuple(t.shape) for t in b]}, before {[tuple(t.shape) for t in a]}"
    for x, y in zip(a, b, strict=True):
        bound = TOLERANCE.get(x.dtype, 1e-3)
        if x.is_cuda:  # convolutions round to ten bits there (TF32)
            bound = max(bound, 1e-2)
        x, y = x.double(), y.double()
        gap = float((x - y).abs().nan_to_num(0.0, 0.0, 0.0).amax()) if x.numel() else 0.0
        scale = float(x.abs().nan_to_num(0.0, 0.0, 0.0).amax()) if x.numel() else 0.0
        if not torch.equal(x.isfinite(), y.isfinite()) or gap > part * bound * scale:
            return f"the outputs are off by {gap:.3g}, where the largest is {scale:.3g}"
    return None


def fault(work: nn.Module, example_input: Any, groups: list[Group], kept: list[Tensor]) -> str | None:
    """Why narrowing a workpiece like this is not the same as masking it; ``None`` when it is."""
    tensors = {id(t): t for t in (*work.parameters(), *work.buffers())}
    whole, small = (copy.deepcopy(work, dict(tensors)) for _ in range(2))  # new modules around the same tensors
    mask(whole, groups, kept)
    expected = run(whole, example_input)
    try:
        narrow(small, groups, kept)
        got = run(small, example_input)
    except Exception as error:  # whatever the model's own forward raises is the reason the group stays
        line = str(error).strip().splitlines()
        return f"{STOPS} ({line[0] if line else type(error).__name__})"
    why = differs(expected, got)
    return why and f"its channels reach the outputs on a way that cannot be followed ({why})"


def randomized(work: nn.Module, example_input: Any, seed: int = 0) -> tuple[nn.Module, Any]:
    """A copy with random values at each tensor's own scale, and an input that is not constant."""
    generator = torch.Generator().manual_seed(seed)
    work = copy.deepcopy(work)
    with torch.no_grad():
        # buffers of more dimensions are tables (masks, positions), whose values mean something
        for tensor in (*work.parameters(), *(b for b in work.buffers() if b.dim() == 1)):
            if tensor.is_floating_point() and tensor.numel():
                tensor.copy_(_random_like(tensor, generator))
    return work, _varied(example_input, generator)


def _random_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    scale = float(tensor.detach().float().pow(2).mean().sqrt())
    noise = torch.randn(tensor.shape, generator=generator)
    if tensor.dim() < 2:  # norms and biases: near their size, all different; variances stay positive
        base = tensor.detach().float().cpu()
        value = torch.where(base == 0, 0.1 * noise, base * (0.75 + 0.5 * torch.rand(tensor.shape, generator=generator)))
    else:
        fan_in = max(tensor[0].numel(), 1)
        value = noise * (scale if 0 < scale < float("inf") else fan_in**-0.5)
    return value.to(tensor.dtype)


def _varied(batch: Any, generator: torch.Generator) -> Any:
    if isinstance(batch, dict):
        return type(batch)((k, _varied(v, generator)) for k, v in batch.items())
    if isinstance(batch, list | tuple):
        return [_varied(item, generator) for item in batch]
    if isinstance(batch, Tensor) and batch.is_floating_point() and batch.numel() and bool((batch == batch.flatten()[0]).all()):
        return torch.randn(batch.shape, generator=generator).to(batch)
    return batch


def shaken(batch: Any, seed: int = 0) -> Any:
    """Another input of the same shapes: what stays the same for both did not come from the input. Indices are kept."""
    generator = torch.Generator().manual_seed(seed)
    if isinstance(batch, dict):
        return {k: shaken(v, seed) for k, v in batch.items()}
    if isinstance(batch, list | tuple):
        return [shaken(item, seed) for item in batch]
    if isinstance(batch, Tensor) and batch.is_floating_point():
        noise = torch.randn(batch.shape, generator=generator).to(batch)
        return batch + noise * (batch.std(correction=0) if bool((batch != batch.flatten()[:1]).any()) else 1.0)
    return batch


def sound(work: nn.Module, example_input: Any, groups: list[Group], seed: int = 0) -> tuple[list[Group], dict[str, str]]:
    """The groups whose removal from a randomized network is proved to be masking, and ``{layer: reason}`` for the others."""
    trials = [_trial(groups, seed, share) for share in (0.0, 0.5)]
    if not any(fault(work, example_input, groups, kept) for kept in trials):
        return groups, {}
    good: list[int] = []
    reasons: dict[str, str] = {}
    for g, group in enumerate(groups):
        chosen = [*good, g]
        tried = (fault(work, example_input, [groups[i] for i in chosen], [kept[i] for i in chosen]) for kept in trials)
        why = next((w for w in tried if w), None)
        if why is None:
            good = chosen
        else:
            reasons.update(dict.fromkeys(group.layers, why))
    return [groups[g] for g in good], reasons


def _trial(groups: list[Group], seed: int, share: float) -> list[Tensor]:
    """A random choice of kept units that removes this share of each group, at least one unit where there are two."""
    generator = torch.Generator().manual_seed(seed)
    kept = []
    for group in groups:
        gone = min(max(int(share * group.units), 1), group.units - 1)
        kept.append(torch.randperm(group.units, generator=generator)[gone:].sort().values)
    return kept


def check_runs(work: nn.Module, example_input: Any) -> None:
    """Raise unless the model runs on the example input, and gives the same outputs twice."""
    try:
        first, second = run(work, example_input), run(work, example_input)
    except Exception as error:
        raise TautError(f"the model fails on example_input: {error}") from error
    if differs(first, second) is not None:
        raise TautError(
            "the model's outputs differ from run to run in evaluation mode, so that no removal can be checked; "
            "does it call dropout without training=self.training?"
        )
