"""Laws of training in the user's own loop: the proximal steps follow the optimizer's steps, whatever else the loop does."""

import io
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from taut.regularizers import Nuclear
from taut.regularizers.base import Regularizer


@dataclass(frozen=True)
class LawRotatedL1(Regularizer):
    """L1 in a rotated basis, by products in the weight's own precision: what autocast would round."""

    strength: float = 0.1

    def rotation(self, w):
        return torch.linalg.qr(torch.randn(w.shape[1], w.shape[1], generator=torch.Generator().manual_seed(0)).to(w))[0]

    def value(self, w):
        return self.strength * (w @ self.rotation(w)).abs().sum()

    def prox(self, w, step):
        turned = w @ self.rotation(w)
        return torch.nn.functional.softshrink(turned, step * self.strength) @ self.rotation(w).T


@dataclass(frozen=True)
class Loop:
    """A training loop: what it does besides stepping."""

    every: int = 1
    steps: int = 8
    accumulate: int = 1
    clip: float | None = None
    autocast: bool = False
    step_in_autocast: bool = False
    scaler: bool = False
    overflow: tuple[int, ...] = ()
    groups: bool = False
    schedule: bool = False
    resume_at: int | None = None

    def __str__(self):
        return ",".join(f"{k}={v}" for k, v in vars(self).items() if v != getattr(Loop(), k)) or "plain"


LOOPS = [
    Loop(),
    Loop(every=3),
    Loop(every=3, accumulate=4),
    Loop(clip=0.1),
    Loop(autocast=True),
    Loop(autocast=True, step_in_autocast=True),
    Loop(every=2, scaler=True, overflow=(1, 4)),
    Loop(every=3, groups=True),
    Loop(every=5, schedule=True, steps=10),
    Loop(every=3, resume_at=4),
    Loop(every=3, accumulate=2, clip=0.5, autocast=True, scaler=True, overflow=(2,), groups=True, schedule=True, resume_at=5),
]
REGULARIZERS = {"0": Nuclear(0.2), "2": LawRotatedL1(0.1)}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def batch(number):
    generator = torch.Generator().manual_seed(100 + number)
    return torch.randn(4, 6, generator=generator), torch.randint(0, 3, (4,), generator=generator)


def parts(loop, wrap):
    """Model, optimizer, scheduler and scaler of a loop at its start."""
    model = network()
    two = [{"params": model[0].parameters(), "lr": 0.3}, {"params": model[2].parameters()}]
    groups = two if loop.groups else model.parameters()
    optimizer = wrap(torch.optim.SGD(groups, lr=0.1, momentum=0.5), model, REGULARIZERS, loop.every)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, loop.steps if loop.schedule else 10**9)
    return model, optimizer, schedule, torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=100, enabled=loop.scaler)


def resumed(loop, wrap, old):
    """The parts anew, with what a checkpoint file of the old ones holds."""
    file = io.BytesIO()
    torch.save([part.state_dict() for part in old], file)
    file.seek(0)
    new = parts(loop, wrap)
    for part, state in zip(new, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    return new


def train(loop, wrap, after=lambda step, model, optimizer: None):
    """The loop, as its user writes it; ``after`` is called after every try of a step."""
    model, optimizer, schedule, scaler = parts(loop, wrap)
    for step in range(loop.steps):
        if step == loop.resume_at:
            model, optimizer, schedule, scaler = resumed(loop, wrap, (model, optimizer, schedule, scaler))
        optimizer.zero_grad()
        for micro in range(loop.accumulate):
            x, y = batch(step * loop.accumulate + micro)
            with torch.autocast("cpu", torch.bfloat16, enabled=loop.autocast):
                loss = cross_entropy(model(x), y) / loop.accumulate
            scaler.scale(loss).backward()
        if step in loop.overflow:
            model[0].weight.grad[0, 0] = torch.inf
        scaler.unscale_(optimizer)
        if loop.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), loop.clip)
        with torch.autocast("cpu", torch.bfloat16, enabled=loop.step_in_autocast):
            scaler.step(optimizer)
        scaler.update()
        after(step, model, optimizer)
        schedule.step()
    return model, optimizer


def reference(loop):
    """The same weights the slow way: a plain optimizer that never stops, and every proximal step written out."""
    lengths = dict.fromkeys(REGULARIZERS, 0.0)
    made = 0

    @torch.no_grad()
    def prox(model):
        for name, regularizer in REGULARIZERS.items():
            weight = model[int(name)].weight
            weight.copy_(regularizer.prox(weight, lengths[name]))
            lengths[name] = 0.0

    def after(step, model, optimizer):
        nonlocal made
        if step in loop.overflow:
            return
        made += 1
        for name in lengths:
            lengths[name] += optimizer.param_groups[1 if loop.groups and name == "2" else 0]["lr"]
        if made % loop.every == 0:
            prox(model)

    plain = Loop(**{**vars(loop), "resume_at": None})
    model, _ = train(plain, lambda optimizer, *_: optimizer, after)
    prox(model)
    return model


def check_loop(wrapper, loop):
    """Bit for bit the weights of the reference; with zeros, so that the proximal steps had an effect."""
    model, optimizer = train(loop, lambda inner, model, regularizers, every: wrapper(inner, model, regularizers, every=every))
    optimizer.flush()
    expected = reference(loop).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), f"{loop}: {name} differs by {(value - expected[name]).abs().max():.1e}"
    assert not torch.equal(model[0].weight, train(loop, lambda o, *_: o)[0][0].weight)


def check_same_on_every_rank(regularizer, w):
    """The random numbers of a process, which differ from rank to rank, have no say in a proximal step, nor are any used up."""
    found = []
    for rank in range(2):
        torch.manual_seed(rank)
        before, memory = torch.get_rng_state(), {}
        first = regularizer.warm_prox(w, 0.1, memory)
        found.append(regularizer.warm_prox(first, 0.1, memory))
        assert torch.equal(torch.get_rng_state(), before), f"{regularizer} draws from the global generator"
    assert torch.equal(*found), f"{regularizer} gives each rank weights of its own"


def check_same_weights(some, others, tolerance):
    """Two trainings ended at the same weights: the largest difference, in units of the largest weight, within ``tolerance``."""
    assert some.keys() == others.keys()
    for name in some:
        off = (some[name] - others[name]).abs().max() / others[name].abs().max().clamp_min(1e-30)
        assert off <= tolerance, f"{name} is off by {off:.1e} of its largest weight; allowed is {tolerance:.1e}"
