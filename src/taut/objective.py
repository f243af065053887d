"""What is measured: the loss and the metric of a batch, whatever its form.

A batch is ``(input, target)``, a dict (Hugging Face), or inputs alone. Inputs alone, or a dict without ``labels``, are judged
against the original network: the loss is the mean squared distance of the outputs, the metric the agreement of their arg max.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from taut.errors import BudgetError
from taut.layers import call

Loss = Callable[[nn.Module, Any], Tensor]
Metric = Callable[[nn.Module, Iterable], float]


def inputs_of(batch: Any) -> Any:
    """The part of a batch that the model is called with."""
    if isinstance(batch, dict):
        return batch
    if isinstance(batch, list | tuple):
        return batch[0]
    return batch


def has_target(batch: Any) -> bool:
    """Whether a batch brings its own answer."""
    return "labels" in batch if isinstance(batch, dict) else isinstance(batch, list | tuple) and len(batch) > 1


def logits_of(output: Any) -> Tensor:
    """The tensor to judge: the output itself, or the ``logits`` (else the first entry) of a structured one."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits
    return next(iter(output.values())) if isinstance(output, dict) else output[0]


def batches_of(data: Iterable, name: str) -> Iterable:
    """``data`` in a form that can be gone through again and again; an exhausted or empty one is an error."""
    if data is None:
        raise BudgetError(f"{name} data is missing: give an iterable of batches")
    again = list(data) if isinstance(data, Iterator) else data
    if next(iter(again), None) is None:
        raise BudgetError(f"{name} data is empty: give at least one batch")
    return again


@dataclass(frozen=True)
class Scores:
    """Per-sample losses (or one per batch, with its size) and per-sample hits of one batch."""

    losses: Tensor
    hits: Tensor | None
    size: int


@dataclass(frozen=True)
class Objective:
    """The loss and metric of a network on batches.

    ``loss(model, batch)`` and ``metric(model, batches)`` are the user's own, or ``None`` for the defaults: cross-entropy and
    accuracy for integer targets, mean squared error and minus that for others. ``original`` is the network that batches
    without targets are compared with.
    """

    loss: Loss | None = None
    metric: Metric | None = None
    original: nn.Module | None = None

    def training_loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor | None]:
        """The mean loss of a batch, and the logits where they are those of a classifier (so that they can be distilled)."""
        if self.loss is not None:
            return self.loss(model, batch), None
        logits = logits_of(call_batch(model, batch))
        target = self._target(batch)
        return _losses(logits, target).mean(), None if target.is_floating_point() else logits

    def score(self, model: nn.Module, batch: Any) -> Scores:
        """The losses and hits of a batch, for measuring (call under ``no_grad``)."""
        if self.loss is not None:
            size = _size(batch)
            return Scores(self.loss(model, batch).detach().reshape(1).double(), None, size)
        logits = logits_of(call_batch(model, batch))
        target = self._target(batch)
        losses = _losses(logits, target)
        return Scores(losses.double(), _hits(logits, target), losses.numel())

    def _target(self, batch: Any) -> Tensor:
        if has_target(batch):
            return batch["labels"] if isinstance(batch, dict) else batch[1]
        if self.original is None:
            raise BudgetError("batches without targets need the original network to compare with: pass original=")
        with torch.no_grad():
            return logits_of(call_batch(self.original, batch)).detach()


def call_batch(model: nn.Module, batch: Any) -> Any:
    """The model's output for a batch, target left out."""
    if isinstance(batch, dict):
        return model(**batch)
    return call(model, inputs_of(batch))


def _size(batch: Any) -> int:
    first = next(iter(batch.values())) if isinstance(batch, dict) else inputs_of(batch)
    return first.shape[0] if isinstance(first, Tensor) else len(first)


def _losses(logits: Tensor, target: Tensor) -> Tensor:
    """One loss per sample (per token for sequences)."""
    if not target.is_floating_point():
        flat = logits.reshape(-1, logits.shape[-1]) if logits.dim() == target.dim() + 1 and target.dim() > 1 else logits
        return functional.cross_entropy(flat, target.reshape(-1) if target.dim() > 1 else target, reduction="none")
    return functional.mse_loss(logits, target, reduction="none").flatten(1).mean(1)


def _hits(logits: Tensor, target: Tensor) -> Tensor | None:
    if not target.is_floating_point():
        return (logits.argmax(-1) == target).reshape(-1)
    if logits.dim() > 1 and logits.shape[-1] > 1:
        return (logits.argmax(-1) == target.argmax(-1)).reshape(-1)
    return None


__all__ = ["Loss", "Metric", "Objective", "Scores", "batches_of", "call_batch", "has_target", "inputs_of", "logits_of"]
