"""Laws of weights that share values or bits: priced codebooks, adaptive precision, loss-aware signs, shared tables."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from taut.codec.files import load, save
from taut.codec.records import size
from taut.compressors import Codebook
from taut.compressors.base import Stats
from taut.compressors.codebook import CodebookCode
from taut.layers import bake, codes, find_layers

# -- codebooks by a damped curvature ----------------------------------------------------------------------------------------


def check_damping(make, seed):
    """``make(k, damping)`` weights by the Fisher information and so many means of it: no table for another damping is better."""
    draw = torch.Generator().manual_seed(seed)
    w = torch.randn(20, 15, generator=draw)
    fisher = torch.rand(20, 15, generator=draw) ** 8 * 10.0 ** (seed - 3)

    def loss(code, damping):
        return float(((fisher + damping * fisher.mean()) * (code.decompress() - w) ** 2).sum() / fisher.sum())

    amounts = (0.0, 0.5, 1.0, 8.0, 1e6)
    others = [Codebook(k=4, by="fisher").compress(w, Stats(fisher=fisher + other * fisher.mean())) for other in amounts]
    for damping in amounts:
        least = loss(make(4, damping).compress(w, Stats(fisher=fisher)), damping)
        for other, amount in zip(others, amounts, strict=True):
            assert least <= loss(other, damping) * (1 + 1e-5), f"damping {damping}: the table of {amount} is better"


# -- codebooks that pay for their bits --------------------------------------------------------------------------------------


def priced(values, weights, price, chosen, keep_zero):
    """The objective of an entropy-constrained codebook from its definition; ``chosen``: the value that stands for each."""
    scale = np.mean(weights * values**2)
    kept, counts = np.unique(chosen, return_counts=True)
    bits = float((counts * np.log2(values.size / counts)).sum()) + 16 * len(kept[kept != 0] if keep_zero else kept)
    return float((weights * (values - chosen) ** 2).sum()) + price * scale * bits


def partitions(n):
    """Every way to put ``n`` values into groups, as the number of each one's group."""
    if n == 0:
        yield ()
        return
    for rest in partitions(n - 1):
        for group in range(max(rest, default=-1) + 2):
            yield (*rest, group)


def least_priced(values, weights, price, k, keep_zero):
    """The best of all partitions, each group at its mean, and perhaps one of them at zero."""
    least = np.inf
    for partition in partitions(values.size):
        groups = np.array(partition)
        count = groups.max() + 1
        mass, moment = np.bincount(groups, weights), np.bincount(groups, weights * values)
        plain = np.bincount(groups, values) / np.bincount(groups)
        means = np.divide(moment, mass, out=plain, where=mass > 0)
        for zero in (None, *range(count)) if keep_zero else (None,):
            if count + (keep_zero and zero is None) <= k:
                table = means.copy()
                if zero is not None:
                    table[zero] = 0.0
                least = min(least, priced(values, weights, price, table[groups], keep_zero))
    return least


def drawn(seed, most=7):
    """A few values, some alike, with the settings of a codebook for them."""
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(size=rng.integers(1, most)) + rng.choice([-1, 0, 0, 2]), rng.integers(0, 4))
    return values, float(10 ** rng.uniform(-4, 0.5)), int(rng.integers(1, 5)), bool(rng.integers(2))


def check_entropy_optimum(solve, seed):
    """With equal weights no partition costs less; with others none that moves or joins costs less, nor does any by much."""
    values, price, k, keep_zero = drawn(seed)
    ones = np.ones(values.size)
    centers, index = solve(values, k, price, None, keep_zero)
    assert len(np.unique(np.r_[centers[index], [0.0] * keep_zero])) <= k, "more values than allowed"
    found, least = priced(values, ones, price, centers[index], keep_zero), least_priced(values, ones, price, k, keep_zero)
    assert found <= least * (1 + 1e-9) + 1e-12, f"{found} where {least} is possible"
    weights = np.random.default_rng(seed + 1000).random(values.size) ** 4
    centers, index = solve(values, k, price, weights, keep_zero)
    found, least = priced(values, weights, price, centers[index], keep_zero), least_priced(values, weights, price, k, keep_zero)
    assert least * (1 - 1e-9) <= found <= 1.1 * least + 1e-12, f"weighted: {found} where {least} is possible"


def check_entropy_stationary(solve, seed, n=400):
    """A local optimum for any weights: centers are means, no value has a cheaper center, no two neighbours are cheaper as one."""
    rng = np.random.default_rng(seed)
    values, weights, price = rng.standard_t(3, n), rng.random(n) ** 3, float(10 ** rng.uniform(-3, -0.5))
    centers, index = solve(values, 64, price, weights, True)
    counts = np.bincount(index, minlength=centers.size)
    used = np.flatnonzero(counts)
    bit = price * np.mean(weights * values**2)
    for c in used:
        mean = np.average(values[index == c], weights=weights[index == c])
        assert centers[c] == 0 or math.isclose(centers[c], mean, rel_tol=1e-9, abs_tol=1e-12), (
            "a center is not the mean of its values"
        )
    each = weights[:, None] * (values[:, None] - centers[used]) ** 2 + bit * np.log2(n / counts[used])
    own = weights * (values - centers[index]) ** 2 + bit * np.log2(n / counts[index])
    assert (own <= each.min(1) + 1e-9).all(), "a value has a cheaper center than its own"
    now = priced(values, weights, price, centers[index], True)
    for a, b in itertools.pairwise(used):
        both = (index == a) | (index == b)
        joined = np.where(both, np.average(values[both], weights=weights[both]), centers[index])
        assert priced(values, weights, price, joined, True) >= now * (1 - 1e-9), "two neighbours cost less as one"


def check_entropy_trade(solve, values):
    """As the price falls, bits do not fall and the error does not rise."""
    errors, bits = [], []
    for i in range(-2, 13):
        centers, index = solve(values, 256, 2.0**-i, None, True)
        counts = np.unique(centers[index], return_counts=True)[1]
        errors.append(float(((values - centers[index]) ** 2).sum()))
        bits.append(float((counts * np.log2(values.size / counts)).sum()) + 16 * len(counts[counts > 0]))
    assert all(b <= a * (1 + 1e-9) + 1e-12 for a, b in itertools.pairwise(errors)), errors
    # a kept zero is free, so that the two counts of bits may differ by one entry
    assert all(b >= a - 16 for a, b in itertools.pairwise(bits)), bits


def check_idempotent_by_magnitude(method, w):
    once = method.compress(w).decompress()
    assert torch.equal(method.compress(once).decompress(), once), f"{method} is another the second time"


def check_bytes_near_entropy(method, w, slack=1.02, extra=40):
    """The record takes the entropy of its whole numbers and little more."""
    code = method.compress(w)
    numbers = next(value for value in code.fields().values() if isinstance(value, torch.Tensor) and not value.is_floating_point())
    counts = torch.unique(numbers, return_counts=True)[1].double()
    entropy = float((counts * (numbers.numel() / counts).log2()).sum()) / 8
    taken = size(code) - 4 * sum(t.numel() for t in code.free())
    # as many bytes for each symbol's count: a table is part of the file
    assert taken <= slack * entropy + extra + 1.5 * len(counts), f"{method}: {taken} bytes, the entropy is {entropy:.0f}"


# -- adaptive precision -----------------------------------------------------------------------------------------------------


def check_tolerances(solve, seed):
    """The budget is used and the cap kept; at the optimum ``g tau`` is one number below the cap; no feasible rival is larger."""
    rng = np.random.default_rng(seed)
    slopes = torch.tensor(rng.random(12) ** 6 * (rng.random(12) < 0.9))
    mean, spread = float(10 ** rng.uniform(-3, 0)), float(rng.choice([1.0, 1.5, 8.0, 1e6]))
    tau = solve(slopes, mean, spread)
    budget, cap = mean * float(slopes.sum()), spread * mean
    assert bool((tau <= cap * (1 + 1e-12)).all()) and bool((tau > 0).all())
    assert bool((tau[slopes == 0] == cap).all()), "what the loss does not feel is at the cap"
    if slopes.any():
        assert math.isclose(float((slopes * tau).sum()), budget, rel_tol=1e-9), "the budget is not used"
    felt = slopes > 0
    achieved = float(tau[felt].log().sum())
    for _ in range(50):
        rival = torch.minimum(tau * torch.tensor(np.exp(rng.normal(size=12))), torch.tensor(cap))
        used = float((slopes * rival).sum())
        rival = rival * min(1.0, budget / used) if used > 0 else rival
        assert float(rival[felt].log().sum()) <= achieved + 1e-9, "a rival within the budget has larger tolerances"


def fewest(w, allowed):
    """The first of the grids of one weight within [-1, 1] that is near enough, by trying all numbers of digits."""
    if abs(w) <= allowed:
        return 0, 0.0
    for p in range(1, 40):
        nearest = round(w * 2 ** (p - 1)) / 2 ** (p - 1)
        if abs(nearest - w) <= allowed:
            return p, nearest
    raise AssertionError(f"{w} has no grid")


def check_fewest_digits(method, w, stats):
    """Every weight has the fewest digits, within its tolerance, and the digits stored are all there are."""
    code = method.compress(w, stats)
    peak = float(w.abs().max())
    unit = 2.0 ** math.ceil(math.log2(peak)) if peak else 1.0
    slopes = stats.fisher.double().sqrt() if method.by == "fisher" else torch.ones_like(w, dtype=torch.float64)
    felt = slopes.reshape(-1).tolist()
    low, high = 0.0, 1e9 * unit  # the level of the water by bisection, where the law of the solver has it in closed form
    cap, budget = method.spread * method.tolerance * unit, method.tolerance * unit * sum(felt)
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if sum(min(cap * g, level) for g in felt) <= budget else (low, level)
    stored = 0
    for value, decoded, precision, g in zip(
        *(t.reshape(-1).tolist() for t in (w, code.decompress(), code.precision)), felt, strict=True
    ):
        tau = min(cap, low / g) if g else cap
        p, nearest = fewest(value / unit, tau / unit * (1 + 1e-9))
        assert precision <= p, f"{precision} digits for {value}, {p} are enough"
        assert abs(decoded - value) <= tau * (1 + 1e-6), f"{decoded} for {value}: off by more than {tau}"
        assert precision != p or math.isclose(decoded, nearest * unit, rel_tol=1e-6)
        stored += max(1, precision - 1) if precision else 0
    assert code.digits.numel() == stored, f"{code.digits.numel()} digits are stored, {stored} are used"


def check_all_bits_are_counted(method, w, stats):
    """The record holds the entropy of the precisions and a sign for each weight that is not zero, and at most all digits."""
    code = method.compress(w, stats)
    precision = code.precision.reshape(-1).long()
    counts = torch.bincount(precision)
    counts = counts[counts > 0].double()
    book = float((counts * (w.numel() / counts).log2()).sum())
    digits, taken = int(torch.where(precision > 0, (precision - 1).clamp(min=1), 0).sum()), 8 * size(code)
    told = f"{method}: {taken} bits for {digits} digits and {book:.0f} of book-keeping"
    assert 0.95 * (book + int((precision > 0).sum())) <= taken <= 1.02 * (digits + book) + 400, told


# -- loss-aware binarization ------------------------------------------------------------------------------------------------


def loss_aware_reference(w, x, y, steps, lr, decay):
    """Algorithm 1 of Hou et al. with plain gradient steps, for a linear layer and mean squared error, in numpy."""
    w, v = w.numpy().copy(), np.zeros(w.shape)
    x, y = x.numpy(), y.numpy()
    for _ in range(steps):
        d = np.sqrt(v) if v.any() else np.ones_like(v)
        binary = (d * np.abs(w)).sum() / d.sum() * np.where(w >= 0, 1.0, -1.0)
        gradient = 2 * (x @ binary.T - y).T @ x / y.size
        v = decay * v + (1 - decay) * gradient**2
        w = w - lr * gradient
    d = np.sqrt(v)
    return torch.tensor((d * np.abs(w)).sum() / d.sum() * np.where(w >= 0, 1.0, -1.0))


def check_loss_aware_training(wrap, method):
    """The layer after training is the algorithm's; with Adam the curvature is Adam's own."""
    draw = torch.Generator().manual_seed(0)
    x, y, w = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((30, 6), (30, 4), (4, 6)))
    for make in (lambda p: torch.optim.SGD(p, lr=0.3), lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.9, method.decay))):
        model = nn.Sequential(nn.Linear(6, 4, bias=False).double())
        model[0].weight.data.copy_(w)
        training = wrap(model, {"0": method})
        ((latent, (values,)),) = training.latents().values()
        optimizer = make(model.parameters())
        for _ in range(25):
            optimizer.zero_grad()
            functional.mse_loss(model(x), y).backward()
            optimizer.step()
        if isinstance(optimizer, torch.optim.Adam):
            assert torch.allclose(latent.squares, optimizer.state[values]["exp_avg_sq"]), "the curvature is not Adam's"
            continue
        training.finalize()
        expected = loss_aware_reference(w, x, y, 25, 0.3, method.decay)
        assert torch.allclose(model[0].weight, expected, rtol=1e-9), "not the paper's algorithm"


# -- one table for several layers -------------------------------------------------------------------------------------------


def check_shared(share, method, make, x, path):
    """One table, chosen for all weights in a row, trained as one parameter; the network survives a copy and its file."""
    model = make()
    before = {name: layer.weight.detach().clone() for name, layer in find_layers(model).items()}
    shared = share(model, method)
    assert all(torch.equal(layer.weight, before[name]) for name, layer in find_layers(model).items()), "the original is changed"
    layers = find_layers(shared)
    assert list(layers) == list(before) and not any(layer.tied for layer in layers.values()), "layers are taken for one"
    row = torch.cat([w.reshape(-1) for w in before.values()])
    expected = method.compress(row).decompress().split([w.numel() for w in before.values()])
    for (name, layer), part in zip(layers.items(), expected, strict=True):
        assert layer.weight.shape == before[name].shape
        assert torch.equal(layer.weight.detach().reshape(-1), part), f"{name}: another codebook than that of all weights in a row"
    tables = {id(p) for n, p in shared.named_parameters() if "original" in n}
    assert len(tables) == 1, "each layer trains a table of its own"
    check_one_gradient(shared, x, expected)
    save(shared, path)
    loaded = load(path, into=make())
    shared.eval(), loaded.eval()
    assert torch.equal(loaded(x), shared(x)), "another network from its file"


def check_one_gradient(shared, x, parts):
    """The table's gradient is the sum over all weights that have the value; a step keeps the values shared."""
    shared.train()
    shared(x).square().sum().backward()
    (table,) = {id(p): p for n, p in shared.named_parameters() if "original" in n}.values()
    total = torch.zeros_like(table)
    plain = bake(shared).requires_grad_()
    plain(x).square().sum().backward()
    stored = [value for value in codes(shared).values() if isinstance(value, CodebookCode)]
    assert len(stored) == len(parts), "a layer's code is hidden behind another's"
    for code, layer in zip(stored, find_layers(plain).values(), strict=True):
        gradient = layer.weight.grad.reshape(-1)
        for i in range(table.numel()):
            total[i] += gradient[code.indices.reshape(-1) == i + code.zero].sum()
    assert torch.allclose(table.grad, total, rtol=1e-4, atol=1e-4), "the gradient is not the sum over the layers"
    optimizer = torch.optim.SGD(shared.parameters(), lr=1e-4)
    optimizer.step()
    values = torch.cat([layer.weight.detach().reshape(-1) for layer in find_layers(shared).values()]).unique()
    assert values.numel() <= table.numel() + stored[0].zero, "values have come apart"


def random_stats(w, seed=0):
    return Stats(fisher=torch.rand(w.shape, generator=torch.Generator().manual_seed(seed)) ** 6)
