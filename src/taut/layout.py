"""The layout of the weights of convolutions in memory while a network trains."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def channels_innermost(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Within, weights of convolutions have their channels innermost: training on a processor takes about a third less time.

    The pooling after them gains most. ``parameters`` are a model's, or some of them; others than contiguous tensors of four
    dimensions on a processor are left alone. Afterwards they are contiguous again, with the same values. Unlike
    ``model.to(memory_format=torch.channels_last)`` this holds for weights of one input channel, too: torch takes these for laid
    out already, and all that follows them would not be.

    Example:
        >>> first = torch.nn.Conv2d(1, 20, 5)
        >>> with channels_innermost(first.parameters()):
        ...     first(torch.zeros(1, 1, 28, 28)).stride()
        (11520, 1, 480, 20)
        >>> first(torch.zeros(1, 1, 28, 28)).stride()
        (11520, 576, 24, 1)
    """
    weights = [p for p in parameters if p.dim() == 4 and p.device.type == "cpu" and p.is_contiguous()]
    for p in weights:
        p.data = torch.empty_like(p, memory_format=torch.channels_last).copy_(p.data)
    try:
        yield
    finally:
        for p in weights:
            p.data = torch.empty_like(p, memory_format=torch.contiguous_format).copy_(p.data)
