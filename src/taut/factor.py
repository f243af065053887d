"""Factoring layers while they train: once a rank has settled, the smaller network is trained on, in the same loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from taut.compressors.base import Code
from taut.compressors.coded import Factored
from taut.compressors.low_rank import LowRank
from taut.errors import TautError
from taut.layers import Layer, find_layers, put
from taut.ranks import factorable
from taut.sensitivity import matrix_of, rank_of
from taut.train import ProxOptimizer, check_held

LINEAR = ("momentum_buffer", "exp_avg", "grad_avg")
"""Running means of gradients: they map to the factors as gradients do."""
SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")
"""Running means (or sums) of squared gradients."""


class FactorEarly:
    """Replace layers by two small ones while they train, each as soon as its rank has settled.

    Call :meth:`step` between two optimizer steps, once an epoch or every few hundred steps. A layer's rank is the smallest that
    holds ``energy`` of its squared singular values; it has settled when it stayed within ``tolerance`` (a fraction) over
    ``patience + 1`` calls, and when its factors hold fewer parameters than the layer. Training for low rank (a nuclear norm,
    trained rank pruning) is what makes ranks fall. From then on the forward and the backward pass are cheaper, and the rank is an
    upper bound: weight decay on the factors goes on lowering it, being the nuclear norm of their product. Alvarez and Salzmann,
    *Compression-aware training of deep networks*, NIPS 2017, section 4, save training time in this way.

    The optimizer goes on: the factors take the weight's place *in its own parameter group*, so that learning rate, weight
    decay and schedulers stay what they were; a regularizer of :class:`taut.ProxOptimizer` lets go of the layer. **Momentum is
    carried over.** The gradient of ``W = L R`` is ``G R^T`` for ``L`` and ``L^T G`` for ``R``; the running mean of ``G`` maps
    in the same way, which is exact had the factors stood still. The running squares of Adam and RMSprop are mapped with squared
    factors, which takes gradients of different elements as independent. The state of other optimizers starts anew for these
    weights. Wrap the model in ``DistributedDataParallel`` after factoring, not before; a checkpoint holds the factored network,
    which :func:`taut.save` and :func:`taut.load` restore.

    Args:
        model: whose layers are replaced, in place.
        optimizer: over its parameters; a :class:`taut.ProxOptimizer` or any torch optimizer.
        layers: a pattern of layer names.
        energy: share of the squared singular values to keep; 1 keeps all that is not rounding.
        patience: calls over which the rank has to stay.
        tolerance: how much it may move, as a fraction of the rank.
        scheme: of :class:`taut.compressors.LowRank`.

    Example:
        >>> from taut.regularizers import Nuclear
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 2))
        >>> inner = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        >>> optimizer = ProxOptimizer(inner, model, {"0": Nuclear(0.5)})
        >>> early = FactorEarly(model, optimizer, layers="0", patience=2)
        >>> x = torch.randn(64, 32)
        >>> y = (x[:, 0] > 0).long()
        >>> for epoch in range(60):
        ...     optimizer.zero_grad()
        ...     nn.functional.cross_entropy(model(x), y).backward()
        ...     optimizer.step()
        ...     replaced = early.step()
        >>> type(model[0]).__name__, early.factored["0"] <= 13
        ('Factored', True)
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, layers: str = "*", *, energy: float = 1.0, patience: int = 2,
        tolerance: float = 0.0, scheme: int = 1,
    ) -> None:  # fmt: skip
        if not 0 < energy <= 1 or patience < 1 or tolerance < 0:
            given = f"energy={energy}, patience={patience}, tolerance={tolerance}"
            raise TautError(f"FactorEarly({given}): energy is above 0 and at most 1, patience at least 1, tolerance at least 0")
        self.model, self.optimizer, self.layers, self.scheme = model, optimizer, layers, scheme
        self.energy, self.patience, self.tolerance = energy, patience, tolerance
        self.ranks: dict[str, list[int]] = {name: [] for name in factorable(model, layers, scheme)}
        self.factored: dict[str, int] = {}

    @torch.no_grad()
    def step(self) -> list[str]:
        """Look at the ranks, and replace the layers whose rank has settled; their names."""
        if isinstance(self.optimizer, ProxOptimizer):
            self.optimizer.flush()
        layers = find_layers(self.model)
        replaced = []
        for name in [n for n in self.ranks if n not in self.factored]:
            self.ranks[name].append(rank_of(matrix_of(layers[name], self.scheme), self.energy))
            method = LowRank(self.ranks[name][-1], self.scheme)
            if self._settled(self.ranks[name]) and method.refuses(layers[name]) is None:
                factor_layer(self.model, self.optimizer, layers[name], method)
                self.factored[name] = method.rank
                replaced.append(name)
        return replaced

    def _settled(self, ranks: list[int]) -> bool:
        recent = ranks[-self.patience - 1 :]
        return len(recent) > self.patience and max(recent) - min(recent) <= self.tolerance * max(recent)


@torch.no_grad()
def factor_layer(model: nn.Module, optimizer: Optimizer, layer: Layer, method: LowRank) -> None:
    """Put the factors of one layer in its place in ``model``, and into the optimizer, with its state.

    A weight that the optimizer does not hold raises a :class:`~taut.errors.LayerError`.
    """
    inner = optimizer.inner if isinstance(optimizer, ProxOptimizer) else optimizer
    check_held(layer, {id(p): group for group in inner.param_groups for p in group["params"]})
    weight, bias = getattr(layer.module, layer.parameter), layer.module.bias
    code = method.compress(layer.weight.detach())
    put(model, layer, code)
    new = model.get_submodule(layer.name)
    if not isinstance(new, Factored):
        raise TautError(f"{layer.name}: {method} leaves the layer as it is; there is nothing to factor")
    state = dict(inner.state.pop(weight, {}))
    factors = [part.weight for part in new]
    _exchange(inner, weight, factors)
    transposed = layer.kind == "hf_conv1d"
    for factor, known in zip(factors, _carried(state, code, weight.shape, transposed), strict=True):
        inner.state.update({factor: known} if known else {})
    if bias is not None:
        _exchange(inner, bias, [new.bias])
        if bias in inner.state:
            inner.state[new.bias] = inner.state.pop(bias)
    if isinstance(optimizer, ProxOptimizer):
        optimizer.chosen = [(known, regularizer) for known, regularizer in optimizer.chosen if known.name != layer.name]
        optimizer.memory.pop(layer.name, None)


def _exchange(optimizer: Optimizer, old: Tensor, new: list[Tensor]) -> None:
    """Put new parameters in the place of an old one, in its own group; one that no group holds stays out."""
    for group in optimizer.param_groups:
        for i, parameter in enumerate(group["params"]):
            if parameter is old:
                group["params"][i : i + 1] = new
                return


def _carried(state: dict[str, Any], code: Code, shape: torch.Size, transposed: bool) -> list[dict[str, Any]]:
    """The optimizer's state of each factor; empty where a part of it is not understood."""
    free = list(code.free())
    carried: list[dict[str, Any]] = [{} for _ in free]
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            parts = [value.clone() if isinstance(value, Tensor) else value for _ in free]
        elif value.shape == shape and key in (*LINEAR, *SQUARES):
            at = code.with_free([t.square() for t in free]) if key in SQUARES else code
            parts = pull_back(at, value.t() if transposed else value)
        else:
            return [{} for _ in free]
        for own, part in zip(carried, parts, strict=True):
            own[key] = part
    return carried


def pull_back(code: Code, gradient: Tensor) -> list[Tensor]:
    """The gradients of a code's free tensors, from that of its weight.

    Example:
        >>> code = LowRank(rank=1).compress(torch.diag(torch.tensor([4.0, 0.0])))
        >>> [part.tolist() for part in pull_back(code, torch.ones(2, 2))]  # L^T G and G R^T
        [[[2.0, 2.0]], [[2.0], [2.0]]]
    """
    with torch.enable_grad():
        free = [t.detach().clone().requires_grad_() for t in code.free()]
        weight = code.with_free(free).decompress()
        return [part.contiguous() for part in torch.autograd.grad(weight, free, gradient.to(weight.dtype))]
