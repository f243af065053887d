"""ProxOptimizer: a torch optimizer for schedulers, checkpoints, hooks and AMP, with a proximal step on chosen weights."""

import copy
import pickle
import sys
import types
import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from taut.compressors import Codebook
from taut.errors import LayerError, TautError
from taut.layers import find_layers, put
from taut.regularizers import L1, L2, GroupLasso, Nuclear, NuclearSparseGroup
from taut.train import ProxOptimizer, assign

INNER = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}
EVERY_INNER = pytest.mark.parametrize("inner", INNER.values(), ids=INNER)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 3)
    )


def batch(step=0):
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(8, 1, 6, 6, generator=generator), torch.randint(0, 3, (8,), generator=generator)


def backward(model, step):
    x, y = batch(step)
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    return loss


def train(model, optimizer, steps, scheduler=None):
    for step in steps:
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same(a, b):
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def everything(model):
    return {"*": NuclearSparseGroup(0.02, 0.01), "0": GroupLasso(0.01)}


@EVERY_INNER
def test_step_is_the_inner_step_and_then_the_prox(inner):
    ours, plain = network(), network()
    optimizer, reference = (
        ProxOptimizer(inner(ours.parameters()), ours, {"4": Nuclear(0.3), "6": L1(0.1)}),
        inner(plain.parameters()),
    )
    for step in range(3):
        train(ours, optimizer, [step])
        train(plain, reference, [step])
        lr = reference.param_groups[0]["lr"]
        with torch.no_grad():
            plain[4].weight.copy_(Nuclear(0.3).prox(plain[4].weight, lr))
            plain[6].weight.copy_(L1(0.1).prox(plain[6].weight, lr))
    assert_same(weights(ours), weights(plain))


def test_every_kth_step_with_a_step_k_times_as_long():
    ours, plain = network(), network()
    optimizer = ProxOptimizer(torch.optim.SGD(ours.parameters(), lr=0.1), ours, {"6": L1(0.2)}, every=3)
    reference = torch.optim.SGD(plain.parameters(), lr=0.1)
    for step in range(7):
        train(ours, optimizer, [step])
        train(plain, reference, [step])
        if step in (2, 5):
            with torch.no_grad():
                plain[6].weight.copy_(L1(0.2).prox(plain[6].weight, 0.1 * 3))
        assert_same(weights(ours), weights(plain))


def test_biases_norms_and_other_layers_are_untouched():
    model = network()
    before = weights(model)
    optimizer = ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, {"*": L2(1.0)})
    optimizer.prox()
    for name, now in weights(model).items():
        chosen = name in ("0.weight", "4.weight", "6.weight")
        assert torch.allclose(now, before[name] / 1.1) if chosen else torch.equal(now, before[name]), name


def test_each_weight_gets_the_learning_rate_of_its_own_group():
    model = network()
    before = weights(model)
    groups = [{"params": model[4].parameters(), "lr": 0.5}, {"params": model[6].parameters()}]
    optimizer = ProxOptimizer(torch.optim.SGD(groups, lr=torch.tensor(0.25)), model, {"4": L2(1.0), "6": L2(1.0)})
    optimizer.prox()
    assert torch.allclose(model[4].weight, before["4.weight"] / 1.5)
    assert torch.allclose(model[6].weight, before["6.weight"] / 1.25)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.prox()
    assert torch.allclose(model[4].weight, before["4.weight"] / 1.5)


def test_live_views_of_the_inner_optimizer():
    model = network()
    inner = torch.optim.Adam(model.parameters(), lr=0.01)
    optimizer = ProxOptimizer(inner, model, {"*": L1(0.01)})
    assert isinstance(optimizer, torch.optim.Optimizer)
    train(model, optimizer, range(2))
    assert (
        optimizer.param_groups is inner.param_groups and optimizer.state is inner.state and optimizer.defaults is inner.defaults
    )
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups is inner.param_groups and optimizer.state is inner.state
    extra = nn.Parameter(torch.zeros(3))
    optimizer.add_param_group({"params": [extra], "lr": 0.5})
    assert len(inner.param_groups) == 2 and optimizer.param_groups[1]["lr"] == 0.5
    optimizer.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for p in model.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


SCHEDULERS = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "step": lambda o: lr_scheduler.StepLR(o, 2),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=12),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize("inner", [INNER["momentum"], INNER["adam"]], ids=["momentum", "adam"])
def test_schedulers_drive_gradient_and_prox(schedule, inner):
    ours, plain = network(), network()
    optimizer, reference = ProxOptimizer(inner(ours.parameters()), ours, {"6": L1(0.05)}), inner(plain.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "lr_scheduler.step() before optimizer.step()" among them
        one, two = schedule(optimizer), schedule(reference)
        for step in range(8):
            lr = reference.param_groups[0]["lr"]
            train(ours, optimizer, [step], one)
            optimizer_lr = one.get_last_lr()
            train(plain, reference, [step])
            with torch.no_grad():
                plain[6].weight.copy_(L1(0.05).prox(plain[6].weight, lr))
            two.step()
            assert optimizer_lr == two.get_last_lr()
    assert_same(weights(ours), weights(plain))


def test_reduce_on_plateau():
    model = network()
    optimizer = ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, {"*": L1(0.01)})
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    for _ in range(3):
        scheduler.step(1.0)
    assert optimizer.inner.param_groups[0]["lr"] == pytest.approx(0.025)


@EVERY_INNER
@pytest.mark.parametrize("through", ["memory", "pickle", "file"])
def test_resuming_gives_the_same_weights_bit_for_bit(inner, through, tmp_path):
    whole = network()
    optimizer = ProxOptimizer(inner(whole.parameters()), whole, everything(whole), every=3)
    scheduler = lr_scheduler.StepLR(optimizer, 4, gamma=0.5)
    train(whole, optimizer, range(5), scheduler)
    saved = {"model": whole.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    if through == "file":
        torch.save(saved, tmp_path / "checkpoint.pt")
        saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    else:
        saved = copy.deepcopy(saved) if through == "memory" else pickle.loads(pickle.dumps(saved))  # noqa: S301
    train(whole, optimizer, range(5, 12), scheduler)

    resumed = network(seed=9)
    again = ProxOptimizer(inner(resumed.parameters()), resumed, everything(resumed), every=3)
    clock = lr_scheduler.StepLR(again, 4, gamma=0.5)
    resumed.load_state_dict(saved["model"])
    again.load_state_dict(saved["optimizer"])
    clock.load_state_dict(saved["scheduler"])
    assert again.steps == 5
    train(resumed, again, range(5, 12), clock)
    assert_same(weights(whole), weights(resumed))


def test_state_dicts_and_plain_training_go_both_ways():
    model = network()
    inner = torch.optim.Adam(model.parameters())
    optimizer = ProxOptimizer(inner, model, {"*": L1(0.01)}, every=2)
    train(model, optimizer, range(3))
    assert optimizer.state_dict()["prox"] == {"steps": 3}
    torch.optim.Adam(model.parameters()).load_state_dict(optimizer.state_dict())
    optimizer.load_state_dict(inner.state_dict())
    assert optimizer.steps == 3, "a checkpoint of the inner optimizer holds the count as well"
    optimizer.load_state_dict(torch.optim.Adam(model.parameters()).state_dict())
    assert optimizer.steps == 0
    state = optimizer.state_dict()
    kept = copy.deepcopy(state["param_groups"])
    optimizer.load_state_dict(state)
    assert state["param_groups"] == kept and "prox" in state, "the given state dict was changed"


def test_a_copy_and_a_pickle_of_model_and_optimizer_train_on_alike():
    model = network()
    optimizer = ProxOptimizer(torch.optim.Adam(model.parameters()), model, everything(model), every=2)
    train(model, optimizer, range(3))
    pairs = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))]  # noqa: S301
    train(model, optimizer, range(3, 6))
    for other, its_optimizer in pairs:
        train(other, its_optimizer, range(3, 6))
        assert_same(weights(model), weights(other))


def test_closures():
    ours, plain = network(), network()
    optimizer, reference = ProxOptimizer(torch.optim.LBFGS(ours.parameters()), ours, {}), torch.optim.LBFGS(plain.parameters())

    def closure(model, opt):
        def evaluate():
            opt.zero_grad()
            return backward(model, 0)

        return evaluate

    loss = optimizer.step(closure(ours, optimizer))
    assert torch.equal(loss, reference.step(closure(plain, reference)))
    assert_same(weights(ours), weights(plain))
    assert optimizer.step(closure=closure(ours, optimizer)) is not None

    def fails():
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        optimizer.step(fails)
    assert optimizer.steps == 2


def test_hooks_run_once_around_the_whole_step():
    model = network()
    optimizer = ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, {"6": L1(100.0)})
    seen = []
    optimizer.register_step_pre_hook(lambda o, *_: seen.append(("before", o is optimizer, bool(model[6].weight.any()))))
    optimizer.register_step_post_hook(lambda o, *_: seen.append(("after", o is optimizer, bool(model[6].weight.any()))))
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("saving"))
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "note": 1})
    optimizer.register_load_state_dict_pre_hook(lambda o, state: seen.append(("loading", state.pop("note"))))
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append("loaded"))
    train(model, optimizer, [0])
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    assert seen == [("before", True, True), ("after", True, False), "saving", ("loading", 1), "loaded"]
    assert state["note"] == 1


@pytest.mark.parametrize("inner", [INNER["sgd"], INNER["adam"], INNER["adamw fused"]], ids=["sgd", "adam", "fused"])
def test_grad_scaler_skips_the_prox_with_the_step(inner):
    ours, plain = network(), network()
    optimizer, reference = ProxOptimizer(inner(ours.parameters()), ours, {"*": L1(0.1)}, every=2), inner(plain.parameters())
    scaler, other = (torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=100) for _ in range(2))
    for step in range(6):
        for model, opt, scale in ((ours, optimizer, scaler), (plain, reference, other)):
            opt.zero_grad()
            x, y = batch(step)
            scale.scale(nn.functional.cross_entropy(model(x), y)).backward()
            if step in (1, 4):
                model[4].weight.grad[0, 0] = torch.inf
            scale.unscale_(opt)
            before = weights(model)
            scale.step(opt)
            scale.update()
            if step in (1, 4):
                assert_same(weights(model), before)
        if step in (2, 5):  # the second and the fourth step that succeeded
            with torch.no_grad():
                for i in (0, 4, 6):
                    plain[i].weight.copy_(L1(0.1).prox(plain[i].weight, reference.param_groups[0]["lr"] * 2))
        for name, weight in weights(ours).items():
            # a fused optimizer unscales inside its kernel when it is alone
            assert torch.allclose(weight, weights(plain)[name], rtol=1e-5, atol=1e-7), (step, name)
    assert optimizer.steps == 4 and scaler.get_scale() == 256.0


def test_tied_weights_are_treated_once_and_answer_to_both_names():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.head.weight = self.embedding.weight

    for pattern in ("*", "embedding", "head"):
        model = Tied()
        before = model.head.weight.detach().clone()
        optimizer = ProxOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), model, {pattern: L2(1.0)})
        optimizer.prox()
        assert torch.allclose(model.head.weight, before / 2) and model.embedding.weight is model.head.weight


def test_input_first_weights_are_seen_output_first(monkeypatch):
    class Conv1D(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))

    monkeypatch.setitem(sys.modules, "transformers.pytorch_utils", types.SimpleNamespace(Conv1D=Conv1D))
    model = nn.Sequential(Conv1D())
    before = model[0].weight.detach().clone()
    ProxOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), model, {"0": GroupLasso(0.3, view="rows")}).prox()
    assert torch.equal(model[0].weight, GroupLasso(0.3, view="rows").prox(before.t(), 1.0).t())
    assert not torch.equal(model[0].weight, before)


def test_recurrent_weights_and_half_precision():
    model = nn.LSTM(3, 5).bfloat16()
    before = weights(model)
    ProxOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), model, {"weight_hh*": L2(1.0)}).prox()
    assert torch.equal(model.weight_hh_l0, before["weight_hh_l0"] / 2) and torch.equal(model.weight_ih_l0, before["weight_ih_l0"])
    model(torch.zeros(2, 1, 3, dtype=torch.bfloat16))


def test_frozen_weights_stay():
    model = network()
    model[4].requires_grad_(False)
    before = weights(model)
    ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, {"*": L2(1.0)}).prox()
    assert torch.equal(model[4].weight, before["4.weight"]) and not torch.equal(model[6].weight, before["6.weight"])


def chosen(model, regularizers):
    return {layer.name: regularizer for layer, regularizer in assign(model, regularizers)}


def test_exact_name_beats_pattern_and_the_first_pattern_wins():
    model = network()
    assert chosen(model, {"*": L1(1.0), "4": L2(2.0)}) == {"0": L1(1.0), "4": L2(2.0), "6": L1(1.0)}
    assert chosen(model, {"[46]": L1(1.0), "*": L1(2.0)}) == {"0": L1(2.0), "4": L1(1.0), "6": L1(1.0)}
    assert chosen(model, {"*": L1(1.0), "6": None}) == {"0": L1(1.0), "4": L1(1.0)}
    assert chosen(model, {}) == {}


def test_errors():
    model = network()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(LayerError, match="'fc' names no layer; the model has: 0, 4, 6"):
        ProxOptimizer(sgd, model, {"fc": L1()})
    with pytest.raises(TautError, match="'4': expected a regularizer"):
        ProxOptimizer(sgd, model, {"4": 0.1})
    with pytest.raises(TautError, match="at least 1"):
        ProxOptimizer(sgd, model, {"4": L1()}, every=0)
    with pytest.raises(TautError, match="not a ProxOptimizer"):
        ProxOptimizer(ProxOptimizer(sgd, model, {"4": L1()}), model, {"6": L1()})
    with pytest.raises(TautError, match="wraps a torch optimizer"):
        ProxOptimizer(model.parameters(), model, {"6": L1()})
    partly = torch.optim.SGD(model[4].parameters(), lr=0.1)
    with pytest.raises(LayerError, match=r"6: the optimizer does not hold the weight of shape \(3, 6\).*'6': None"):
        ProxOptimizer(partly, model, {"[46]": L1()})
    no_rate = ProxOptimizer(torch.optim.Adafactor(model.parameters(), lr=0.1), model, {"4": L1()})
    no_rate.param_groups[0]["lr"] = None
    with pytest.raises(TautError, match="4: its parameter group has no learning rate"):
        no_rate.prox()
    with torch.no_grad():
        model[4].weight[0, 0] = torch.nan
    with pytest.raises(TautError, match="4: Nuclear.* 1 NaN or infinite"):
        ProxOptimizer(sgd, model, {"4": Nuclear()}).prox()


def test_coded_layers_are_refused():
    model = network()
    layer = find_layers(model)["4"]
    late = ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, {"4": L1()})
    put(model, layer, Codebook(k=4).compress(layer.weight))
    with pytest.raises(LayerError, match="4: the weight is computed from other parameters"):
        ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, {"*": L1()})
    with pytest.raises(LayerError, match="4: the weight is computed"):
        late.prox()
    ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, {"*": L1(), "4": None}).prox()


def test_repr_and_penalty():
    model = network()
    optimizer = ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, {"6": L1(0.5), "4": L2(2.0)}, every=7)
    assert "every=7" in repr(optimizer) and "6: L1(strength=0.5)" in repr(optimizer) and "lr: 0.1" in repr(optimizer)
    expected = 0.5 * model[6].weight.abs().sum().item() + model[4].weight.square().sum().item()
    assert optimizer.penalty() == pytest.approx(expected)


def fixed_point(inner, strength, steps=300):
    """Where ``(w - 1)^2 / 2`` and l1 leave a single weight."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.5)
    optimizer = ProxOptimizer(inner(model.parameters()), model, {"*": L1(strength)})
    for _ in range(steps):
        optimizer.zero_grad()
        (model.weight - 1).square().sum().div(2).backward()
        optimizer.step()
    return model.weight.item()


def test_effective_strength_is_as_documented():
    assert fixed_point(lambda p: torch.optim.SGD(p, lr=0.1), 0.3) == pytest.approx(0.7, abs=1e-4)
    assert fixed_point(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 0.3) == pytest.approx(0.97, abs=1e-4)
    assert fixed_point(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.9), 0.3) == pytest.approx(0.7, abs=1e-4)


def test_adam_acts_at_the_strength_times_the_size_of_the_gradients():
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(300, 1, bias=False)
    optimizer = ProxOptimizer(torch.optim.Adam(model.parameters(), lr=0.02), model, {"*": L1(0.1)})
    average = 0.0
    for step in range(600):
        noise = 2 * torch.randn(1, 300, generator=generator)
        model.weight.grad = model.weight.detach() - 1 + noise  # the loss is (w - 1)^2 / 2, seen through noise of size 2
        optimizer.step()
        average += model.weight.mean().item() / 300 if step >= 300 else 0.0
    assert average == pytest.approx(1 - 0.1 * 2, abs=0.03)


def test_training_makes_exact_zeros_and_exact_low_rank():
    torch.manual_seed(0)
    true = torch.randn(6, 2) @ torch.randn(2, 8)
    x = torch.randn(256, 8)
    model = nn.Linear(8, 6, bias=False)
    optimizer = ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, {"*": Nuclear(0.1)}, every=4)
    for _ in range(400):
        optimizer.zero_grad()
        (model(x) - x @ true.t()).square().sum(1).mean().div(2).backward()
        optimizer.step()
    assert int(torch.linalg.matrix_rank(model.weight.detach())) == 2
