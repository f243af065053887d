"""Groups: the channels of a network that can only be removed together.

A *unit* is a set of places that go together: a filter, its entry in the batch norm behind it, the columns of every layer that
reads it. A *group* is a set of units with the same places in the same modules. :mod:`taut.shrink_graph` finds them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from taut.resize import CONVOLUTIONS

MIXING_NORMS = (nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Slot:
    """Where the units of a group sit in one module.

    ``side``: ``out`` (it makes the channels), ``in`` (it reads them) or ``through`` (norms, depthwise convolutions, plain
    parameters); ``dim``: the dimension of a plain parameter; ``channels``: ``(units, places)`` indices.
    """

    name: str
    side: str
    dim: int
    channels: Tensor


@dataclass(frozen=True)
class Cut:
    """A tensor of the ``state_dict`` that loses ``index[u]`` along ``dim`` when unit ``u`` goes."""

    tensor: str
    dim: int
    index: Tensor
    side: str


@dataclass(frozen=True)
class Group:
    """Units that are alike: each has the same number of channels in the same modules.

    ``layers``: the layers whose outputs these are; ``width``: channels of the first layer that one unit stands for.
    """

    layers: tuple[str, ...]
    slots: tuple[Slot, ...]
    width: int

    @property
    def units(self) -> int:
        return len(self.slots[0].channels)

    @property
    def flattened(self) -> bool:
        """Whether a linear layer reads several inputs for one channel: a feature map was flattened."""
        return any(slot.side == "in" and slot.channels.shape[1] > self.width for slot in self.slots)

    def cuts(self, model: nn.Module) -> list[Cut]:
        """The tensors of ``model`` that get smaller with this group."""
        return [cut for slot in self.slots for cut in _cuts(model, slot)]

    def mixing(self, model: nn.Module) -> list[Slot]:
        """The slots in norms whose statistics are taken over several channels."""
        return [slot for slot in self.slots if isinstance(module_of(model, slot), MIXING_NORMS)]


def module_of(model: nn.Module, slot: Slot) -> nn.Module | None:
    """The slot's module; ``None`` for a plain parameter."""
    path, _, key = slot.name.rpartition(".")
    if key in model.get_submodule(path)._parameters:
        return None
    return model.get_submodule(slot.name)


def _cuts(model: nn.Module, slot: Slot) -> list[Cut]:
    module = module_of(model, slot)
    places = slot.channels
    if module is None:
        return [Cut(slot.name, slot.dim, places, slot.side)]
    dims: dict[str, int] = {}
    if slot.side == "in":
        if isinstance(module, CONVOLUTIONS):
            if depthwise(module):
                return []  # its rows go with its outputs, which are in the same unit
            dims["weight"] = 0 if module.transposed else 1
            per_group = module.weight.shape[1] if not module.transposed else module.in_channels
            if module.groups > 1:  # its groups read the same positions
                places = torch.stack([torch.unique(row % per_group) for row in places])
        else:
            dims["weight"] = 1
    elif isinstance(module, nn.Embedding):
        dims["weight"] = 1
    else:
        first = 1 if isinstance(module, CONVOLUTIONS) and module.transposed and not depthwise(module) else 0
        dims = {"weight": first, "bias": 0, "running_mean": 0, "running_var": 0}
    prefix = f"{slot.name}." if slot.name else ""
    return [Cut(f"{prefix}{key}", d, places, slot.side) for key, d in dims.items() if getattr(module, key, None) is not None]


def depthwise(module: nn.Module) -> bool:
    """Whether each channel is convolved on its own, so that channels and groups go together."""
    return isinstance(module, CONVOLUTIONS) and 1 < module.groups == module.in_channels


def workpiece(model: nn.Module) -> nn.Module:
    """A copy to trace and try on: evaluation mode, every parameter trainable, without the user's hooks."""
    work = copy.deepcopy(model).eval()
    for module in work.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
    for parameter in work.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return work


def tensors_of(out: Any) -> list[Tensor]:
    """All tensors in a nest of tuples, lists and dicts."""
    if isinstance(out, Tensor):
        return [out]
    if isinstance(out, dict):
        out = list(out.values())
    return [t for item in out for t in tensors_of(item)] if isinstance(out, list | tuple) else []
