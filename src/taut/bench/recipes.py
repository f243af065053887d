"""Training that is good enough to compare against: the same for a baseline and for a network trained to be compressible."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from taut.bench.augment import middle, pixels
from taut.bench.checkpoint import Checkpoint
from taut.bench.data import Batches, Split, Splits
from taut.budget.recover import Penalty
from taut.errors import TautError
from taut.layout import channels_innermost
from taut.precision import Computing, computing_in
from taut.regularizers.base import Regularizer
from taut.strengths import even
from taut.train import ProxOptimizer

Progress = Callable[[int, int, float], None]

_GREY = {"batch_size": 128, "lr": 1e-3, "weight_decay": 1e-3, "augment": "shift1"}
# 20 epochs, the first 15 on the middle of the images: what two processor cores can do for several networks and seeds
_COLOUR = {"batch_size": 128, "augment": "flip-crop", "optimizer": "sgd", "epochs": 20, "sizes": {0: 24, 0.75: 32}}
# epochs are generous: a baseline is trained at least as long as a network and its fine-tuning after compression
RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("digits-cnn", "digits"): {**_GREY, "epochs": 30, "batch_size": 64, "lr": 4e-3, "schedule": "onecycle"},
    ("fashion-cnn", "fashion-mnist"): {**_GREY, "epochs": 8, "lr": 3e-3, "schedule": "onecycle"},
    ("digits-resnet", "digits"): {**_GREY, "epochs": 60, "batch_size": 64, "lr": 2e-3, "schedule": "onecycle"},
    ("fashion-resnet", "fashion-mnist"): {**_GREY, "epochs": 15, "lr": 2e-3, "schedule": "onecycle"},
    ("lenet-300-100", "mnist"): {**_GREY, "epochs": 100},
    ("lenet-5-caffe", "mnist"): {**_GREY, "epochs": 30},
    # twice as long as study train-taut trains it: 20 epochs leave 17 % error
    ("resnet-20", "cifar-10"): {**_COLOUR, "lr": 0.1, "weight_decay": 5e-4, "epochs": 40, "sizes": {0: 24, 0.5: 32}},
    ("vgg-small", "cifar-10"): {**_COLOUR, "lr": 0.05, "weight_decay": 5e-4},
    ("char-transformer", "python-source"): {
        "batch_size": 32, "lr": 2e-3, "weight_decay": 0.05, "epochs": 3, "schedule": "onecycle",
    },
    # as it is, of binary activations only; wrapped (networks.BINARY), of binary weights too: no decay, which moves no sign
    ("bnn-small", "cifar-10"): {**_COLOUR, "optimizer": "adam", "lr": 2e-3},
}  # fmt: skip


def train(
    model: nn.Module,
    splits: Splits,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    augment: str | None = None,
    optimizer: str = "adam",
    schedule: str = "cosine",
    regularizers: Mapping[str, Regularizer | None] | None = None,
    every: int = 1,
    warmup: int = 0,
    per: str | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    penalty: Penalty | None = None,
    around: Callable[[Optimizer], Optimizer] | None = None,
    checkpoint: Path | None = None,
    sizes: Mapping[float, int] | None = None,
    precision: str = "float32",
) -> nn.Module:
    """Train ``model`` in place on ``splits.train`` by cross-entropy and return it, in evaluation mode.

    ``optimizer`` is ``"adam"`` (with decoupled weight decay: Loshchilov and Hutter, 2019) or ``"sgd"`` (Nesterov momentum
    0.9); ``schedule`` is ``"cosine"`` (down to 0) or ``"onecycle"`` (Smith and Topin, 2019), stepped every batch.
    ``regularizers`` maps layer patterns to regularizers, applied by :class:`taut.train.ProxOptimizer` every ``every``
    steps with a strength that rises over the first ``warmup`` steps; with ``per`` their strengths are per parameter or per
    multiply-add of a layer (:func:`taut.strengths.even`). ``penalty(done)`` is added to the loss, ``done`` the part of the
    training that is over, 0 to 1. ``around(optimizer)`` is stepped in the optimizer's place, as a peer's wrapper is. ``threads``
    sets torch's threads while training. ``progress(epoch, epochs, loss)`` is called after every epoch with the mean training
    loss, without penalties. After every epoch the state is kept in the file ``checkpoint``, if one is named; the same training
    called again goes on from there, to the same weights, and the file stays. ``sizes`` maps parts of the training, from 0 on, to
    the side in pixels of the middle of the images that is shown from there: it costs less to begin with a part, at the scale of
    the whole, for networks that pool over all positions. ``precision``: of the network's arithmetic
    (:func:`taut.precision.computing_in`). Nothing is chosen by validation data.

    Raises:
        TautError: an unknown optimizer, schedule, augmentation or precision, epochs below 1, a loss that is no longer finite,
            or a checkpoint of another training.

    Example:
        >>> from taut.bench.data import load
        >>> from taut.bench.networks import build
        >>> splits = load("digits")
        >>> model = train(build("digits-cnn"), splits, epochs=2, batch_size=64, lr=4e-3, threads=1)
        >>> evaluate(model, splits.val)[1] > 0.8
        True
    """
    if epochs < 1:
        raise TautError(f"cannot train for {epochs} epochs: at least 1")
    batches = Batches(splits.train, batch_size, seed=seed, augment=augment)
    stepper = make_optimizer(model, optimizer, lr, weight_decay)
    if regularizers:
        if per is not None:
            regularizers = even(model, regularizers, per, splits.train.x[:1])
        stepper = ProxOptimizer(stepper, model, dict(regularizers), every=every, warmup=warmup)
    if around is not None:
        stepper = around(stepper)
    scheduler = make_schedule(stepper, schedule, lr, epochs * len(batches))
    computing = computing_in(precision, model.parameters())
    with _threads(threads), torch.random.fork_rng(devices=[]), channels_innermost(model.parameters()):
        torch.manual_seed(seed)
        model.train()
        kept = None if checkpoint is None else _kept(checkpoint, model, stepper, scheduler, {
            "epochs": epochs, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay, "augment": augment, "seed": seed,
            "optimizer": optimizer, "schedule": schedule, "regularizers": regularizers, "every": every, "warmup": warmup,
            "sizes": sizes, "precision": precision,
        })  # fmt: skip
        batches.epoch = 0 if kept is None else kept.resume()
        for epoch in range(batches.epoch, epochs):
            side = None if sizes is None else pixels(sizes, epoch / epochs)
            loss = _epoch(model, batches, stepper, scheduler, _part(penalty, epoch, epochs), side, computing)
            if not np.isfinite(loss):
                raise TautError(f"the training loss is {loss} in epoch {epoch + 1}; lower lr (it is {lr})")
            if kept is not None:
                kept.write(epoch + 1)
            if progress is not None:
                progress(epoch + 1, epochs, loss)
    return model.eval()


def _kept(
    path: Path, model: nn.Module, stepper: Optimizer, scheduler: LRScheduler, settings: Mapping[str, Any]
) -> Checkpoint:  # fmt: skip
    return Checkpoint(path, {"model": model, "stepper": stepper, "scheduler": scheduler}, settings)


def _part(penalty: Penalty | None, epoch: int, epochs: int) -> Penalty | None:
    """The penalty as a function of the part of one epoch that is over."""
    return None if penalty is None else lambda within: penalty((epoch + within) / epochs)


def _epoch(
    model: nn.Module, batches: Batches, stepper: Optimizer, scheduler: LRScheduler, penalty: Penalty | None = None,
    side: int | None = None, computing: Computing = nullcontext,
) -> float:  # fmt: skip
    total = torch.zeros(())
    for i, (x, y) in enumerate(batches):
        stepper.zero_grad()
        with computing():
            outputs = model(x if side is None else middle(x, side))
        loss = cross_entropy(_answers(outputs).float(), y.flatten())
        (loss if penalty is None else loss + penalty(i / len(batches))).backward()
        stepper.step()
        scheduler.step()
        total += loss.detach() * len(y)
    return float(total) / len(batches.split)


def make_optimizer(model: nn.Module, name: str, lr: float, weight_decay: float) -> Optimizer:
    """The optimizer called ``name`` over all of the model's parameters; biases and norms do not decay."""
    decays = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decays, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if name == "adam":
        return torch.optim.AdamW(groups, lr=lr, fused=True)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True)
    raise TautError(f"unknown optimizer {name!r}; choose adam or sgd")


def make_schedule(stepper: Optimizer, name: str, lr: float, steps: int) -> LRScheduler:
    """The learning-rate schedule called ``name`` over ``steps`` steps."""
    if name == "cosine":
        return CosineAnnealingLR(stepper, steps)
    if name == "onecycle":
        return OneCycleLR(stepper, max_lr=lr, total_steps=steps)
    raise TautError(f"unknown schedule {name!r}; choose cosine or onecycle")


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def answers(model: nn.Module, split: Split, batch_size: int = 128) -> tuple[float, np.ndarray]:
    """The mean cross-entropy on ``split`` and, for each example, whether the arg max is its class (boolean ``(n,)``).

    Of text each character is one.
    """
    training = model.training
    model.eval()
    loss, right = 0.0, []
    try:
        for x, y in Batches(split, batch_size, shuffle=False):
            logits = _answers(model(x))
            loss += float(cross_entropy(logits, y.flatten(), reduction="sum"))
            right.append(logits.argmax(1) == y.flatten())
    finally:
        model.train(training)
    return loss / split.y.numel(), torch.cat(right).numpy()


def _answers(logits: Tensor) -> Tensor:
    """``(n, classes)``, or ``(n, length, classes)`` of text, as one row an answer."""
    return logits.flatten(0, -2)


def evaluate(model: nn.Module, split: Split) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (a fraction) of ``model`` on ``split``; the model's mode is restored."""
    loss, right = answers(model, split)
    return loss, float(right.mean())
