"""Decompressing a code that came from a file, without trusting its sizes.

Two thin factors multiply out to a huge matrix, so the size of a record says nothing of the size of the weight. Under
:class:`Bounded` the size of every torch operation's result is known before it runs: from the shapes for the operations that
codes are made of, else by a trial on the meta device, where nothing is allocated (torch takes a second to load that).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from taut.codec.tensors import Declared
from taut.codec.tree import Node, Record
from taut.compressors.base import Code
from taut.errors import FormatError, TautError


class Bounded(TorchDispatchMode):
    """While it is active no torch operation makes a tensor of more than ``limit`` elements.

    Example:
        >>> with Bounded(1000):
        ...     torch.zeros(2**20, 1) @ torch.zeros(1, 2**20)
        Traceback (most recent call last):
        ...
        taut.errors.FormatError: the parts multiply out to shape (1048576, 1), more than the limit of 1,000 elements
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would load its compiler, for seconds, to keep it out of a mode; nothing is compiled while a file is read."""
        return False

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for shape in _result_shapes(func, args, kwargs):
            if prod(shape) > self.limit:
                raise FormatError(
                    f"the parts multiply out to shape {tuple(shape)}, more than the limit of {self.limit:,} elements"
                )
        return func(*args, **kwargs)


# results no larger than the first argument
_NO_LARGER = {
    "_to_copy", "t", "transpose", "permute", "view", "_unsafe_view", "reshape", "clone", "detach", "alias", "nonzero", "squeeze",
    "unsqueeze", "slice", "select", "neg", "abs", "round", "sum", "lift_fresh", "is_pinned", "equal", "item", "sign", "exp",
    "_local_scalar_dense", "all", "any", "max", "min", "amax", "amin", "cumsum", "empty_like", "zeros_like", "ones_like",
    "full_like",
}
_BROADCAST = {"add", "sub", "mul", "div", "where", "eq", "ne", "lt", "gt", "le", "ge"}
_SIZES = {"zeros": 0, "ones": 0, "empty": 0, "full": 0, "new_zeros": 1, "new_ones": 1, "new_empty": 1, "new_full": 1, "expand": 1}


def _result_shapes(func: Any, args: Any, kwargs: Any) -> list[Sequence[int]]:
    """The shapes of an operation's results, or shapes that are no smaller; none where the result is no larger than an input."""
    name = func.overloadpacket.__name__
    if name in _NO_LARGER or (func._schema.is_mutable and name != "resize_"):
        return []
    if name in _SIZES:
        return [args[_SIZES[name]]]
    shapes = [leaf.shape for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if name in _BROADCAST:
        return [np.broadcast_shapes(*shapes)]  # torch's would load sympy
    if name == "mm":
        return [(shapes[0][0], shapes[1][1])]
    if name in ("index", "index_select") and len(shapes[0]) == 1:
        return [shapes[1]]
    if name in ("cat", "stack"):
        return [(sum(prod(shape) for shape in shapes),)]
    return [leaf.shape for leaf in tree_leaves(_on_meta(func, args, kwargs)) if isinstance(leaf, Tensor)]


def _on_meta(func: Any, args: Any, kwargs: Any) -> Any:
    def meta(value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        return torch.device("meta") if isinstance(value, torch.device) else value

    if not any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs))):
        kwargs = {**kwargs, "device": torch.device("meta")}
    try:
        return func(*tree_map(meta, args), **tree_map(meta, kwargs))
    except (RuntimeError, TypeError, NotImplementedError):
        # results that depend on the values (places of the nonzeros) are no larger than the input
        return None


def densify(value: Code | Tensor, limit: int) -> Tensor:
    """The dense tensor of a code that came from a file; a :class:`FormatError` where its parts do not fit together."""
    if isinstance(value, Tensor):
        return value
    try:
        with torch.no_grad(), Bounded(limit):
            dense = value.decompress()
    except FormatError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, ZeroDivisionError, AttributeError, TautError) as error:
        raise FormatError(f"its parts do not fit together: {error}") from error
    if not isinstance(dense, Tensor):
        raise FormatError(f"its code decompresses to a {type(dense).__name__}")
    return dense


def shape_of(record: Record) -> tuple[tuple[int, ...], torch.dtype] | None:
    """Shape and dtype of the dense tensor from declared sizes alone; ``None`` where they follow from the values only."""
    if isinstance(record.tree, Declared):
        return record.tree.shape, record.tree.dtype
    try:
        declared = _with(record.tree, lambda tensor: tensor)
        if isinstance(declared, Code) and (known := declared.like()) is not None:
            return known
        value = _with(record.tree, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta"))
        with torch.no_grad():
            dense = value.decompress() if isinstance(value, Code) else value
    except (RuntimeError, ValueError, TypeError, NotImplementedError, IndexError, AttributeError, TautError):
        return None
    return (tuple(dense.shape), dense.dtype) if isinstance(dense, Tensor) and dense.is_meta else None


def _with(tree: Any, made: Callable[[Declared], Any]) -> Any:
    """A code with something in the place of each tensor."""
    if isinstance(tree, Declared):
        return made(tree)
    if isinstance(tree, Node):
        return tree.cls(**{name: _with(part, made) for name, part in tree.fields.items()})
    if isinstance(tree, tuple):
        return tuple(_with(part, made) for part in tree)
    return tree
