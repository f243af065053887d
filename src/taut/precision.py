"""The arithmetic that a network trains in: single precision, or half of it where the processor has instructions for that."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor

from taut.errors import TautError

Computing = Callable[[], AbstractContextManager]
PRECISIONS = ("float32", "bfloat16")


def computing_in(precision: str, parameters: Iterable[Tensor]) -> Computing:
    """What makes a context for the forward pass of a network with these parameters, in ``precision``.

    ``"float32"``: as it is. ``"bfloat16"``: products of matrices and convolutions are computed from numbers of 16 bits, which is
    faster on processors with instructions for them (AVX-512 BF16, AMX) and slower on others; the parameters, their gradients,
    sums over a batch and losses stay in 32 bits (``torch.autocast``). The backward pass follows the forward pass, and is to be
    outside of the context.

    Raises:
        TautError: an unknown precision.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> with computing_in("bfloat16", layer.parameters())():
        ...     layer(torch.ones(1, 2)).dtype
        torch.bfloat16
    """
    if precision not in PRECISIONS:
        raise TautError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if precision == "float32":
        return nullcontext
    device = next((p.device.type for p in parameters), "cpu")
    return partial(torch.autocast, device, dtype=torch.bfloat16)
