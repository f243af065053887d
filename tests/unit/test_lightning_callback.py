"""The Lightning callback: the weights of a plain loop with ProxOptimizer, bit for bit, also across a checkpoint."""

import copy
import importlib.util
import logging
import pickle
import sys

import pytest
import torch
from laws.loop_laws import batch, network
from torch.nn.functional import cross_entropy

from taut.errors import ExtraError, LayerError, TautError
from taut.integrations.lightning import ProxCallback
from taut.regularizers import L1, Nuclear
from taut.train import ProxOptimizer

needs = pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="needs the extra: pip install 'taut[lightning]'")
REGULARIZERS = {"net.0": Nuclear(0.2), "net.2": L1(0.1)}
BATCHES = [batch(i) for i in range(16)]


def module(optimizers=1, overflow=(), by_step=False):
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()
            self.automatic_optimization = optimizers == 1

        def training_step(self, step_batch, number):
            # Lightning starts the loader anew where a fit is resumed: which batch comes is then its affair, not the callback's
            x, y = BATCHES[self.global_step] if by_step else step_batch
            loss = cross_entropy(self.net(x), y)
            if optimizers == 1:
                return loss
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()
            return None

        def on_after_backward(self):
            if self.global_step in overflow:
                self.net[0].weight.grad[0, 0] = torch.inf

        def configure_optimizers(self):
            if optimizers == 2:
                return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net[0], self.net[2])]
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Module()


def fit(tmp_path, model, callbacks, ckpt_path=None, batches=16, **options):
    import lightning.pytorch as pl

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": tmp_path}
    saving = any(isinstance(c, pl.callbacks.ModelCheckpoint) for c in callbacks)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=8, callbacks=callbacks, enable_checkpointing=saving, **quiet, **options
    )
    trainer.fit(model, torch.utils.data.DataLoader(BATCHES[:batches], batch_size=None), ckpt_path=ckpt_path, weights_only=None)
    return trainer


def plain(every, accumulate, clip):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    optimizer = ProxOptimizer(optimizer, model, {"0": REGULARIZERS["net.0"], "2": REGULARIZERS["net.2"]}, every=every)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
    for step in range(8):
        optimizer.zero_grad()
        for x, y in BATCHES[step * accumulate : (step + 1) * accumulate]:
            (cross_entropy(model(x), y) / accumulate).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        schedule.step()
    optimizer.flush()
    return model.state_dict()


def assert_same(model, expected):
    found = model.state_dict()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


@needs
def test_accumulation_clipping_and_schedule_as_in_a_plain_loop(tmp_path):
    model = module()
    trainer = fit(tmp_path, model, [ProxCallback(REGULARIZERS, every=3)], accumulate_grad_batches=2, gradient_clip_val=0.5)
    assert isinstance(trainer.optimizers[0], ProxOptimizer) and trainer.optimizers[0].steps == 8
    assert_same(model.net, plain(3, 2, 0.5))


@needs
def test_a_resumed_fit_goes_on_bit_for_bit(tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    whole, resumed = module(by_step=True), module(by_step=True)
    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True)
    fit(tmp_path, whole, [ProxCallback(REGULARIZERS, every=3), saving], batches=4)
    callback = ProxCallback(REGULARIZERS, every=3)
    trainer = fit(tmp_path, resumed, [callback], ckpt_path=tmp_path / "step=4.ckpt", batches=4)
    assert trainer.optimizers[0].steps == 8
    assert_same(resumed, whole.state_dict())


@needs
def test_two_optimizers_share_the_layers_and_a_skipped_step_does_not_count(tmp_path):
    from lightning.pytorch.plugins.precision import MixedPrecision

    model = module(optimizers=2)
    trainer = fit(tmp_path, model, [ProxCallback(REGULARIZERS)])
    assert [[layer.name for layer, _ in o.chosen] for o in trainer.optimizers] == [["net.0"], ["net.2"]]
    mixed = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=8.0))
    trainer = fit(tmp_path, module(overflow=(2,)), [ProxCallback(REGULARIZERS)], plugins=[mixed])
    assert trainer.optimizers[0].steps == 7


@needs
def test_mistakes_and_copies(tmp_path):
    with pytest.raises(LayerError, match="'fc' names no layer; the model has: net.0, net.2"):
        fit(tmp_path, module(), [ProxCallback({"fc": L1()})])
    callback = ProxCallback(REGULARIZERS, every=3, warmup=2)
    for other in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):  # noqa: S301
        assert type(other) is type(callback) and other.__reduce__() == callback.__reduce__()


def test_without_lightning_the_error_names_the_extra(monkeypatch):
    class Fresh(ProxCallback):
        """Not joined with its base before."""

    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(ExtraError, match=r"taut\[lightning\]"):
        Fresh({"*": L1()})


@needs
def test_regularizers_are_a_mapping():
    with pytest.raises(TautError, match="mapping"):
        ProxCallback(L1())
