"""What binarized networks must satisfy, as plain functions of what is held to it."""

from __future__ import annotations

import dataclasses
import itertools
from math import log2, prod

import numpy as np
import torch
from torch import nn

from taut.apply import apply
from taut.binary import Sign, signs
from taut.codec.records import size
from taut.compressors.binary import Binary
from taut.errors import LayerError
from taut.layers import bake, codes, find_layers
from taut.numeric.patterns import codebook
from taut.reparametrize import wrap
from taut.shrink import shrink

POINTS = torch.tensor([-5.0, -1.5, -1.0, -0.3, -1e-30, -0.0, 0.0, 1e-30, 0.4, 1.0, 1.1, 7.0])


def check_signs(sign):
    """Two values and no third, zero is +1, and the type stays."""
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        y = sign(POINTS.to(dtype))
        wanted = torch.where(POINTS.to(dtype) >= 0, 1.0, -1.0)
        assert y.dtype == dtype and torch.equal(y.double(), wanted.double()), f"{dtype}: {y.tolist()}"


def check_straight_through(module):
    """The gradient passes as it is between -1 and 1, and nowhere else."""
    x = POINTS.clone().requires_grad_()
    upstream = torch.linspace(-2, 3, len(POINTS))
    y = module(x)
    y.backward(upstream)
    assert torch.equal(y.detach(), signs(POINTS)), "other values when gradients flow"
    assert torch.equal(x.grad, torch.where(POINTS.abs() <= 1, upstream, 0.0)), f"gradient {x.grad.tolist()}"


def check_copy_gradient(method):
    """The real-valued copies get the weight's gradient, unless it leads further out than 1; and so they stay there."""
    copies = torch.tensor([[-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]], dtype=torch.float64)
    latent = method.latent(copies)
    (copy,) = (t.clone().requires_grad_() for t in latent.right_inverse(copies))
    for direction in (-1.0, 1.0):
        copy.grad = None
        weight = latent(copy)
        weight.backward(torch.full_like(copies, direction))
        outwards = (copies.abs() >= 1) & (copies.sign() * direction < 0)
        wanted = torch.where(outwards, 0.0, direction * weight.detach().abs())
        if method.scale != "none":  # the scale is the mean of the sizes, and has a gradient too
            wanted += direction * signs(copies).sum() * signs(copies) / copies.numel()
        assert torch.allclose(copy.grad, wanted, rtol=1e-12), f"{method}: gradient {copy.grad.tolist()} for {direction}"
    if method.scale != "none":
        return
    pushed = torch.zeros(1, 8, dtype=torch.float64, requires_grad=True)
    for _ in range(300):
        (gradient,) = torch.autograd.grad(latent(pushed).sum() * torch.tensor(-1.0), pushed)
        with torch.no_grad():
            pushed -= 0.01 * gradient
    assert float(pushed.detach().abs().max()) <= 1.011, f"{method}: copies run away to {float(pushed.detach().abs().max())}"


def check_set(code, rows=None):
    """Each row has one magnitude, and no zero among others."""
    w = code.decompress()
    rows = w.abs().reshape(len(w), -1)
    assert bool((rows == rows[:, :1]).all()), f"{type(code).__name__}: a row of several magnitudes"


def check_bits(code):
    """At most one bit a weight, two bytes a scale, and a small head."""
    w = code.decompress()
    most = -(-w.numel() // 8) + 2 * len(w) + 40
    assert size(code) <= most, f"{size(code)} bytes for {w.numel()} signs, at most {most}"


def check_shared(share, shape, scale):
    """Kernels that are stored once give back the very weights, the most used first; without kernels there is nothing to share."""
    w = copies(*shape[:2]) if shape[2:] == (3, 3) else torch.randn(shape, generator=torch.Generator().manual_seed(1))
    code = Binary(scale=scale).compress(w)
    found = share(code)
    if prod(shape[2:]) == 1:
        assert found is None
        return
    assert torch.equal(found.decompress(), code.decompress()), "other weights"
    uses = torch.bincount(found.indices.reshape(-1).int())
    assert bool((uses.diff() <= 0).all()) and len(uses) == len(found.kernels), "not the most used first, or one that is not used"
    check_set(found)


def copies(filters=24, channels=20):
    """Real-valued copies whose kernels are not all as frequent."""
    g = torch.Generator().manual_seed(3)
    common = torch.randn(1, 1, 3, 3, generator=g)
    return (common + 1.5 * torch.randn(filters, channels, 3, 3, generator=g)) / 8


def check_price(method, weight):
    """With a price each kernel is the best of the book when its bits are counted, for bits of what was used before; used again
    and again, products and bits together never get worse; evaluation changes nothing, and stores what it computed with.
    """
    latent, free = method.latent(weight), dataclasses.replace(method, price=0.0).latent(weight)
    flat, mean = weight.reshape(prod(weight.shape[:2]), -1), float(weight.abs().mean())
    worth = []
    for _ in range(8):
        bits = latent.bits.tolist()
        chosen = latent(weight).detach().sign().reshape(flat.shape)
        for kernel, row in zip(flat[::53], chosen[::53], strict=True):
            scores = [float(kernel @ c) - method.price * mean * b for c, b in zip(latent.book, bits, strict=True)]
            assert np.isclose(_score(kernel, row, latent.book, bits, method.price * mean), max(scores)), "not the best kernel"
        worth.append(float((flat * chosen).sum()) - method.price * mean * _entropy(chosen))
    assert all(after >= before - 1e-3 * abs(before) for before, after in itertools.pairwise(worth)), f"it gets worse: {worth}"
    _check_uses(latent, chosen)
    latent.eval()
    before = latent.bits.clone()
    latent(-weight)
    assert torch.equal(latent.bits, before), "evaluation counts"
    assert torch.equal(latent.code(weight).decompress(), latent(weight)), "something else is stored"
    assert _entropy(chosen) < _entropy(free(weight).detach().sign().reshape(flat.shape)), "no bits are saved"


def _check_uses(latent, chosen):
    """The bits of each kernel are those of its last use; one that fills the book up, twice in it, may have either's."""
    total = len(chosen) + len(latent.book) / 2
    for kernel, bits in zip(latent.book, latent.bits.tolist(), strict=True):
        if int((latent.book == kernel).all(1).sum()) == 1:
            uses = int((chosen == kernel).all(1).sum()) + 0.5
            assert abs(bits - log2(total / uses)) < 1e-3, "not the bits of its last use"


def _entropy(kernels):
    """Bits of all rows, coded by how often each of them occurs."""
    _, uses = torch.unique(kernels, dim=0, return_counts=True)
    return float((uses * (len(kernels) / uses).log2()).sum())


def _score(kernel, row, book, bits, price):
    """Of the kernel that was chosen; of equal ones in the book, the cheapest."""
    return max(float(kernel @ c) - price * b for c, b in zip(book, bits, strict=True) if torch.equal(c, row))


def check_codebook(kernels, k, make=codebook):
    """At most ``k`` patterns of signs, the nearest for each kernel, the best where that can be enumerated, better with more."""
    bits = kernels.shape[1]
    book, index = make(kernels, k)
    assert len(book) <= k and set(np.unique(book)) <= {-1.0, 1.0} and len(np.unique(book, axis=0)) == len(book)
    products = (kernels * book[index]).sum(1)
    assert np.allclose(products, (kernels @ book.T).max(1)), "a kernel has not its nearest pattern"
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=bits)))
    distinct = np.unique(np.where(kernels >= 0, 1.0, -1.0), axis=0)
    if len(distinct) <= k:
        assert np.isclose(products.sum(), np.abs(kernels).sum()), "patterns that fit are not kept as they are"
    if k <= 2:
        best = max((kernels @ np.array(pair).T).max(1).sum() for pair in itertools.combinations(corners, k))
        assert products.sum() >= (1 - 0.04 * (k > 1)) * best - 1e-9, f"{products.sum()}, the best is {best}"
    if k > 1:
        fewer, at = make(np.where(kernels >= 0, 1.0, -1.0), k // 2)
        more, there = make(np.where(kernels >= 0, 1.0, -1.0), 2 * (k // 2))
        sign = np.where(kernels >= 0, 1.0, -1.0)
        assert (sign * more[there]).sum() >= (sign * fewer[at]).sum(), "more patterns fit worse"


def check_stays_binary(method, make=lambda: nn.Conv2d(8, 6, 3, bias=False)):
    """On a layer of binary weights a method is refused in words, or keeps them binary."""
    torch.manual_seed(0)
    model = apply(nn.Sequential(make()), {"0": Binary()})
    layer = find_layers(model)["0"]
    if method.refuses(layer) is not None:
        return "refused by shape"
    before = copy_of(model)
    try:
        changed = apply(model, {"0": method}, data=[(torch.randn(4, 8, 5, 5), torch.randn(4, 6, 3, 3))], example_input=None)
    except LayerError as error:
        assert "binary" in str(error) and "taut.shrink" in str(error), f"{method}: refused without a word of why: {error}"
        assert all(torch.equal(a, b) for a, b in zip(before, copy_of(model), strict=True)), f"{method}: changed all the same"
        return "refused"
    code = codes(changed)["0.weight"]
    check_set(code)
    assert code.binary, f"{method}: the mark is lost"
    return "binary"


def copy_of(model):
    return [t.clone() for t in (model[0].weight.detach(), *model.state_dict().values())]


def binarized(pad=nn.ConstantPad2d, value=(1.0,)):
    """A small network of binary layers, as it comes out of training, and a batch."""
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), Sign(), pad(1, *value), nn.Conv2d(16, 24, 3, bias=False),
        nn.MaxPool2d(2), nn.BatchNorm2d(24), Sign(), pad(1, *value), nn.Conv2d(24, 32, 3, bias=False), nn.BatchNorm2d(32),
        Sign(), nn.Flatten(1), nn.Linear(32 * 16, 20, bias=False), nn.BatchNorm1d(20), nn.Linear(20, 5),
    )  # fmt: skip
    return model, torch.randn(16, 3, 8, 8), torch.randint(5, (16,))


def check_padding(model, x, names):
    """Whatever a binary layer reads, in training and in use, is -1 or 1."""
    for mode in (True, False):
        seen = []
        handles = [
            model.get_submodule(n).register_forward_pre_hook(lambda _m, args, seen=seen: seen.append(args[0])) for n in names
        ]
        model.train(mode)(x)
        for handle in handles:
            handle.remove()
        assert len(seen) == len(names)
        assert all(bool((t.abs() == 1).all()) for t in seen), "a binary layer reads numbers that are no signs"


def check_shrink(method, narrow=shrink):
    """Filters of a binary network are removed as from the same network in floats, and its weights stay binary."""
    model, x, y = binarized()
    training = wrap(model, dict.fromkeys(("4", "9", "13"), method))
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    model = training.finalize().eval()
    settings = {"keep": 0.6, "importance": "fisher", "data": [(x, y)]}
    small, reference = narrow(model, x, **settings), shrink(bake(model), x, **settings)
    for name in ("4", "9", "13"):
        code = codes(small)[f"{name}.weight"]
        assert getattr(code, "binary", False), f"{name}: no binary code any more"
        check_set(code)
        assert prod(code.decompress().shape) < prod(codes(model)[f"{name}.weight"].decompress().shape)
        assert torch.equal(code.decompress(), find_layers(reference)[name].weight), f"{name}: other weights"
    with torch.no_grad():
        assert torch.equal(small(x), reference(x)), "other outputs than the shrunk float network"
    return small, x
