"""How a weight is seen: its elements, its rows, columns and filters, or one matrix.

A weight is stored output first: ``(out, in)`` for a linear layer, ``(out, in / groups, *kernel)`` for a convolution. A
:class:`View` shows it as a matrix whose *rows are the groups* a method works on, and puts such a matrix back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from torch import Size, Tensor

from taut.errors import TautError


@dataclass(frozen=True)
class View:
    """A two-way map between a weight and a matrix with one group a row.

    Example:
        >>> import torch
        >>> w = torch.arange(24.0).reshape(2, 3, 2, 2)
        >>> VIEWS["columns"].see(w).shape
        torch.Size([3, 8])
        >>> torch.equal(VIEWS["columns"].back(VIEWS["columns"].see(w), w.shape), w)
        True
    """

    name: str
    see: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, Size], Tensor]


def _see_columns(w: Tensor) -> Tensor:
    return w.transpose(0, 1).reshape(w.shape[1], -1)


def _back_columns(m: Tensor, shape: Size) -> Tensor:
    return m.reshape(shape[1], shape[0], *shape[2:]).transpose(0, 1)


def _see_scheme2(w: Tensor) -> Tensor:
    """Rows are (output, kernel row), columns are (input, kernel column): Idelbayev & Carreira-Perpinan, scheme 2."""
    if w.dim() < 4:
        return w.reshape(w.shape[0], -1)
    out, inp, height, width = w.shape
    return w.permute(0, 2, 1, 3).reshape(out * height, inp * width)


def _back_scheme2(m: Tensor, shape: Size) -> Tensor:
    if len(shape) < 4:
        return m.reshape(shape)
    out, inp, height, width = shape
    return m.reshape(out, height, inp, width).permute(0, 2, 1, 3)


VIEWS = {
    view.name: view
    for view in (
        View("elements", lambda w: w.reshape(-1, 1), lambda m, shape: m.reshape(shape)),
        View("rows", lambda w: w.reshape(w.shape[0], -1), lambda m, shape: m.reshape(shape)),
        View("columns", _see_columns, _back_columns),
        # one row a (output, input) pair: the kernel of a convolution
        View("kernels", lambda w: w.reshape(prod(w.shape[:2]), -1), lambda m, shape: m.reshape(shape)),
        View("matrix", lambda w: w.reshape(w.shape[0], -1), lambda m, shape: m.reshape(shape)),
        View("matrix2", _see_scheme2, _back_scheme2),
    )
}
VIEWS["filters"] = VIEWS["rows"]


def view(name: str) -> View:
    """The view called ``name``; an unknown name raises an error that lists the known ones."""
    if name not in VIEWS:
        raise TautError(f"unknown view {name!r}; choose one of {', '.join(sorted(VIEWS))}")
    return VIEWS[name]
