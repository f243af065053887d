"""What factoring a layer in the middle of training must keep: the function, the optimizer, its momentum, the schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from taut.compressors import LowRank
from taut.layers import Layer, find_layers

Factor = Callable[[nn.Module, torch.optim.Optimizer, Layer, LowRank], None]
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "plain": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-4),
    "adam": lambda p: torch.optim.AdamW(p, lr=1e-3, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
}
LINEAR = ("momentum_buffer", "exp_avg", "grad_avg")
SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")


def exactly(rank: int, layer: nn.Module) -> None:
    """Make a layer's weight one of this rank."""
    with torch.no_grad():
        u, s, vt = torch.linalg.svd(layer.weight.flatten(1), full_matrices=False)
        layer.weight.copy_((u[:, :rank] * s[:rank] @ vt[:rank]).reshape(layer.weight.shape))


def case(kind: str = "linear") -> tuple[nn.Module, Tensor, Layer]:
    """A network whose first layer has rank 3, its input, and that layer."""
    torch.manual_seed(0)
    first = nn.Linear(20, 16) if kind == "linear" else nn.Conv2d(4, 16, 3, padding=1, stride=2)
    x = torch.randn(32, 20) if kind == "linear" else torch.randn(32, 4, 6, 6)
    model = nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(16 if kind == "linear" else 144, 5))
    exactly(3, first)
    return model, x, find_layers(model)["0"]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, steps: int) -> None:
    y = torch.arange(len(x)) % 5
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def check_same_function(factor: Factor, kind: str) -> None:
    """Where nothing but rounding is cut, the outputs stay."""
    model, x, layer = case(kind)
    want = model(x).detach()
    factor(model, OPTIMIZERS["plain"](model.parameters()), layer, LowRank(3))
    assert torch.allclose(model(x), want, atol=1e-5)


def check_carries_on(factor: Factor, optimizer: str, kind: str = "linear") -> None:
    """The optimizer holds every parameter of the model once and nothing else, in groups as they were; training goes on."""
    model, x, layer = case(kind)
    layers = [model[0].parameters(), model[3].parameters()]
    opt = OPTIMIZERS[optimizer]([{"params": list(p), "lr": lr} for p, lr in zip(layers, (0.01, 0.02), strict=True)])
    schedule = torch.optim.lr_scheduler.StepLR(opt, 1, gamma=0.5)
    train(model, opt, x, 3)
    factor(model, opt, layer, LowRank(3))
    assert {id(p) for g in opt.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}
    assert sum(len(g["params"]) for g in opt.param_groups) == len(list(model.parameters())) == 5
    assert len(opt.param_groups) == 2 and opt.param_groups[0]["lr"] == 0.01
    assert set(opt.state) <= set(model.parameters())
    schedule.step()
    assert [g["lr"] for g in opt.param_groups] == [0.005, 0.01]
    before = [p.detach().clone() for p in model.parameters()]
    train(model, opt, x, 2)
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    opt.load_state_dict(opt.state_dict())


def check_momentum(factor: Factor, optimizer: str) -> None:
    """Running means map as gradients do (``G R^T`` and ``L^T G``), running squares with squared factors, the bias's as it is."""
    model, x, layer = case()
    opt = OPTIMIZERS[optimizer](model.parameters())
    train(model, opt, x, 4)
    exactly(3, model[0])
    weight, bias = dict(opt.state[model[0].weight]), dict(opt.state[model[0].bias])
    factor(model, opt, layer, LowRank(3))
    right, left = (part.weight.detach() for part in model[0])
    seen = 0
    for key, value in weight.items():
        if key not in (*LINEAR, *SQUARES) or value is None:
            continue
        r, k = (right**2, left**2) if key in SQUARES else (right, left)
        assert torch.allclose(opt.state[model[0][0].weight][key], k.T @ value, rtol=1e-4, atol=1e-8), key
        assert torch.allclose(opt.state[model[0][1].weight][key], value @ r.T, rtol=1e-4, atol=1e-8), key
        seen += 1
    assert seen
    assert all(opt.state[model[0].bias][key] is value for key, value in bias.items())
