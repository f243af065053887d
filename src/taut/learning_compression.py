"""The end of a learning-compression run: which compressor each layer has arrived at."""

from __future__ import annotations

from taut.compressors.base import Compressor
from taut.compressors.low_rank import LowRank
from taut.regularizers.distance import Distance
from taut.regularizers.learned_rank import LearnedRank
from taut.train import ProxOptimizer


def settle(optimizer: ProxOptimizer) -> dict[str, Compressor]:
    """The compressor of every layer that was trained towards one: ``{layer: compressor}`` for :func:`taut.apply`.

    A layer under :class:`~taut.regularizers.learned_rank.LearnedRank` gets the rank that pays at the strength it has reached
    (at least 1), and none where the dense matrix pays best; a layer under :class:`~taut.regularizers.Distance` gets the
    compressor of that distance; other layers are left out. After the last period the weights are near their compressed form,
    and ``taut.apply`` puts them there.

    Example: train on a quadratic loss with the learning-compression algorithm, then make the ranks explicit.
        >>> import torch
        >>> import taut
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 6, bias=False))
        >>> aim = torch.eye(6, 8) * torch.tensor([3.0, 2.0, 0.1, 0.1, 0.1, 0.1, 0, 0])
        >>> priced = LearnedRank(alpha=0.01, strength=0.1, growth=1.5, period=10)
        >>> optimizer = ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.3), model, {"0": priced})
        >>> for _ in range(200):
        ...     optimizer.zero_grad()
        ...     ((model[0].weight - aim) ** 2).sum().div(2).backward()
        ...     optimizer.step()
        >>> plan = settle(optimizer)
        >>> plan["0"].rank, tuple(taut.apply(model, plan)[0][0].weight.shape)
        (2, (2, 8))
    """
    plan: dict[str, Compressor] = {}
    for layer, regularizer in optimizer.chosen:
        if isinstance(regularizer, LearnedRank):
            tightening = optimizer.memory.get(layer.name, {}).get("tightening", 1.0)
            rank = max(1, regularizer.rank(layer.weight, tightening))
            low = LowRank(rank=rank, scheme=2 if regularizer.view == "matrix2" else 1)
            if low.refuses(layer) is None:
                plan[layer.name] = low
        elif isinstance(regularizer, Distance):
            plan[layer.name] = regularizer.compressor
    return plan
