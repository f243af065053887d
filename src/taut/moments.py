"""What a layer's inputs look like on data: their second moments, by which activation-aware methods weigh errors."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from taut.errors import BudgetError
from taut.layers import CONVOLUTIONS, Layer, batch_size, evaluating
from taut.objective import batches_of, call_batch, inputs_of

KINDS = ("linear", "conv", "hf_conv1d")
WHOLE, ROWS = 64, 512
"""For each input of a layer: rows that are all taken, and about how many more are taken of the positions after that. Neighbouring
positions say much the same, and their product is most of the work."""


def input_moments(model: nn.Module, data: Iterable, layers: dict[str, Layer], *, samples: int = 2048) -> dict[str, Tensor]:
    r"""The second moments of what each layer's weight is multiplied with: ``{layer: tensor (n, n)}``, double precision.

    .. math:: C = \mathbb{E}\, x x^T

    over up to ``samples`` inputs of ``data`` and all positions; ``x (n,)`` is a row of inputs or, for a convolution, an unfolded
    patch in the order of ``weight[0].flatten()``, so that ``E ||(W - V) x||^2 = tr((W - V) C (W - V)^T)``. Where there are many
    more positions than ``n`` asks for, convolutions are looked at in some of them, drawn anew for every sample. Seen by hooks in
    evaluation mode. Left out: embeddings, recurrent weights, grouped convolutions, and layers that did not run.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 2))
        >>> moments = input_moments(model, [torch.ones(4, 1, 3, 3)], {"0": Layer("0", model[0], "weight", "conv")})
        >>> moments["0"].shape, moments["0"].unique().tolist()
        (torch.Size([4, 4]), [1.0])
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, float] = {}
    draw = torch.Generator().manual_seed(0)

    def seen(name: str, module: nn.Module, x: Tensor) -> None:
        n = module.weight[0].numel()
        most = inf if counts.get(name, 0) < WHOLE * n else ROWS * n / samples
        rows, share = _rows(module, x, most, draw)
        rows = rows.float() if rows.itemsize < 4 else rows  # a batch in single precision, which takes half the time
        product = rows.T @ rows
        sums[name] = sums.get(name, 0) + (product.cpu() if product.device.type == "mps" else product).double() / share
        counts[name] = counts.get(name, 0) + len(rows) / share

    handles = [
        layer.module.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: seen(name, module, (*args, *kwargs.values())[0].detach()), with_kwargs=True
        )
        for name, layer in layers.items()
        if layer.kind in KINDS and layer.groups == 1
    ]
    try:
        with evaluating(model), torch.no_grad():
            _run(model, data, samples)
    finally:
        for handle in handles:
            handle.remove()
    for name, total in sums.items():
        if not bool(torch.isfinite(total).all()):
            raise BudgetError(f"{name}: its inputs on the calibration data are NaN or infinite; check the data and the weights")
    return {name: total / counts[name] for name, total in sums.items()}


def _run(model: nn.Module, data: Iterable, samples: int) -> None:
    done = 0
    for batch in batches_of(data, "calibration"):
        call_batch(model, batch)
        done += batch_size(inputs_of(batch))
        if done >= samples:
            return


def _rows(module: nn.Module, x: Tensor, most: float, draw: torch.Generator) -> tuple[Tensor, float]:
    """What the weight is multiplied with, a row each; of a convolution at ``most`` positions, and what share that is of them."""
    if not isinstance(module, CONVOLUTIONS):
        x = module.read(x) if hasattr(module, "read") else x  # a layer that puts its inputs together first
        return x.reshape(-1, x.shape[-1]), 1.0
    view, spatial = _unfolded(module, x), len(module.kernel_size)
    positions = view.shape[2 : 2 + spatial]
    if positions.numel() <= most:
        return _flat(view, spatial), 1.0
    # others in every sample; with the axis of channels between the indices, theirs come first: (samples, some, in, *kernel)
    some = torch.randint(positions.numel(), (len(view), ceil(most)), generator=draw).to(x.device)
    samples = torch.arange(len(view), device=x.device)[:, None]
    rows = view[(samples, slice(None), *torch.unravel_index(some, positions))]
    return rows.reshape(-1, rows.shape[2:].numel()), some.shape[1] / positions.numel()


def patches(conv: Any, x: Tensor) -> Tensor:
    """The unfolded patches of a convolution's input, padding included: ``(samples * positions, in * kernel)``.

    Example:
        >>> conv = nn.Conv2d(3, 5, (2, 3), stride=(1, 2), padding=1, dilation=(2, 1), bias=False)
        >>> x = torch.randn(2, 3, 6, 7)
        >>> product = patches(conv, x) @ conv.weight.flatten(1).T
        >>> torch.allclose(product, conv(x).movedim(1, -1).reshape(-1, 5), atol=1e-5)
        True
    """
    return _flat(_unfolded(conv, x), len(conv.kernel_size))


def _unfolded(conv: Any, x: Tensor) -> Tensor:
    """The patches as a view: ``(samples, in, *positions, *kernel)``."""
    spatial = len(conv.kernel_size)
    if x.dim() == spatial + 1:  # an input without the axis of samples
        x = x.unsqueeze(0)
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    x = functional.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
    for axis, (size, stride, step) in enumerate(zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)):
        x = x.unfold(2 + axis, (size - 1) * step + 1, stride)[..., ::step]
    return x


def _flat(view: Tensor, spatial: int) -> Tensor:
    """``(samples, in, *positions, *kernel)`` with ``spatial`` axes of the kernel, a row for each sample and position."""
    return view.movedim(1, -1 - spatial).reshape(-1, view.shape[1] * view.shape[-spatial:].numel())
