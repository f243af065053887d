"""Biases that nothing depends on become zero: where weights were removed they stay behind, and would cost bits."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from taut.layers import evaluating, find_layers
from taut.objective import Objective

BATCHES = 4
"""Of the data, that say what the loss depends on."""


def silence(model: nn.Module, data: Iterable[Any], objective: Objective) -> nn.Module:
    """A copy in which every entry of a bias or a norm's vector is zero that the loss of some batches does not depend on at all.

    Such an entry belongs to a unit without a weight behind it, or to one that is silent on the data; of the latter some may speak
    when their bias is gone. The losses of the same batches are therefore compared: if one of them changes, nothing is done.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> _ = net[2].weight.data[:, 1].zero_(); _ = net[0].bias.data.fill_(1.0)
        >>> quiet = silence(net, [(torch.rand(8, 2), torch.arange(8) % 2)], Objective())
        >>> quiet[0].bias.tolist()
        [1.0, 0.0, 1.0]
    """
    quiet, seen = copy.deepcopy(model), list(islice(data, BATCHES))
    found = list(_vectors(quiet))
    if not found:
        return model
    depends = [torch.zeros_like(vector, dtype=torch.bool) for vector in found]
    with evaluating(quiet):
        before = _losses(quiet, seen, objective)
        for batch in seen:
            for vector in found:
                vector.requires_grad_(True)
            loss = objective.training_loss(quiet, batch)[0]
            if not loss.requires_grad:  # a network that computes without gradients says nothing
                return model
            for mask, gradient in zip(depends, torch.autograd.grad(loss, found, allow_unused=True), strict=True):
                if gradient is not None:
                    mask |= gradient != 0
        with torch.no_grad():
            for vector, mask in zip(found, depends, strict=True):
                vector.mul_(mask)
        same = torch.equal(before, _losses(quiet, seen, objective))
    for vector, original in zip(found, _vectors(model), strict=True):
        vector.requires_grad_(original.requires_grad)
    return quiet if same else model


def _vectors(model: nn.Module) -> Iterator[nn.Parameter]:
    weights = {id(getattr(layer.module, layer.parameter)) for layer in find_layers(model).values()}
    for module in model.modules():
        if not isinstance(module, parametrize.ParametrizationList):  # values of a code are used by all of its weights
            for vector in module._parameters.values():
                if vector is not None and id(vector) not in weights and vector.dim() == 1 and vector.is_floating_point():
                    yield vector


@torch.no_grad()
def _losses(model: nn.Module, batches: list[Any], objective: Objective) -> Tensor:
    return torch.cat([objective.score(model, batch).losses.cpu() for batch in batches])
