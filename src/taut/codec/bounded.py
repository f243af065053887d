"""Decompressing a code that came from a file, without trusting its sizes.

Two thin factors multiply out to a huge matrix, so the size of a record says nothing of the size of the weight. Under
:class:`Bounded` every torch operation is tried on the meta device first, where nothing is allocated; a result of more elements
than the bound is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from taut.codec.records import Node, Record
from taut.codec.tensors import Declared
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

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for result in tree_leaves(_on_meta(func, args, kwargs)):
            if isinstance(result, Tensor) and result.numel() > self.limit:
                raise FormatError(
                    f"the parts multiply out to shape {tuple(result.shape)}, more than the limit of {self.limit:,} elements"
                )
        return func(*args, **kwargs)


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
    try:
        value = _to_meta(record.tree)
        with torch.no_grad():
            dense = value.decompress() if isinstance(value, Code) else value
    except (RuntimeError, ValueError, TypeError, NotImplementedError, IndexError, AttributeError, TautError):
        return None
    return (tuple(dense.shape), dense.dtype) if isinstance(dense, Tensor) and dense.is_meta else None


def _to_meta(tree: Any) -> Any:
    if isinstance(tree, Declared):
        return torch.empty(tree.shape, dtype=tree.dtype, device="meta")
    if isinstance(tree, Node):
        return tree.cls(**{name: _to_meta(part) for name, part in tree.fields.items()})
    if isinstance(tree, tuple):
        return tuple(_to_meta(part) for part in tree)
    return tree
