"""Half precision: in the forward pass alone; weights, sums and losses stay in 32 bits, and training ends beside where it did."""

import copy
from math import inf

import pytest
import torch
from torch import nn

from taut.bench.data import Batches, load
from taut.bench.networks import build
from taut.bench.recipes import evaluate, train
from taut.budget import Recovery
from taut.budget.recover import _distance, recover
from taut.errors import TautError
from taut.objective import Objective
from taut.precision import PRECISIONS

DIGITS = load("digits")


def by_recipe(model, precision, seen):
    model.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    return train(model, DIGITS, epochs=4, batch_size=64, lr=4e-3, schedule="onecycle", threads=1, precision=precision)


def by_recovery(model, precision, seen):
    teacher, watched = copy.deepcopy(model), []
    model.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    how = Recovery(epochs=4, lr=4e-3, mix=False, precision=precision)
    look = model.forward  # not through the hook

    def watch(done):
        watched.append(look(DIGITS.example_input).dtype)

    recover(model, teacher, Batches(DIGITS.train, 64), Objective(), how, seed=0, deadline=inf, watch=watch)
    assert set(watched) == {torch.float32}  # candidates are measured as they ship
    return model


@pytest.mark.parametrize("way", [by_recipe, by_recovery])
def test_training_in_half_precision_ends_beside_that_in_single(way):
    begin = build("digits-cnn", 0)
    if way is by_recovery:
        begin = train(begin, DIGITS, epochs=1, batch_size=64, lr=4e-3, threads=1)
    found, dtypes = {}, {precision: [] for precision in PRECISIONS}
    for precision in PRECISIONS:
        found[precision] = way(copy.deepcopy(begin), precision, dtypes[precision])
    assert set(dtypes["float32"]) == {(torch.float32, torch.float32)}
    assert set(dtypes["bfloat16"]) == {(torch.float32, torch.bfloat16)}
    single, half = (torch.cat([p.detach().flatten() for p in found[precision].parameters()]) for precision in PRECISIONS)
    start = torch.cat([p.detach().flatten() for p in begin.parameters()])
    assert half.dtype == torch.float32
    assert 0 < (half - single).norm() < 0.5 * (single - start).norm()
    accuracy = [evaluate(model, DIGITS.val)[1] for model in found.values()]
    assert min(accuracy) > 0.85 and abs(accuracy[0] - accuracy[1]) < 0.03


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_distance_to_the_answers_is_taken_in_32_bits_at_least(dtype):
    generator = torch.Generator().manual_seed(0)
    logits, wanted = (torch.randn(16, 10, generator=generator).mul(4).to(dtype) for _ in range(2))
    p, q = ((x.double() / 2).softmax(-1) for x in (wanted, logits))
    want = 4 * (p * (p.log() - q.log())).sum(-1).mean()
    found = _distance(logits, wanted, 2.0)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float(found) == pytest.approx(float(want), rel=1e-5)


def test_an_unknown_precision_is_refused_before_training():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(TautError, match="choose one of float32, bfloat16"):
        train(model, DIGITS, epochs=1, precision="float8")
    with pytest.raises(TautError, match="'half'"):
        how = Recovery(epochs=1, precision="half")
        recover(model, model, Batches(DIGITS.train, 64), Objective(), how, seed=0, deadline=inf)
