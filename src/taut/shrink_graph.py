"""Which channels of a network can only be removed together: the groups, read from a traced dependency graph.

Removing a filter also removes its entry in the batch norm behind it, its columns in every layer that reads it, and, at a
residual join, the filters that it is added to. torch-pruning's ``DependencyGraph`` (Fang et al., CVPR 2023, "DepGraph: Towards
Any Structural Pruning") follows these couplings layer by layer. Here they are followed channel by channel: a *unit* is a set of
places that go together, found by union-find over the pairs that the graph reports, so that concatenations, splits and grouped
convolutions come out exactly. A *group* is a set of units with the same places in the same modules.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from taut.errors import TautError
from taut.layers import call, find_layers
from taut.resize import CHANNEL_NORMS, CONVOLUTIONS
from taut.shrink_groups import MIXING_NORMS, Group, Slot, depthwise, module_of, tensors_of

NARROWED = (nn.Linear, CONVOLUTIONS, *CHANNEL_NORMS, *MIXING_NORMS, nn.PReLU, nn.Embedding, nn.Parameter)

Place = tuple[str, str, int, int]
Pairs = set[tuple[int, int | None]]
Reach = dict[tuple[Any, Any], Pairs]


class _Units:
    """Union-find over places ``(module, side, dim, index)``, with the reasons why some must stay."""

    def __init__(self) -> None:
        self.parent: dict[Place, Place] = {}
        self.stays: dict[Place, str] = {}

    def find(self, place: Place) -> Place:
        self.parent.setdefault(place, place)
        root = place
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[place] != root:
            self.parent[place], place = root, self.parent[place]
        return root

    def union(self, a: Place, b: Place) -> None:
        self.parent[self.find(a)] = self.find(b)

    def stay(self, place: Place, why: str) -> None:
        self.find(place)
        self.stays.setdefault(place, why)

    def sets(self) -> tuple[list[list[Place]], dict[Place, str]]:
        """The units in order of their first place, and the reason of every place that must stay."""
        members = defaultdict(list)
        for place in self.parent:
            members[self.find(place)].append(place)
        reasons = {self.find(place): why for place, why in reversed(self.stays.items())}
        held = {place: why for root, why in reasons.items() for place in members[root]}
        return [sorted(places) for root, places in members.items() if root not in reasons], held


def find_groups(work: nn.Module, example_input: Any) -> tuple[list[Group], dict[str, str]]:
    """The removable groups of a :func:`workpiece`, and ``{layer: reason}`` for the layers that are in none."""
    graph = _trace(work, example_input)
    units = _Units()
    visited: set[str] = set()
    most = max((n for p in work.parameters() for n in p.shape), default=0)
    names = {module: name for name, module in work.named_modules()} | dict(graph._param_to_name)
    for module, node in list(graph.module2node.items()):
        if not isinstance(module, nn.Linear | CONVOLUTIONS | nn.Embedding) or names[module] in visited:
            continue
        _follow(graph, node, names, units, visited, most)
    _bind(work, units)
    _tied(work, units)
    sets, held = units.sets()
    groups = _collect(work, sets)
    for group in groups:
        if group.units == 1:
            held.update({(name, "out", 0, 0): "its channels can only be removed all together" for name in group.layers})
    groups = [group for group in groups if group.units > 1]
    return groups, _reasons(work, groups, held)


def _trace(work: nn.Module, example_input: Any) -> Any:
    import torch_pruning as tp

    def outputs(out: Any) -> list[Tensor]:
        # times one, so that an output is never itself a layer's: the graph then ends in an output node everywhere
        return [t * 1 for t in tensors_of(out) if t.grad_fn is not None]

    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            return tp.DependencyGraph().build_dependency(
                work, example_input, forward_fn=call, output_transform=outputs, verbose=False
            )
        except Exception as error:  # its shape inference gives up in many ways on unusual graphs
            raise TautError(f"torch-pruning cannot follow this network's channels ({type(error).__name__}: {error})") from error


def _follow(graph: Any, root: Any, names: dict, units: _Units, visited: set[str], most: int) -> None:
    """Join the places that go with each output channel of one layer."""
    from torch_pruning.ops import OPTYPE

    pruner = graph.get_pruner_of_module(root.module)
    width = pruner.get_out_channels(root.module)
    side = _side(graph, root.module, pruner.prune_out_channels)
    start = [(names[root.module], side, 0, i) for i in range(width)]
    reach = _reach(root, pruner.prune_out_channels, width, most)
    if reach is None:
        _hold(units, start, {(0, None)}, "its channels cannot be followed through the network")
    for (node, fn), pairs in (reach or {}).items():
        if node.type == OPTYPE.OUTPUT:
            _hold(units, start, pairs, "its channels are the network's output")
        elif isinstance(node.module, NARROWED):
            whole = _join(node, _side(graph, node.module, fn), pairs, start, names, units)
            if whole and graph.is_out_channel_pruning_fn(fn):
                visited.add(names[node.module])
        elif node.module in names and next(node.module.parameters(), None) is not None:
            kind = type(node.module).__name__
            _hold(units, start, pairs, f"its channels pass through {names[node.module]!r} ({kind}), which cannot be narrowed")


def _side(graph: Any, module: nn.Module, fn: Any) -> str:
    if isinstance(module, nn.Embedding) or not graph.is_in_channel_pruning_fn(fn):
        return "out"
    return "through" if graph.is_out_channel_pruning_fn(fn) else "in"


def _reach(root: Any, fn: Any, width: int, most: int) -> Reach | None:
    """Everything that removing channels of ``root`` removes: ``{(node, pruning function): {(index there, index at the root)}}``.

    torch-pruning's own walk drops the second of two root channels that meet in one place; here every pair is kept. ``None``
    where its index maps lead astray: outside their own tables, or round a loop to ever larger indices (``most`` bounds them).
    """
    from torch_pruning._helpers import _HybridIndex

    seen: Reach = defaultdict(set)
    stack = [(root, fn, [_HybridIndex(idx=i, root_idx=i) for i in range(width)])]
    while stack:
        node, fn, pairs = stack.pop()
        fresh = [pair for pair in pairs if pair not in seen[node, fn]]
        seen[node, fn].update(fresh)
        for dep in node.dependencies if fresh else ():
            if dep.is_triggered_by(fn):
                mapped = _through(dep, fresh)
                if mapped is None or any(pair.idx > 4 * most for pair in mapped):
                    return None
                stack.append((dep.target, dep.handler, mapped))
    return {key: pairs for key, pairs in seen.items() if pairs}


def _through(dep: Any, pairs: list) -> list | None:
    """The pairs on the other side of an edge."""
    mapped = pairs
    for mapping in dep.index_mapping:
        try:
            mapped = mapped if mapping is None else mapping(mapped)
        except IndexError:  # a split that it saw with fewer parts than it has (the gates of a GRU)
            return None
    return mapped


def _hold(units: _Units, start: list[Place], pairs: Pairs, why: str) -> None:
    known = sorted({root for _, root in pairs if root is not None})
    for place in start if any(root is None for _, root in pairs) else (start[i] for i in known):
        units.stay(place, why)


def _join(node: Any, side: str, pairs: set, start: list[Place], names: dict, units: _Units) -> bool:
    """Join places of one module with those of the root; whether all channels of both take part."""
    module, name = node.module, names[node.module]
    dim = node.pruning_dim if isinstance(module, nn.Parameter) else 0
    if isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return False
    width = _width(module, side, dim)
    if width is None or any(root is None or not 0 <= i < width for i, root in pairs):
        _hold(units, start, pairs, f"its channels cannot be followed through {name!r} ({type(module).__name__})")
        return False
    for index, root in sorted(pairs):
        units.union((name, side, dim, index), start[root])
    return len({i for i, _ in pairs}) == width and len({r for _, r in pairs}) == len(start)


def _width(module: nn.Module | nn.Parameter, side: str, dim: int) -> int | None:
    """How many channels the module has on that side; ``None`` if its channels cannot be removed one by one."""
    if isinstance(module, nn.Parameter):
        return module.shape[dim]
    if isinstance(module, nn.Linear):
        return module.out_features if side == "out" else module.in_features
    if isinstance(module, CONVOLUTIONS):
        if side == "through" and module.in_channels != module.out_channels:
            return None
        if module.transposed and module.groups > 1 and side != "through":
            return None
        return module.in_channels if side == "in" else module.out_channels
    if isinstance(module, MIXING_NORMS) and type(module) not in MIXING_NORMS:
        return None  # which dimension a subclass takes for the channels is not known
    if isinstance(module, nn.LayerNorm):
        return module.weight.shape[0] if module.weight is not None and module.weight.dim() == 1 else None
    if isinstance(module, nn.GroupNorm):
        return module.num_channels if module.affine else None
    if isinstance(module, nn.Embedding):
        return module.embedding_dim
    return module.num_parameters if isinstance(module, nn.PReLU) else module.num_features


def _bind(work: nn.Module, units: _Units) -> None:
    """Join the channels that a grouped layer needs removed together: the same position in each of its groups."""
    modules = dict(work.named_modules())
    for name, side, dim, index in list(units.parent):
        module = modules.get(name)
        if module is None:  # a plain parameter
            continue
        place = (name, side, dim, index)
        if depthwise(module):
            if side == "out":  # a depthwise layer with several outputs a channel
                units.union(place, (name, "in", dim, index // (module.weight.shape[0] // module.groups)))
        elif isinstance(module, CONVOLUTIONS) and module.groups > 1:
            per_group = _width(module, side, dim) // module.groups
            units.union(place, (name, side, dim, index % per_group))
        elif isinstance(module, nn.GroupNorm) and module.num_groups < module.num_channels:
            units.union(place, (name, side, dim, index % (module.num_channels // module.num_groups)))


def _tied(work: nn.Module, units: _Units) -> None:
    """Hold the units of modules that share a parameter with another module."""
    owners = defaultdict(list)
    for name, module in work.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners[id(parameter)].append(name)
    shared = {name: names for names in owners.values() if len(names) > 1 for name in names}
    for place in list(units.parent):
        if place[0] in shared:
            units.stay(place, f"a weight is shared by {' and '.join(repr(n) for n in shared[place[0]])}")


def _collect(work: nn.Module, sets: list[list[Place]]) -> list[Group]:
    alike: dict[tuple, list[dict]] = defaultdict(list)
    for places in sorted(sets):
        unit: dict[tuple, list[int]] = defaultdict(list)
        for name, side, dim, index in places:
            unit[name, side, dim].append(index)
        alike[tuple((key, len(indices)) for key, indices in unit.items())].append(unit)
    groups = []
    for signature, members in alike.items():
        slots = tuple(
            Slot(name, side, dim, torch.tensor([u[name, side, dim] for u in members])) for (name, side, dim), _ in signature
        )
        makers = [s for s in slots if s.side == "out"]
        passing = [s for s in slots if s.side == "through" and isinstance(module_of(work, s), CONVOLUTIONS)]
        if makers:  # else these are channels of the network's input
            layers = tuple(dict.fromkeys(s.name for s in makers + passing))
            groups.append(Group(layers, slots, makers[0].channels.shape[1]))
    return groups


def _reasons(work: nn.Module, groups: list[Group], held: dict[Place, str]) -> dict[str, str]:
    grouped = {name for group in groups for name in group.layers}
    why: dict[str, str] = {}
    layers = {n for n, m in work.named_modules() if isinstance(m, nn.Linear | CONVOLUTIONS | nn.Embedding)}
    for (name, side, _, _), reason in held.items():
        if side != "in" and name in layers - grouped:
            why.setdefault(name, reason)
    other = "taut cannot remove its units: only those of linear layers, convolutions and embeddings"
    for name, layer in find_layers(work).items():
        if name not in grouped:
            fallback = other if layer.kind in ("recurrent", "hf_conv1d") else "the example input does not pass through it"
            why.setdefault(name, fallback)
    return {name: reason for name, reason in why.items() if name not in grouped}
