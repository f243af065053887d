import copy

import numpy as np
import pytest
import torch
from torch import nn

from taut.bench.data import load
from taut.bench.networks import build
from taut.bench.recipes import RECIPES, answers, evaluate, make_optimizer, train
from taut.errors import TautError
from taut.regularizers import L1
from taut.regularizers.base import Regularizer

DIGITS = load("digits")


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(1), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


@pytest.mark.parametrize(
    "options", [{}, {"schedule": "onecycle", "augment": "shift1"}, {"optimizer": "sgd", "lr": 0.05, "weight_decay": 1e-4}]
)
def test_a_few_epochs_learn(options):
    seen = []
    settings = {"lr": 5e-3} | options
    model = train(small(), DIGITS, epochs=4, batch_size=32, progress=lambda *state: seen.append(state), **settings)
    loss, accuracy = evaluate(model, DIGITS.val)
    assert accuracy > 0.75 and loss < 0.8
    assert [state[:2] for state in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)] and seen[-1][2] < seen[0][2]
    assert not model.training


def test_the_demo_network_learns_in_two_epochs():
    model = train(build("digits-cnn"), DIGITS, **(RECIPES["digits-cnn", "digits"] | {"epochs": 2}))
    assert evaluate(model, DIGITS.val)[1] > 0.85
    assert all(p.is_contiguous() for p in model.parameters())


def test_training_repeats_and_leaves_the_global_state_alone():
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    with_dropout = [nn.Sequential(small(), nn.Dropout(0.1)) for _ in range(2)]
    torch.manual_seed(9)
    threads = torch.get_num_threads()
    one, two = (train(model, DIGITS, epochs=1, threads=1, augment="shift1") for model in with_dropout)
    assert torch.equal(torch.rand(1), expected) and torch.get_num_threads() == threads
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))


def test_regularizers_reach_the_weights():
    class PlantedHalve(Regularizer):
        """Pulls everything to zero."""

        def value(self, w):
            return w.abs().sum()

        def prox(self, w, step):
            return w * 0

    model = train(small(), DIGITS, epochs=1, regularizers={"1": PlantedHalve()})
    assert not model[1].weight.any() and model[3].weight.any() and model[1].bias.any()


def test_biases_and_norms_do_not_decay():
    groups = make_optimizer(build("digits-cnn"), "adam", 1e-3, 0.1).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(p.dim() > 1 for p in groups[0]["params"]) and all(p.dim() == 1 for p in groups[1]["params"])


def test_answers_equal_a_loop_over_examples():
    model, split = small(), DIGITS.val.take(37)
    loss, right = answers(model, split, batch_size=8)
    logits = torch.cat([model(split.x[i : i + 1]) for i in range(37)]).detach()
    assert np.array_equal(right, (logits.argmax(1) == split.y).numpy())
    assert loss == pytest.approx(float(nn.functional.cross_entropy(logits, split.y)), rel=1e-5)
    assert model.training and evaluate(model, split) == pytest.approx((loss, right.mean()))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epochs": 0}, "at least 1"),
        ({"epochs": 1, "optimizer": "lion"}, "adam or sgd"),
        ({"epochs": 1, "schedule": "step"}, "cosine or onecycle"),
        ({"epochs": 1, "augment": "mixup"}, "shift1"),
        ({"epochs": 2, "optimizer": "sgd", "lr": 1e9}, "lower lr"),
        ({"epochs": 1, "sizes": {0.5: 8}}, "from 0 on"),
        ({"epochs": 1, "sizes": {0: 0}}, "pixels"),
    ],
)
def test_bad_settings_are_one_clear_error(options, says):
    with pytest.raises(TautError, match=says):
        train(small(), DIGITS, **options)


def test_strengths_per_parameter_and_warmup_reach_the_optimizer():
    torch.manual_seed(0)
    start = small()
    free, even, late = (
        train(copy.deepcopy(start), DIGITS, epochs=1, batch_size=64, lr=5e-3, regularizers={"*": L1(0.1)}, **options)
        for options in ({}, {"per": "params"}, {"warmup": 10**6})
    )
    size = [model[1].weight.abs().sum().item() for model in (free, even, late)]
    assert size[1] < 0.8 * size[0] and size[0] < 0.99 * size[2]


def test_more_of_the_images_is_shown_over_the_epochs():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.out, self.sides = nn.Linear(1, 10), []

        def forward(self, x):
            self.sides.append(x.shape[-1])
            return self.out(x.mean((2, 3)))

    model = train(Pooled(), DIGITS, epochs=4, batch_size=2000, sizes={0: 4, 0.5: 6, 0.75: 8})
    assert model.sides == [4, 4, 6, 8]
