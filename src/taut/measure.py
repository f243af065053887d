"""Measuring a network: loss and metric, Fisher information, batch-norm statistics, and the ledger of what ships."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from taut.codec.files import sizes
from taut.compressors.base import Code
from taut.compressors.coded import Factored
from taut.cost import Ledger, Row
from taut.errors import BudgetError
from taut.layers import Alias, Layer, bake, batch_size, codes, evaluating, find_layers
from taut.objective import Loss, Metric, Objective, batches_of, call_batch, inputs_of, logits_of


@dataclass(frozen=True)
class Evaluation:
    """A measured loss and metric over ``count`` samples; ``losses`` (and ``hits``) per sample, in the order of the data."""

    loss: float
    metric: float
    count: int
    losses: Tensor
    hits: Tensor | None = None

    def paired_error(self, other: Evaluation) -> float:
        """The standard error of the difference of two mean losses on the same samples."""
        if len(self.losses) != len(other.losses) or len(self.losses) < 2:
            return 0.0
        return float((self.losses - other.losses).std()) / sqrt(len(self.losses))

    def paired_metric_error(self, other: Evaluation) -> float:
        """That of two accuracies; 0 for other metrics, of which nothing is known per sample."""
        if self.hits is None or other.hits is None or len(self.hits) != len(other.hits) or len(self.hits) < 2:
            return 0.0
        return float((self.hits.double() - other.hits.double()).std()) / sqrt(len(self.hits))


def evaluate(model: nn.Module, data: Iterable, objective: Objective | None = None) -> Evaluation:
    """The loss and the metric of ``model`` on ``data``, in evaluation mode; modules' modes come back afterwards.

    Raises :class:`~taut.errors.BudgetError` for empty data or a loss that is not finite.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> evaluate(model, [(torch.eye(2), torch.tensor([0, 1]))]).metric
        1.0
    """
    objective = objective or Objective()
    data = batches_of(data, "evaluation")
    with evaluating(model), torch.no_grad():
        scores = [objective.score(model, batch) for batch in data]
        metric = objective.metric(model, data) if objective.metric is not None else None
    # a user's loss gives one mean per batch: weight it by the batch's size
    weights = torch.tensor([s.size / len(s.losses) for s in scores for _ in range(len(s.losses))], dtype=torch.float64)
    losses = torch.cat([s.losses.cpu() for s in scores])
    loss = float((losses * weights).sum() / weights.sum())
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise BudgetError(f"the loss is {loss}; check the data and the weights for NaN and infinite values")
    found = [s.hits.cpu() for s in scores if s.hits is not None]
    hits = torch.cat(found) if len(found) == len(scores) else None
    if metric is None:
        metric = float(hits.double().mean()) if hits is not None else -loss
    return Evaluation(loss, float(metric), sum(s.size for s in scores), losses, hits)


def fisher_diagonal(
    model: nn.Module, data: Iterable, layers: dict[str, Layer], *, samples: int = 2048, seed: int = 0, loss: Loss | None = None
) -> dict[str, Tensor]:
    r"""The diagonal of the Fisher information per sample, with labels *sampled* from the model: ``{layer: tensor}``.

    .. math:: h_i = \mathbb{E}_x \mathbb{E}_{y \sim p(y|x)} \left(\partial_{w_i} \log p(y|x)\right)^2

    At a trained optimum the gradient and the empirical Fisher vanish and predict nothing; the sampled one does not. Scores of
    different samples are independent with mean zero, so the squared gradient of a *batch's sum* has the per-sample sum as its
    expectation: one backward pass a batch, any layer type (Grosse & Martens 2016, section 2; Kunstner et al. 2019). For
    regression the target noise is Gaussian, which gives the diagonal of Gauss-Newton. With a user's own ``loss`` there is no
    distribution to sample from: the squared gradient of each batch's mean is used.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {name: _raw(layer) for name, layer in layers.items()}
    if not weights:
        return {}
    total = {name: torch.zeros_like(w) for name, w in weights.items()}
    seen = 0
    frozen = [w for w in weights.values() if w.is_leaf and not w.requires_grad]
    with evaluating(model), _trainable(frozen):
        for batch in batches_of(data, "calibration"):
            for part in _split(batch, 64 if loss is None else 0):
                score = loss(model, part) if loss is not None else _sampled_score(model, part, generator)
                grads = torch.autograd.grad(score, list(weights.values()), allow_unused=True)
                for name, grad in zip(weights, grads, strict=True):
                    if grad is not None:
                        total[name] += grad.detach() ** 2
                seen += _count(part)
            if seen >= samples:
                break
    return {name: (t.t() if layers[name].kind == "hf_conv1d" else t) / seen for name, t in total.items()}


@contextmanager
def _trainable(weights: list[Tensor]) -> Iterator[None]:
    """Frozen weights have gradients too while their curvature is measured."""
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)


def _raw(layer: Layer) -> Tensor:
    return getattr(layer.module, layer.parameter)


def _count(batch: Any) -> int:
    return batch_size(inputs_of(batch))


def _split(batch: Any, size: int) -> Iterable:
    """Pieces of a plain batch: more pieces, less variance of the estimate."""
    x = inputs_of(batch)
    if not size or not isinstance(x, Tensor) or len(x) <= size:
        return [batch]
    return list(x.split(size))


def _sampled_score(model: nn.Module, batch: Any, generator: torch.Generator) -> Tensor:
    if isinstance(batch, dict):
        batch = {k: v for k, v in batch.items() if k != "labels"}
    logits = logits_of(call_batch(model, batch))
    if not bool(torch.isfinite(logits).all()):
        raise BudgetError("the outputs on the training data are NaN or infinite; check its inputs for NaN and infinite values")
    if logits.dim() > 1 and logits.shape[-1] > 1:
        flat = logits.reshape(-1, logits.shape[-1])
        labels = torch.multinomial(flat.detach().softmax(-1).cpu(), 1, generator=generator).to(flat.device)
        return -flat.log_softmax(-1).gather(1, labels).sum()
    return (logits * torch.randn(logits.shape, generator=generator).to(logits)).sum()


BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def reestimate_batchnorm(model: nn.Module, data: Iterable, batches: int = 32) -> None:
    """Set the running statistics of every batch norm to plain averages over up to ``batches`` batches of inputs.

    Give it inputs as training has them, augmented: of training images as they are the averages are others, and accuracy is lost
    (``benchmarks/averages.py``).
    """
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
    if not norms:
        return
    with evaluating(model), torch.no_grad():
        momenta = [m.momentum for m in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        for batch in islice(data, batches):
            call_batch(model, batch)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def count_macs(model: nn.Module, example_input: Any) -> dict[str, float]:
    """Multiply-adds for one input, per module path, seen in a forward pass of the modules that really run."""
    return {name: layer.macs for name, layer in find_layers(bake(model), example_input).items()}


def ledger(model: nn.Module, example_input: Any = None, sizes: dict[str, int] | None = None, total: int = 0) -> Ledger:
    """The cost of a model: parameters the modules hold, nonzeros, MACs; bytes from the codec's record ``sizes``.

    Example:
        >>> ledger(nn.Sequential(nn.Linear(4, 2)), torch.zeros(1, 4)).totals()
        {'params': 10, 'nonzeros': 10, 'macs': 8.0, 'bytes': 0}
    """
    sizes = sizes or {}
    macs = count_macs(model, example_input) if example_input is not None else {}
    plain = bake(model)
    rows = []
    parameters = {id(p) for p in plain.parameters()}
    for name, value in codes(model).items():
        if isinstance(value, Alias):
            continue
        path = name.rpartition(".")[0]
        held = _held(plain, name, parameters)
        used = sum(count for key, count in macs.items() if key in (path, name) or (_is_factored(plain, path, key)))
        weight = name.endswith("weight") or ".weight_" in name
        rows.append(
            Row(
                name,
                parameters=sum(p.numel() for p in held),
                nonzeros=sum(int(torch.count_nonzero(p)) for p in held),
                macs=used if weight else 0.0,
                bytes=sizes.get(name, 0),
                what=describe(value) if isinstance(value, Code) else "dense",
            )
        )
    return Ledger(tuple(rows), bytes=total)


def _is_factored(plain: nn.Module, path: str, key: str) -> bool:
    """Whether ``key`` is one of the layers, at any depth, that the layer ``path`` is made of."""
    return key.startswith(f"{path}." if path else "") and isinstance(plain.get_submodule(path), Factored)


def _held(plain: nn.Module, name: str, parameters: set[int]) -> list[Tensor]:
    """The parameters that the modules hold for a tensor of the original network: two for a factored weight, none for a buffer."""
    path, _, key = name.rpartition(".")
    module = plain.get_submodule(path)
    if isinstance(module, Factored) and key == "weight":
        return [m.weight for m in module.modules() if not isinstance(m, Factored)]
    tensor = getattr(module, key)
    return [tensor] if id(tensor) in parameters else []


def describe(code: Code) -> str:
    """What a code is, for people: ``Prune → Codebook``.

    Example:
        >>> from taut.compressors.base import DenseCode
        >>> describe(DenseCode(torch.zeros(2)))
        'Dense'
    """
    inner = [part for part in code.parts().values() if isinstance(part, Code)]
    own = type(code).__name__.removesuffix("Code")
    if own == "Transposed" and inner:
        return describe(inner[0])
    return own + (f" → {describe(inner[0])}" if inner else "")


def measure(
    model: nn.Module,
    data: Iterable,
    *,
    loss: Loss | None = None,
    metric: Metric | None = None,
    original: nn.Module | None = None,
) -> dict[str, float]:
    """Loss, metric, parameters, nonzeros, MACs and bytes of ``model``: the measured keys of a record.

    ``data`` is an iterable of batches; ``original`` is needed when they have no targets. ``bytes`` is the length of the file
    that :func:`taut.save` writes.
    """
    found = evaluate(model, data, Objective(loss, metric, original))
    example = inputs_of(next(iter(data)))
    return {"loss": found.loss, "metric": found.metric, **ledger(model, example, *sizes(model)).totals()}


__all__ = [
    "Evaluation", "count_macs", "describe", "evaluate", "fisher_diagonal", "ledger", "measure", "reestimate_batchnorm",
]  # fmt: skip
