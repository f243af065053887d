"""What every regularizer must satisfy, as plain functions of a regularizer, a weight and a step."""

import dataclasses
import math

import torch

from taut.regularizers import Regularizer

SLACK = 1e-9  # of the objective, in fp64


def discovered(listed):
    """Every regularizer of taut of a class that ``listed`` lacks, at its defaults but for the strengths: 0.4 is seen on weights
    of size 1."""
    known = {type(setting) for setting in listed}
    found = [cls for cls in Regularizer.registry.values() if cls.__module__.startswith("taut.") and cls not in known]
    return [cls(**dict.fromkeys(cls.strengths, 0.4)) for cls in found]


def objective(regularizer, z, w, step):
    """What the prox minimises, times the step: ``step * r(z) + ||z - w||^2 / 2``."""
    return step * float(regularizer.value(z)) + 0.5 * float((z - w).square().sum())


def assert_no_better(regularizer, rivals, z, w, step):
    least = objective(regularizer, z, w, step)
    for name, rival in rivals:
        other = objective(regularizer, rival, w, step)
        assert least <= other + SLACK * (1 + abs(other)), f"{regularizer}: {name} has {other:.12g}, the prox {least:.12g}"


def check_prox_minimises(regularizer, w, step):
    """No random, scaled, interpolated or otherwise obvious rival has a smaller objective."""
    w = w.double()
    z = regularizer.prox(w, step)
    generator = torch.Generator().manual_seed(0)
    rivals = [("w", w), ("zero", torch.zeros_like(w))]
    rivals += [(f"{s} z", s * z) for s in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0)]
    rivals += [(f"z + {s} (w - z)", z + s * (w - z)) for s in (-0.5, -0.1, -0.01, 0.01, 0.1, 0.5)]
    rivals += [(f"the prox at {s} times the step", regularizer.prox(w, s * step)) for s in (0.5, 0.9, 1.1, 2.0)]
    for size in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(6):
            noise = torch.randn(w.shape, generator=generator, dtype=w.dtype)
            rivals.append((f"noise of {size}", z + size * noise))
            rivals.append((f"noise of {size} on the nonzeros", z + size * noise * (z != 0)))
    for index in range(0, w.numel(), max(1, w.numel() // 12)):
        for change in (-1e-2, 1e-2):
            rival = z.clone().reshape(-1)
            rival[index] += change
            rivals.append((f"element {index} moved by {change}", rival.reshape(w.shape)))
    assert_no_better(regularizer, rivals, z, w, step)


def check_prox_against_brute_force(regularizer, w, step):
    """On a weight of two elements: no point of a grid that is refined around its best point does better."""
    assert w.numel() == 2
    w = w.double()
    z = regularizer.prox(w, step)
    center, width = torch.zeros(2, dtype=w.dtype), 2 * float(w.abs().max()) + 1
    for _ in range(5):
        line = torch.linspace(-width, width, 9, dtype=w.dtype)
        points = [center + torch.stack([a, b]) for a in line for b in line] + [torch.zeros(2, dtype=w.dtype)]
        values = [objective(regularizer, p.reshape(w.shape), w, step) for p in points]
        center, width = points[values.index(min(values))], width / 3
    assert_no_better(regularizer, [("brute force", center.reshape(w.shape))], z, w, step)


def check_subgradient(regularizer, w, step):
    """Convex: ``(w - z) / step`` is a subgradient at the prox ``z``, so ``r(y) >= r(z) + <(w - z) / step, y - z>`` for all y."""
    w = w.double()
    z = regularizer.prox(w, step)
    slope, least = (w - z) / step, float(regularizer.value(z))
    generator = torch.Generator().manual_seed(1)
    others = [torch.zeros_like(w), w, -w, slope, 2 * z]
    others += [s * torch.randn(w.shape, generator=generator, dtype=w.dtype) for s in (0.01, 1.0, 100.0) for _ in range(5)]
    for y in others:
        bound = least + float((slope * (y - z)).sum())
        assert float(regularizer.value(y)) >= bound - 1e-9 * (1 + abs(bound)), f"{regularizer}: no subgradient at its prox"


def check_moreau(regularizer, w, step):
    """Norms: Moreau's identity. What the prox takes away lies in the ball of the dual norm, and touches it at the prox."""
    w = w.double()
    z = regularizer.prox(w, step)
    taken = w - z
    assert torch.allclose((taken * z).sum(), step * regularizer.value(z), rtol=1e-9, atol=1e-9), f"{regularizer}: not aligned"
    assert torch.allclose(regularizer.prox(taken, step), torch.zeros_like(w), atol=1e-7), f"{regularizer}: outside the dual ball"
    assert torch.allclose(regularizer.value(3 * w), 3 * regularizer.value(w)), f"{regularizer}: not homogeneous"


def check_nonexpansive(regularizer, w, step):
    """Two weights are never moved apart; exact proxes are even firmly nonexpansive."""
    generator = torch.Generator().manual_seed(2)
    w = w.double()
    for size in (1e-3, 0.1, 1.0, 10.0):
        other = w + size * torch.randn(w.shape, generator=generator, dtype=w.dtype)
        before, after = w - other, regularizer.prox(w, step) - regularizer.prox(other, step)
        bound = (before * after).sum() if regularizer.exact() else before.norm() * after.norm()
        assert float(after.square().sum()) <= float(bound) * (1 + 1e-9) + 1e-12, f"{regularizer}: moves weights apart"


def check_descends(regularizer, w, step):
    """The objective at the prox is not larger than at ``w``; inexact proxes are asked at a short step only."""
    w = w.double()
    step = step if regularizer.exact() else 1e-2 * step
    assert objective(regularizer, regularizer.prox(w, step), w, step) <= objective(regularizer, w, w, step) + SLACK, str(
        regularizer
    )


def check_lowers(regularizer, w, step):
    """A step that is no proximal one, a force or a projection: a short one makes the penalty smaller, unless it is 0."""
    w = w.double()
    z = regularizer.prox(w, 1e-2 * step)
    before, after = float(regularizer.value(w)), float(regularizer.value(z))
    assert after <= before + SLACK * (1 + before), f"{regularizer}: the step raises the value from {before:.12g} to {after:.12g}"
    assert after < before or before < SLACK, f"{regularizer}: the step does nothing at a value of {before:.12g}"


def check_zero_step(regularizer, w, step=0.0):
    """A step of zero returns the weight, bit for bit, in a new tensor."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        given = w.to(dtype)
        z = regularizer.prox(given, 0.0)
        assert torch.equal(z, given), f"{regularizer}: a zero step changes the weight in {dtype}"
        assert z.data_ptr() != given.data_ptr() or not w.numel(), f"{regularizer}: a zero step returns the weight's own memory"


def check_interface(regularizer, w, step):
    """Shape, dtype and device kept; the input untouched; the value a finite scalar, not negative, with a finite gradient."""
    kept = w.clone()
    z = regularizer.prox(w, step)
    assert z.shape == w.shape and z.dtype == w.dtype and z.device == w.device, f"{regularizer}: {z.shape} {z.dtype}"
    assert torch.equal(w, kept), f"{regularizer}: prox changed its input"
    leaf = w.clone().requires_grad_()
    value = regularizer.value(leaf)
    assert value.shape == () and math.isfinite(value.item()) and value >= 0, f"{regularizer}: value {value}"
    value.backward()
    assert bool(torch.isfinite(leaf.grad).all()), f"{regularizer}: gradient with NaN"
    assert torch.equal(leaf, kept)


def check_degenerate(regularizer, shape, step):
    """No NaN at zero, on zero groups, on tiny weights or without elements; zero stays zero and costs nothing."""
    zero = torch.zeros(shape)
    assert torch.equal(regularizer.prox(zero, step), zero), f"{regularizer}: zero of shape {tuple(shape)} does not stay zero"
    assert float(regularizer.value(zero)) == 0, f"{regularizer}: zero costs something"
    check_interface(regularizer, zero, step)
    if zero.numel():
        some = zero.clone()
        some[0] = 1.0
        for w in (some, some * 1e-30, some * 1e-42):
            check_interface(regularizer, w, step)
            assert bool(torch.isfinite(regularizer.prox(w, step)).all()), f"{regularizer}: NaN on zero groups or tiny weights"


def check_half(regularizer, w, step):
    """Half precision gives the fp32 result, rounded; values are summed in fp32 and do not overflow."""
    for dtype in (torch.bfloat16, torch.float16):
        given = w.to(dtype)
        z = regularizer.prox(given, step)
        assert z.dtype == dtype
        assert torch.equal(z, regularizer.prox(given.float(), step).to(dtype)), f"{regularizer}: computed in {dtype}"
        large = torch.full((40, 50), 300.0, dtype=dtype)
        exact = regularizer.value(large.double())
        assert torch.allclose(regularizer.value(large).double(), exact, rtol=1e-4), f"{regularizer}: {dtype} overflows"


def check_scaling(regularizer, w, step):
    """Twice the strengths at half the step is the same prox, and twice the value."""
    double = dataclasses.replace(regularizer, **{name: 2 * getattr(regularizer, name) for name in regularizer.strengths})
    w = w.double()
    assert torch.allclose(double.value(w), 2 * regularizer.value(w)), f"{regularizer}: the value ignores a strength"
    assert torch.allclose(double.prox(w, step), regularizer.prox(w, 2 * step)), f"{regularizer}: the prox ignores a strength"
    assert not torch.equal(double.prox(w, step), regularizer.prox(w, step)), f"{regularizer}: the strength does nothing"


def check_registered(setting, registry=Regularizer.registry):
    """Found by its name, frozen, and printed with its settings."""
    cls = type(setting)
    assert registry[cls.__name__] is cls
    assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen, f"{cls.__name__} is not a frozen dataclass"
    assert str(setting).startswith(f"{cls.__name__}(")
    assert hash(setting) == hash(dataclasses.replace(setting))
