"""Smaller tensors in the modules of a network, with every size attribute kept in agreement.

A file of a network whose neurons were removed holds tensors that are smaller than those of a fresh network of the original
class. :func:`resize` makes the fresh network's modules that small, so that the file's tensors fit; :func:`assign`, under it, is
also what removes neurons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from taut.errors import LayerError

Shape = tuple[int, ...]

CONVOLUTIONS = nn.modules.conv._ConvNd
CHANNEL_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
# sizes of these are tied to more than their tensors' shapes
RIGID = (nn.MultiheadAttention, nn.RNNBase)


def resize(model: nn.Module, shapes: Mapping[str, Shape]) -> None:
    """Make the modules of a full-size ``model`` hold tensors of these shapes, in place.

    ``shapes`` maps names of the ``state_dict`` to shapes, no larger than the model's; unnamed tensors stay. Attributes
    (``in_features``, ``out_channels``, ``groups``, ``num_features`` …) follow. The content is the leading corner of each tensor:
    load the smaller weights next.

    Raises:
        LayerError: a name the model does not have, a shape with another number of dimensions, larger than the model's or
            empty, or shapes of one module that do not fit each other; the model is then unchanged.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> resize(model, {"0.weight": (3, 4), "0.bias": (3,), "2.weight": (2, 3)})
        >>> model[0], model(torch.zeros(1, 4)).shape
        (Linear(in_features=4, out_features=3, bias=True), torch.Size([1, 2]))
    """
    tensors = {}
    for name, shape in shapes.items():
        old = _tensor(model, name)
        shape = tuple(shape)
        if len(shape) != old.dim() or any(not 1 <= n <= most for n, most in zip(shape, old.shape, strict=True)):
            raise LayerError(
                f"{name}: shape {shape} does not fit into {tuple(old.shape)}, the shape in the model; "
                "build the model with the class and the sizes that the weights were trained with"
            )
        if shape != tuple(old.shape):
            tensors[name] = old.detach()[tuple(slice(n) for n in shape)].clone()
    assign(model, tensors)


def assign(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors of other shapes in the place of parameters and buffers, and make the modules' attributes agree.

    A parameter used at several places is replaced at all of them; ``requires_grad`` is kept.
    """
    changed: dict[nn.Module, dict[str, Shape]] = {}
    new: dict[int, Tensor] = {}
    for name, tensor in tensors.items():
        old = _tensor(model, name)
        if isinstance(old, nn.Parameter):
            tensor = nn.Parameter(tensor.detach(), requires_grad=old.requires_grad)
        new[id(old)] = tensor
    owners = {}
    for path, module in model.named_modules():
        for key, held in (*module._parameters.items(), *module._buffers.items()):
            if id(held) in new:
                changed.setdefault(module, {})[key] = tuple(new[id(held)].shape)
                owners[module] = path
    attributes = {module: sizes(module, shapes, owners[module]) for module, shapes in changed.items()}
    for module, shapes in changed.items():
        for key in shapes:
            store = module._parameters if key in module._parameters else module._buffers
            store[key] = new[id(store[key])]
        for key, value in attributes[module].items():
            setattr(module, key, value)


def sizes(module: nn.Module, shapes: Mapping[str, Shape], path: str = "") -> dict[str, Any]:
    """The size attributes ``module`` must have once its own tensors have these ``shapes``; the others keep theirs.

    Raises :class:`LayerError`, naming the tensor at ``path``, when the shapes do not fit each other.
    """
    held = {k: tuple(t.shape) for k, t in (*module._parameters.items(), *module._buffers.items()) if t is not None}
    held.update(shapes)
    if isinstance(module, nn.Linear):
        _agree(path, held, bias=held["weight"][:1])
        return {"out_features": held["weight"][0], "in_features": held["weight"][1]}
    if isinstance(module, CONVOLUTIONS):
        return _convolution(module, held, path)
    if isinstance(module, CHANNEL_NORMS):
        channels = next(s for s in shapes.values())
        _agree(path, held, weight=channels, bias=channels, running_mean=channels, running_var=channels)
        return {"num_features": channels[0]}
    if isinstance(module, nn.LayerNorm):
        _agree(path, held, bias=held["weight"])
        return {"normalized_shape": held["weight"]}
    if isinstance(module, nn.GroupNorm):
        return _group_norm(module, held, path)
    if isinstance(module, nn.Embedding):
        return {"num_embeddings": held["weight"][0], "embedding_dim": held["weight"][1]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": held["weight"][0]}
    if isinstance(module, RIGID):
        raise LayerError(f"{path}.{next(iter(shapes))}: the sizes of {type(module).__name__} cannot be changed")
    if hasattr(module, "nf") and len(held.get("weight", ())) == 2:  # Hugging Face's Conv1D, input first
        _agree(path, held, bias=held["weight"][1:])
        return {"nf": held["weight"][1]} | ({"nx": held["weight"][0]} if hasattr(module, "nx") else {})
    return {}


def _convolution(module: nn.Module, held: Mapping[str, Shape], path: str) -> dict[str, Any]:
    first, second, *kernel = held["weight"]
    if tuple(kernel) != tuple(module.weight.shape[2:]):
        raise LayerError(f"{path}.weight: kernel {tuple(kernel)} differs from the model's {tuple(module.weight.shape[2:])}")
    groups = module.groups
    inputs, outputs = (first, second * groups) if module.transposed else (second * groups, first)
    if groups > 1 and groups == module.in_channels:  # depthwise: channels and groups are removed together
        multiplier = module.out_channels // module.in_channels
        inputs = groups = first if module.transposed else first // multiplier
        outputs = inputs * multiplier
        if second != module.weight.shape[1] or (not module.transposed and outputs != first):
            raise LayerError(f"{path}.weight: shape {held['weight']} does not fit a depthwise layer of multiplier {multiplier}")
    if inputs % groups or outputs % groups:
        raise LayerError(f"{path}.weight: {inputs} inputs and {outputs} outputs do not divide into {groups} groups")
    _agree(path, held, bias=(outputs,))
    return {"in_channels": inputs, "out_channels": outputs, "groups": groups}


def _group_norm(module: nn.GroupNorm, held: Mapping[str, Shape], path: str) -> dict[str, Any]:
    _agree(path, held, bias=held["weight"])
    channels = held["weight"][0]
    groups = channels if module.num_groups == module.num_channels else module.num_groups
    if channels % groups:
        raise LayerError(f"{path}.weight: {channels} channels do not divide into {groups} groups")
    return {"num_channels": channels, "num_groups": groups}


def _agree(path: str, held: Mapping[str, Shape], **expected: Shape) -> None:
    for key, shape in expected.items():
        if key in held and held[key] != tuple(shape):
            name = f"{path}.{key}".lstrip(".")
            raise LayerError(f"{name}: shape {held[key]} does not fit its layer, which needs {tuple(shape)}")


def _tensor(model: nn.Module, name: str) -> Tensor:
    path, _, key = name.rpartition(".")
    module = dict(model.named_modules(remove_duplicate=False)).get(path)
    tensor = None if module is None else module._parameters.get(key, module._buffers.get(key))
    if tensor is None:
        raise LayerError(f"{name}: the model has no tensor of this name; is it of the class that was saved?")
    return tensor


def shapes_of(model: nn.Module) -> dict[str, Shape]:
    """The shape of every tensor in the ``state_dict``.

    Example:
        >>> shapes_of(nn.Linear(3, 2))
        {'weight': (2, 3), 'bias': (2,)}
    """
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
