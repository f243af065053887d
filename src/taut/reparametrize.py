"""Train a model's weights through a parametrization, and put what it stores into the model when training is done."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from taut.apply import assign
from taut.compressors.coded import free_parameters, install, release
from taut.errors import LayerError, TautError
from taut.layers import Layer, find_layers, put
from taut.parametrizations.base import Latent, Parametrization, ask_for_output


class Wrapped:
    """A model in training through parametrizations: what :func:`wrap` returns."""

    def __init__(self, model: nn.Module, layers: dict[str, Layer]) -> None:
        self.model, self.layers = model, layers

    def latents(self) -> dict[str, tuple[Latent, list[nn.Parameter]]]:
        """Each layer's :class:`~taut.parametrizations.Latent` and the tensors that are trained in the weight's place."""
        return {
            name: (layer.module.parametrizations[layer.parameter][0], free_parameters(layer.module, layer.parameter))
            for name, layer in self.layers.items()
        }

    def penalty(self) -> Tensor:
        """What the loss grows by, summed over the layers; a scalar that gradients flow through."""
        return torch.stack([latent.penalty(*trained) for latent, trained in self.latents().values()]).sum()

    def finalize(self) -> nn.Module:
        """Put every layer's code into the model, in the parametrization's place; returns the model."""
        for name, (latent, trained) in self.latents().items():
            layer = self.layers[name]
            with torch.no_grad():
                code = latent.code(*(t.detach() for t in trained))
            release(layer.module, layer.parameter)
            put(self.model, layer, code)
        self.layers = {}
        return self.model

    def unwrap(self) -> nn.Module:
        """Put what is trained into the model as plain weights, where it has their shape: the real-valued copies behind binary
        weights. The model then takes another parametrization, or loses filters (:func:`taut.shrink`), and is wrapped again;
        returns it.
        """
        for name, (latent, trained) in self.latents().items():
            layer = self.layers[name]
            if len(trained) != 1 or trained[0].shape != layer.weight.shape:
                raise TautError(f"{name}: {type(latent).__name__} trains no tensor like the weight; use finalize()")
            release(layer.module, layer.parameter).data = trained[0].detach().clone()
        self.layers = {}
        return self.model


def wrap(model: nn.Module, plan: Mapping[str, Parametrization | None]) -> Wrapped:
    """Train the weights named by ``plan`` through parametrizations from now on; changes ``model`` itself.

    ``plan`` maps layer names or patterns to parametrizations: an exact name beats a pattern, else the first that matches;
    ``None`` leaves a layer alone. Make the optimizer afterwards: ``model.parameters()`` then holds what is trained instead.

    Raises:
        LayerError: a pattern that names no layer, or a layer that is coded or parametrized already.

    Example:
        >>> from taut.parametrizations import Entropy
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> training = wrap(model, {"*": Entropy(levels=1)})
        >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        >>> loss = model(torch.randn(8, 4)).square().mean() + 1e-4 * training.penalty()
        >>> loss.backward(); optimizer.step()
        >>> len(training.finalize()[0].weight.detach().unique()) <= 3
        True
    """
    layers = find_layers(model)
    wrapped = {}
    for name, method in assign(layers, plan).items():
        if method is None:
            continue
        if not isinstance(method, Parametrization):
            raise TautError(f"{name}: {method!r} is not a parametrization; use one of taut.parametrizations")
        layer = layers[name]
        if why := refuses(layer):
            raise LayerError(f"{name}: {why}; leave it out with {{{name!r}: None}}")
        install(layer.module, layer.parameter, method.latent(layer.weight.detach()))
        ask_for_output(layer.module)
        wrapped[name] = layer
    return Wrapped(model, wrapped)


def refuses(layer: Layer) -> str | None:
    """Why the weight of a layer cannot be trained through a parametrization, in words for the user; ``None`` when it can."""
    if parametrize.is_parametrized(layer.module, layer.parameter):
        return "the weight is coded or parametrized already; taut.bake gives the plain network"
    if layer.tied:
        return f"the weight is shared with {', '.join(layer.tied)}"
    return "Hugging Face's Conv1D keeps its weight input first" if layer.kind == "hf_conv1d" else None
