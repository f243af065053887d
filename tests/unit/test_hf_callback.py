"""The Hugging Face callback against proximal steps written out, under accumulation, schedules and checkpoints."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch
from laws.loop_laws import batch, network
from torch.nn.functional import cross_entropy

from taut.errors import ExtraError, LayerError
from taut.integrations.hf import ProxCallback
from taut.layers import find_layers
from taut.regularizers import L1, Nuclear

missing = [name for name in ("transformers", "accelerate") if importlib.util.find_spec(name) is None]
needs = pytest.mark.skipif(bool(missing), reason="needs the extra: pip install 'taut[hf]'")
REGULARIZERS = {"transformer.h.0.mlp.*": Nuclear(2.0), "transformer.wte": L1(0.5)}


def tiny():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 16, "n_positions": 6}
    return GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0))


def fit(tmp_path, callbacks, resume=None, **options):
    from transformers import Trainer, TrainingArguments

    rows = torch.randint(0, 16, (40, 6), generator=torch.Generator().manual_seed(1))
    data = [{"input_ids": row, "labels": row} for row in rows]
    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=8, per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=1e-2,
        lr_scheduler_type="cosine", save_steps=4, report_to=[], use_cpu=True, disable_tqdm=True, logging_strategy="no", **options,
    )  # fmt: skip
    trainer = Trainer(model=tiny(), args=args, train_dataset=data, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def by_hand(every):
    """The proximal steps written out, in the event after every optimizer step."""
    from transformers import TrainerCallback

    class ByHand(TrainerCallback):
        length, steps = 0.0, 0

        @torch.no_grad()
        def prox(self, model):
            layers = find_layers(model)
            for name, regularizer in (("mlp.c_fc", Nuclear(2.0)), ("mlp.c_proj", Nuclear(2.0)), ("wte", L1(0.5))):
                layer = next(value for key, value in layers.items() if key.endswith(name))
                layer.weight.copy_(regularizer.prox(layer.weight, self.length))
            self.length = 0.0

        def on_optimizer_step(self, args, state, control, model, optimizer, **_):
            self.steps += 1
            self.length += optimizer.param_groups[0]["lr"]
            if self.steps % every == 0:
                self.prox(model)

        def on_train_end(self, args, state, control, model, **_):
            self.prox(model)

    return ByHand()


def assert_same(model, other):
    found, expected = model.state_dict(), other.state_dict()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


@needs
def test_as_by_hand_and_a_resumed_training_goes_on_bit_for_bit(tmp_path):
    whole = fit(tmp_path / "whole", [ProxCallback(REGULARIZERS, every=3)])
    assert_same(whole.model, fit(tmp_path / "hand", [by_hand(3)], save_strategy="no").model)
    assert bool((whole.model.transformer.wte.weight == 0).any())
    resumed = fit(tmp_path / "again", [ProxCallback(REGULARIZERS, every=3)], resume=str(tmp_path / "whole" / "checkpoint-4"))
    assert_same(resumed.model, whole.model)
    # the last checkpoint holds what the training ended with
    saved = type(whole.model).from_pretrained(tmp_path / "whole" / "checkpoint-8")
    assert_same(saved, whole.model)


@needs
def test_mistakes(tmp_path):
    with pytest.raises(LayerError, match="'fc' names no layer"):
        fit(tmp_path, [ProxCallback({"fc": L1()})])


@needs
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_does_not_count(fused):
    model = network()
    callback = ProxCallback({"2": L1(0.1)})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    callback.on_train_begin(None, None, None, model=model, optimizer=optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for step in range(4):
        optimizer.zero_grad()
        x, y = batch(step)
        scaler.scale(cross_entropy(model(x), y)).backward()
        if step == 1:
            model[0].weight.grad[0, 0] = torch.inf
        before = model[2].weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(model[2].weight, before) is (step == 1)
    assert callback.followed.steps == 3


@needs
def test_a_best_model_that_was_put_back_is_not_shrunk_again():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for best, changes in (("checkpoint-4", False), (None, True)):
        callback = ProxCallback({"*": L1(0.1)}, every=100)
        callback.on_train_begin(None, None, None, model=model, optimizer=optimizer)
        optimizer.step()
        before = model[0].weight.detach().clone()
        ended = SimpleNamespace(best_model_checkpoint=best)
        callback.on_train_end(SimpleNamespace(load_best_model_at_end=True), ended, None)
        assert torch.equal(model[0].weight, before) is not changes
        optimizer.step()
        assert callback.followed is None and not optimizer._optimizer_step_post_hooks


def test_without_transformers_the_error_names_the_extra(monkeypatch):
    class Fresh(ProxCallback):
        """Not joined with its base before."""

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ExtraError, match=r"taut\[hf\]"):
        Fresh({"*": L1()})
