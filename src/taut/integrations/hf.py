"""Proximal steps in Hugging Face's ``Trainer``."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from taut.graph import extra
from taut.integrations.callback import Prox, finish, wrap
from taut.train import ProxOptimizer


class ProxCallback(Prox):
    """Train a transformer towards a compressible one: a ``TrainerCallback`` that follows the trainer's optimizer.

    After every step that the optimizer makes (one for ``gradient_accumulation_steps`` batches, none where a gradient scaler
    skips one) the step is counted, and every ``every``-th time the proximal step is made, with the learning rates that the
    steps had. The counters are in the optimizer's parameter groups and so in the trainer's checkpoints: a resumed training
    goes on as if it had not stopped. What a fast proximal operator remembers of each weight is found anew after resuming; to
    keep that as well, give the trainer the optimizer itself, ``Trainer(optimizers=(ProxOptimizer(...), None))``, without this
    callback. When training ends, and before its last checkpoint, the proximal steps for the last optimizer steps are made up for.

    Layers are named as in the model, ``{"*.attn.*": Nuclear(1e-3)}``. Sharded weights (FSDP, DeepSpeed) are refused;
    data-parallel training is not affected.

    Args:
        regularizers: ``{pattern: regularizer}``, as :class:`taut.train.ProxOptimizer` takes it.
        every: optimizer steps between two proximal steps.
        warmup: optimizer steps over which the strength rises.

    Raises:
        ExtraError: transformers is not installed.
        LayerError: when training starts, a pattern that names no layer or a weight that the optimizer does not hold.

    Example:
        >>> from transformers import TrainerCallback
        >>> from taut.regularizers import Nuclear
        >>> callback = ProxCallback({"*": Nuclear(1e-3)}, every=10)
        >>> isinstance(callback, TrainerCallback)
        True
    """

    followed: ProxOptimizer | None = None
    handle: Any = None

    @classmethod
    def base(cls) -> type:
        return extra("transformers", "hf").TrainerCallback

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, **_: Any) -> None:
        """Follow the optimizer; its counters, restored or not, are in its parameter groups already."""
        self._leave()
        inner = _innermost(optimizer)
        (prox,) = wrap([inner], _bare(model), self.regularizers, every=self.every, warmup=self.warmup)
        if isinstance(prox, ProxOptimizer):
            self.followed = prox
            self.handle = inner.register_step_post_hook(self._stepped)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """At the last step, leave exact zeros and ranks to its evaluation and its checkpoint."""
        if control.should_training_stop and self.followed is not None:
            finish([self.followed])

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Make up for the last steps, unless the weights are now those of an earlier step, and let the optimizer go."""
        restored = args.load_best_model_at_end and state.best_model_checkpoint is not None
        if self.followed is not None and not restored:
            finish([self.followed])
        self._leave()

    def _stepped(self, optimizer: Optimizer, *_: Any) -> None:
        # a fused optimizer is called by a gradient scaler even for a step that it then skips, and told so in this attribute
        overflow = getattr(optimizer, "found_inf", None)
        if self.followed is not None and (overflow is None or not bool(overflow)):
            self.followed.stepped()

    def _leave(self) -> None:
        if self.handle is not None:
            self.handle.remove()
        self.followed = self.handle = None


def _innermost(optimizer: Any) -> Optimizer:
    """The optimizer inside Accelerate's wrapper, or several of them."""
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    return optimizer


def _bare(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of data-parallel training and compilation, whose names its layers would bear."""
    while isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    return model
