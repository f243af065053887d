"""Proximal steps in Lightning's ``Trainer``."""

from __future__ import annotations

from typing import Any

from taut.graph import extra
from taut.integrations.callback import Prox, finish, wrap


class ProxCallback(Prox):
    """Train a ``LightningModule`` towards a compressible network: a callback that wraps the trainer's optimizers.

    At the start of a fit every optimizer that holds a chosen weight becomes a :class:`taut.train.ProxOptimizer`, so steps are
    optimizer steps (one for ``accumulate_grad_batches`` batches, none where a gradient scaler skips one), the learning rate is
    that of the weight's own parameter group, and checkpoints hold all that a resumed fit needs to go on bit for bit; with the
    callback, a checkpoint of a plain fit resumes too, and the other way round. When training ends, the proximal steps for the
    last optimizer steps are made up for. Layers are named as in the module: ``{"encoder.*": Nuclear(1e-3)}``.

    Weights that are sharded over devices (FSDP, DeepSpeed's third stage) are refused; data-parallel training is not affected.
    Without this callback, ``configure_optimizers`` may return a ``ProxOptimizer`` as it may any other.

    Args:
        regularizers: ``{pattern: regularizer}``, as :class:`taut.train.ProxOptimizer` takes it.
        every: optimizer steps between two proximal steps.
        warmup: optimizer steps over which the strength rises.

    Raises:
        ExtraError: Lightning is not installed.
        LayerError: when the fit starts, a pattern that names no layer or a weight that no optimizer holds.

    Example:
        >>> from lightning.pytorch import Callback
        >>> from taut.regularizers import Nuclear
        >>> callback = ProxCallback({"*": Nuclear(1e-3)}, every=10)
        >>> isinstance(callback, Callback)
        True
    """

    @classmethod
    def base(cls) -> type:
        return extra("lightning.pytorch", "lightning").Callback

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Wrap the optimizers: they exist, and nothing has been restored into them yet."""
        old = trainer.strategy.optimizers
        trainer.strategy.optimizers = wrap(old, pl_module, self.regularizers, every=self.every, warmup=self.warmup)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave exact zeros and ranks, whatever the number of steps."""
        finish(trainer.strategy.optimizers)
