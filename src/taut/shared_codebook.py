"""One codebook for several layers: its values are chosen for all of them together, and trained as one parameter."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from taut.apply import statistics
from taut.compressors.base import Code, Compressor, Stats, TransposedCode
from taut.compressors.codebook import Codebook, CodebookCode
from taut.compressors.coded import attached, free_parameters
from taut.errors import LayerError, TautError
from taut.layers import Layer, check_model, find_layers, put, select


def share_codebook(
    model: nn.Module, method: Compressor | None = None, layers: str | Sequence[str] = "*", data: Iterable | None = None
) -> nn.Module:
    """A new model whose ``layers`` (names or patterns) share one table of values; ``model`` is not changed.

    ``method`` is a codebook: :class:`~taut.compressors.Codebook`, by default with 16 values, ``EntropyCodebook`` or
    ``LinearCodebook``. It is given the weights of all layers as one row, and each layer keeps its part of the indices, in its
    own shape. By Fisher (``data`` is needed) values go where the loss is sensitive, whatever the layer: that is how layers
    that differ share one table without a number for each (Choi et al. 2017, arXiv 1612.01543, section 3.4).

    The values are one parameter: its gradient is the sum over the layers, and any optimizer trains it for all. A file holds
    the table once a layer, 4 bytes a value (2 where the values are rounded to half precision, as ``taut.compress`` leaves
    them); a loaded network computes the same, and :func:`tie_codebooks` makes its tables one parameter again. It trains unless
    all its layers are frozen.

    Errors:
        LayerError: a pattern that names no layer, or a layer that cannot take the method.
        TautError: the method makes no codebook, or the layers differ in type or device.

    Example:
        >>> from taut.compressors import Codebook
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 5))
        >>> shared = share_codebook(model, Codebook(k=8))
        >>> torch.cat([shared[0].weight.flatten(), shared[2].weight.flatten()]).unique().numel()
        8
        >>> [name for name, _ in shared.named_parameters()]  # the table once, and the biases
        ['0.bias', '0.parametrizations.weight.original0', '2.bias']
    """
    method = Codebook() if method is None else method
    check_model(model)
    new = copy.deepcopy(model)
    found = find_layers(new)
    patterns = [layers] if isinstance(layers, str) else layers
    chosen = {name: found[name] for pattern in patterns for name in select(found, pattern)}
    for name, layer in chosen.items():
        if why := method.refuses(layer):
            raise LayerError(f"{name}: {method} cannot be used: {why}")
    weights = {name: layer.weight.detach() for name, layer in chosen.items()}
    stats = statistics(new, found, dict.fromkeys(chosen, method), data)
    code = _joint(method, weights, stats)
    parts = code.indices.split([w.numel() for w in weights.values()])
    for (name, layer), indices in zip(chosen.items(), parts, strict=True):
        put(new, layer, CodebookCode(code.centroids, indices.reshape(weights[name].shape).clone(), code.zero))
    tie_codebooks(new, list(chosen))
    return new


def _joint(method: Compressor, weights: dict[str, Tensor], stats: dict[str, Stats]) -> CodebookCode:
    """The code of all weights in a row."""
    kinds = {(w.dtype, w.device) for w in weights.values()}
    if len(kinds) > 1:
        named = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise TautError(f"one codebook is for weights of one type on one device, these are {named}; share it among those alike")
    row = torch.cat([w.reshape(-1) for w in weights.values()])
    known = [stats[name].fisher for name in weights if name in stats]
    fisher = torch.cat([f.reshape(-1) for f in known if f is not None]) if known else None
    code = method.compress(row, None if fisher is None else Stats(fisher=fisher))
    if not isinstance(code, CodebookCode) or isinstance(code.centroids, Code):
        raise TautError(f"{method} makes no table of values; share a Codebook, an EntropyCodebook or a LinearCodebook")
    return code


def tie_codebooks(model: nn.Module, layers: Sequence[str] | None = None) -> list[list[str]]:
    """Make codebooks with equal tables one parameter, in place; returns the names that share one, group by group.

    ``layers``: names of :func:`taut.find_layers`, all by default. Tables are equal if every bit of them is: those of a network
    that was saved with a shared one.

    Example:
        >>> import tempfile, taut
        >>> build = lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
        >>> path = tempfile.mkdtemp() + "/m.taut"
        >>> _ = taut.save(share_codebook(build()), path)
        >>> loaded = taut.load(path, into=build())
        >>> tie_codebooks(loaded)
        [['0', '1']]
        >>> loaded[0].parametrizations.weight.original0 is loaded[1].parametrizations.weight.original0
        True
    """
    found = find_layers(model)
    groups: dict[tuple, list[str]] = {}
    for name in found if layers is None else layers:
        table = _table(found[name])
        if table is None:
            continue
        key = (table.dtype, table.device, tuple(table.tolist()))
        group = groups.setdefault(key, [])
        if group:
            one, other = found[group[0]], found[name]
            (parameter,), (own,) = (free_parameters(layer.module, layer.parameter) for layer in (one, other))
            parameter.requires_grad_(parameter.requires_grad or own.requires_grad)
            other.module.parametrizations[other.parameter].original0 = parameter
        group.append(name)
    return [group for group in groups.values() if len(group) > 1]


def _table(layer: Layer) -> Tensor | None:
    """The table of a layer's codebook, if it has one and the table is a tensor of its own."""
    code = attached(layer.module, layer.parameter)
    code = code.part if isinstance(code, TransposedCode) else code
    if isinstance(code, CodebookCode) and isinstance(code.centroids, Tensor) and code.centroids.numel():
        return code.centroids
    return None
