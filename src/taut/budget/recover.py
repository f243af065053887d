"""Recovery: fine-tune what the codes leave free, to the labels and to the original network's outputs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from taut.budget.answers import Answers
from taut.errors import BudgetError
from taut.layout import channels_innermost
from taut.measure import BATCH_NORMS
from taut.objective import Objective, call_batch, logits_of
from taut.precision import computing_in

Penalty = Callable[[float], Tensor]
Watch = Callable[[float], None]
Project = Callable[[float], None]


class OutOfTime(Exception):  # noqa: N818 - a signal, not an error
    """The time limit came during a trial; what was kept before stands."""


@dataclass(frozen=True)
class Recovery:
    """How recovery trains.

    ``epochs``: of a round, with the learning rate ``lr`` falling to zero from the part ``hold`` of the round on; a sixth of them,
    at a steady rate, after each small move on the way there. ``first``: the fraction of the dense cost that the first step of a
    search aims at; long rounds allow a lower one. The share ``distill`` of the loss is the distance to the original's outputs at
    ``temperature`` (Hinton et al. 2015); gradients are clipped to the norm ``clip``. ``mix``: inputs that are plain float
    tensors are mixed in pairs and the original is asked about the mixtures, so that its *function* is matched and not only its
    answers on the training data, which a small network overfits (Beyer et al. 2022, arXiv 2106.05237; Zhang et al. 2018, arXiv
    1710.09412); then the original's share is ``distill_mixed``. A network with batch norms is trained on the data as it is: the
    statistics of mixtures are not those of data, and a network trained under them loses on the data. ``precision``: of the
    arithmetic of both networks (:func:`taut.precision.computing_in`); losses and weights stay as they are.
    """

    epochs: int = 8
    lr: float = 1e-3
    first: float = 0.07
    mix: bool = True
    steady: bool = False
    temperature: float = 2.0
    distill: float = 0.5
    distill_mixed: float = 0.9
    clip: float = 5.0
    hold: float = 0.1
    precision: str = "float32"


def recover(
    model: nn.Module, teacher: nn.Module, train: Iterable, objective: Objective, how: Recovery, *, seed: int, deadline: float,
    penalty: Penalty | None = None, watch: Watch | None = None, project: Project | None = None,
) -> None:  # fmt: skip
    """Train the free parameters of ``model`` for one round with Adam: warm-up, then cosine to zero (or steady).

    ``train`` is gone through ``how.epochs`` times. Deterministic for a given ``seed``: loaders that shuffle with torch's
    generator are seeded with it, those that count epochs are told through ``set_epoch``. ``penalty`` is added to the loss; it is
    called with the part of the round that is done, 0 to 1; so is ``watch``, after every epoch, which may look at the model but
    leaves it as it is. ``project`` is called so after every step, gradients still there: it puts the weights back to where they
    may be; it holds parameters, not their tensors, whose layout changes. Raises :class:`OutOfTime` at the deadline
    (``time.monotonic``).
    """
    torch.manual_seed(seed)
    parameters = [p for p in model.parameters() if p.requires_grad and p.numel()]
    if not parameters or how.epochs < 1:
        return
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)  # one kernel for all weights
    optimizer = torch.optim.Adam(parameters, lr=how.lr, fused=fused)
    how = replace(how, mix=how.mix and not any(isinstance(m, BATCH_NORMS) for m in model.modules()))
    model.train()
    answers, computing = Answers(teacher.eval()), computing_in(how.precision, parameters)
    with channels_innermost([*model.parameters(), *teacher.parameters()]):
        for epoch in range(how.epochs):
            if hasattr(train, "set_epoch"):
                train.set_epoch(seed * 1009 + epoch)
            length = _length(train)
            for i, batch in enumerate(train):
                if time.monotonic() > deadline:
                    raise OutOfTime
                done = (epoch + min(1.0, i / length)) / how.epochs
                for group in optimizer.param_groups:
                    group["lr"] = how.lr * (1.0 if how.steady else _shape(done, how.hold))
                optimizer.zero_grad(set_to_none=True)
                with computing():
                    loss = _loss(model, answers, batch, objective, how)
                _step(loss if penalty is None else loss + penalty(done), optimizer, parameters, how.clip)
                if project is not None:
                    project(done)
            if watch is not None:
                watch((epoch + 1) / how.epochs)
    model.eval()


def _length(train: Iterable) -> int:
    try:
        return max(1, len(train))  # type: ignore[arg-type]
    except TypeError:
        return sum(1 for _ in train)


def _shape(done: float, hold: float) -> float:
    """The learning rate's course over a round: up within a tenth, from ``hold`` on a half cosine to zero."""
    if done < 0.1:
        return done / 0.1
    return 1.0 if done < hold else 0.5 * (1 + math.cos(math.pi * (done - hold) / (1 - hold)))


def _step(loss: Tensor, optimizer: torch.optim.Optimizer, parameters: list[Tensor], clip: float) -> None:
    if not bool(torch.isfinite(loss)):
        raise BudgetError(
            f"the training loss became {float(loss)} during recovery; check the training data for NaN and infinite values"
        )
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()


def _loss(model: nn.Module, answers: Answers, batch: Any, objective: Objective, how: Recovery) -> Tensor:
    """The training loss: to the labels, and for classifiers to the original's outputs too."""
    if how.distill == 0 or not how.mix or not _mixable(batch) or objective.loss is not None:
        loss, logits = objective.training_loss(model, batch)
        if logits is None or how.distill == 0:
            return loss
        return (1 - how.distill) * loss + how.distill * _distance(logits, answers(batch), how.temperature)
    x, y = batch
    order = torch.randperm(len(x))
    share = torch.rand(len(x)).to(x)
    mixed = torch.lerp(x[order], x, share.reshape(-1, *[1] * (x.dim() - 1)))
    logits = logits_of(call_batch(model, mixed))
    to_labels = [functional.cross_entropy(logits, target, reduction="none") for target in (y, y[order])]
    loss = (share * to_labels[0] + (1 - share) * to_labels[1]).mean()
    return (1 - how.distill_mixed) * loss + how.distill_mixed * _distance(logits, answers.ask(mixed), how.temperature)


def _mixable(batch: Any) -> bool:
    """Whether a batch is ``(float tensor, class of each sample)``."""
    if not (isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        return False
    x, y = batch
    return x.is_floating_point() and not y.is_floating_point() and y.dim() == 1


def _distance(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    # in 32 bits at least, whatever the networks computed in
    student, target = (
        (of.to(torch.promote_types(of.dtype, torch.float32)) / temperature).reshape(-1, of.shape[-1]).log_softmax(-1)
        for of in (logits, wanted)
    )
    return temperature**2 * functional.kl_div(student, target.clone(), reduction="batchmean", log_target=True)
