"""The laws every compressor obeys, each a plain function of a method and a case; references are slow and obvious."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import pytest
import torch
from torch import Tensor, nn

from taut.compressors import Chain, Code, Codebook, Compressor, LowRank, Prune, Quantize, Stats
from taut.compressors.adaptive_precision import AdaptivePrecision
from taut.compressors.loss_aware import LossAwareBinary
from taut.errors import LayerError
from taut.layers import find_layers, put
from taut.views import view


@dataclass(frozen=True)
class Case:
    """A weight to compress: shape, dtype and how its values are drawn."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    values: str = "normal"
    scale: float = 1.0

    def weight(self) -> Tensor:
        generator = torch.Generator().manual_seed(hash(self.shape) % 2**31)
        w = torch.randn(self.shape, generator=generator, dtype=torch.float64)
        if self.values == "heavy":
            w = w / torch.rand(self.shape, generator=generator, dtype=torch.float64).clamp(min=1e-3)
        if self.values == "sparse":
            w = w * (torch.rand(self.shape, generator=generator) < 0.3)
        if self.values == "ties":
            w = w.round()
        if self.values == "zero":
            w = w * 0
        if self.values == "equal":
            w = torch.ones_like(w)
        return (w * self.scale).to(self.dtype)

    def stats(self) -> Stats:
        generator = torch.Generator().manual_seed(1)
        fisher = torch.rand(self.shape, generator=generator) ** 4
        return Stats(fisher, second_moments(prod(self.shape[1:])))

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))}-{str(self.dtype)[6:]}-{self.values}-{self.scale:g}"


def second_moments(size: int) -> Tensor:
    """Those of inputs that depend on one another, each of its own strength."""
    x = torch.randn(3 * size, size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = (x + x.mean(1, keepdim=True)) * torch.linspace(0.2, 1.0, size, dtype=torch.float64)
    return x.T @ x / len(x)


def compress(method: Compressor, w: Tensor, stats: Stats | None) -> Code:
    return method.compress(w, stats if method.needs_stats() or method.needs_inputs() else None)


def rounding(w: Tensor) -> float:
    """What a few roundings in the weight's precision may change of its largest element."""
    return 32 * torch.finfo(w.dtype).eps * float(w.abs().max()) + torch.finfo(w.dtype).smallest_normal


def error(w: Tensor, v: Tensor, h: Tensor | None = None) -> float:
    difference = (w.double() - v.double()) ** 2
    return float((difference if h is None else difference * h.double()).sum())


def lost(method: Compressor, w: Tensor, v: Tensor, stats: Stats) -> float:
    """The error that a method minimises: squared, weighted by Fisher information, or of the products with the inputs."""
    if method.needs_inputs():
        difference = (w.double() - v.double()).reshape(len(w), -1)
        return float((difference @ stats.inputs @ difference.T).trace())
    return error(w, v, stats.fisher if by_fisher(method) else None)


def slack(w: Tensor) -> float:
    """The squared error that roundings alone may make."""
    return w.numel() * rounding(w) ** 2


# -- methods that no table lists --------------------------------------------------------------------------------------------


def discovered(listed: Iterable[Compressor]) -> list[Compressor]:
    """Every compressor of taut of a class that ``listed`` lacks, at its defaults: what a new file adds to the tables."""
    known = {type(method) for method in listed}
    return [cls() for cls in Compressor.registry.values() if cls.__module__.startswith("taut.") and cls not in known]


def rungs(method: Compressor, shape: Sequence[int]) -> list[Compressor]:
    """The ladder of a method for a weight of this shape; none where the method says that it cannot take it."""
    try:
        return method.ladder(shape)
    except LayerError:
        return []


# -- the laws ---------------------------------------------------------------------------------------------------------------


def check_shape_and_dtype(method: Compressor, case: Case) -> None:
    w = case.weight()
    code = compress(method, w, case.stats())
    v = code.decompress()
    assert v.shape == w.shape
    assert v.dtype == w.dtype
    assert code.like() in (None, (tuple(w.shape), w.dtype)), "a code says another shape or dtype than it has"
    # a product rounds otherwise in another memory format, and a file has but one
    assert all(tensor.is_contiguous() for tensor in _tensors(code))
    assert bool(torch.isfinite(v).all())


def _tensors(code: Code) -> Iterator[Tensor]:
    """Every tensor of a code, free or structure, at any depth."""
    for value in code.fields().values():
        if isinstance(value, Code):
            yield from _tensors(value)
        elif isinstance(value, Tensor):
            yield value


def check_input_untouched(method: Compressor, case: Case) -> None:
    w = case.weight()
    before = w.clone()
    code = compress(method, w, case.stats())
    assert torch.equal(w, before)
    # nor does the code share memory with it, which training would write to
    with torch.no_grad():
        for tensor in code.free():
            tensor.add_(1)
    assert torch.equal(w, before)


def check_idempotent(method: Compressor, case: Case) -> None:
    if not type(method).idempotent:
        return
    w, stats = case.weight(), case.stats()
    once = compress(method, w, stats).decompress()
    twice = compress(method, once, stats).decompress()
    assert float((twice.double() - once.double()).abs().max()) <= rounding(w)


def check_ladder(method: Compressor, case: Case) -> None:
    """Cost never falls and error never rises (where the class says so); every rung fits; settings besides the rung stay."""
    w, stats = case.weight(), case.stats()
    rungs = method.ladder(w.shape)
    assert rungs
    assert len(set(rungs)) == len(rungs)
    assert all(type(rung) is type(method) for rung in rungs)
    codes = [compress(rung, w, stats) for rung in rungs]
    sizes = [size(rung, code) for rung, code in zip(rungs, codes, strict=True)]
    assert sizes == sorted(sizes)
    costs = [code.cost().parameters for code in codes]
    assert costs == sorted(costs)
    assert costs[-1] <= w.numel()
    if type(method).monotone:
        errors = [lost(method, w, code.decompress(), stats) for code in codes]
        for before, after in itertools.pairwise(errors):
            assert after <= before * (1 + 1e-6) + slack(w)


def check_dense_end(method: Compressor, case: Case) -> None:
    """The last rung of a ladder that ends dense has no error."""
    w = case.weight()
    assert torch.equal(compress(method.ladder(w.shape)[-1], w, case.stats()).decompress(), w)


def check_no_better_rival(method: Compressor, case: Case, excess: float = 1e-4) -> None:
    """No rival on the same rung has a smaller error; ``excess``: how much smaller it would have to be to count."""
    w, stats = case.weight(), case.stats()
    achieved = lost(method, w, compress(method, w, stats).decompress(), stats)
    seen = 0
    for rival in rivals(method, w):
        seen += 1
        assert achieved <= lost(method, w, rival, stats) * (1 + excess) + slack(w)
    assert seen


def check_same_code_again(method: Compressor, case: Case) -> None:
    torch.manual_seed(1)
    first = compress(method, case.weight(), case.stats())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert first.equals(compress(method, case.weight(), case.stats()))
    assert torch.equal(torch.get_rng_state(), state)


def check_free_tensors(method: Compressor, case: Case) -> None:
    """The free tensors and the structure are the whole code, and changing the free ones changes the code."""
    code = compress(method, case.weight(), case.stats())
    assert code.with_free(list(code.free())).equals(code)
    assert torch.equal(code.with_free([t.clone() for t in code.free()]).decompress(), code.decompress())
    if sum(t.numel() for t in code.free()):
        assert not code.with_free([2 * t + 1 for t in code.free()]).equals(code)
    assert all(t.dtype == case.dtype for t in code.free())


def check_gradients(method: Compressor, case: Case) -> None:
    """Gradients reach the free tensors: the directional derivative is that of finite differences, in double precision."""
    code = compress(method, case.weight(), case.stats())
    free = [t.double().requires_grad_() for t in code.free()]
    along = torch.randn(case.shape, dtype=torch.float64)
    (code.with_free(free).decompress() * along).sum().backward()
    assert all(t.grad is not None for t in free)
    steps = [torch.randn_like(t) for t in free]
    predicted = sum(float((t.grad * s).sum()) for t, s in zip(free, steps, strict=True))
    near = [
        float((code.with_free([t.detach() + x * s for t, s in zip(free, steps, strict=True)]).decompress() * along).sum())
        for x in (-1e-4, 1e-4)
    ]
    measured = (near[1] - near[0]) / 2e-4
    assert predicted == pytest.approx(measured, rel=1e-5, abs=1e-6 * (1 + case.scale))


def check_bad_weights(method: Compressor, case: Case) -> None:
    """What no method can take is refused in words, naming the method."""
    w = case.weight()
    for bad in (w.int(), w[:0], torch.full_like(w, float("nan")), torch.full_like(w, float("inf"))):
        with pytest.raises(LayerError) as caught:
            compress(method, bad, case.stats())
        assert "weight" in str(caught.value)


def _parts(layers: nn.Sequential) -> Iterator[nn.Module]:
    """The layers that a layer is made of, at any depth."""
    for layer in layers:
        yield from _parts(layer) if isinstance(layer, nn.Sequential) else [layer]


def check_layer(method: Compressor, make: Callable[[], nn.Module], x: Tensor) -> None:
    """The layer with the code in its place computes the dense product, whatever modules it is made of, and costs what it says."""
    model = nn.Sequential(make()).double()
    layer = find_layers(model)["0"]
    if method.refuses(layer):
        return
    x = x.double() if x.is_floating_point() else x
    w = layer.weight.detach().clone()
    stats = Stats(torch.rand(w.shape, dtype=torch.float64), second_moments(w[0].numel()))
    code = compress(method, w, stats)
    reference = copy.deepcopy(model)
    find_layers(reference)["0"].weight.data.copy_(code.decompress())
    put(model, layer, code)
    assert model(x).shape == reference(x).shape
    assert torch.allclose(model(x), reference(x), rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        assert torch.allclose(model(x), reference(x), rtol=1e-9, atol=1e-9)
    if isinstance(model[0], nn.Sequential):
        assert sum(part.weight.numel() for part in _parts(model[0])) == code.cost().parameters


# -- what is known of each method: its size along the ladder, and its rivals ------------------------------------------------


def by_fisher(method: Compressor) -> bool:
    return getattr(method, "by", "") == "fisher"


def size(method: Compressor, code: Code) -> float:
    """What must not fall along a ladder: parameters (low rank), weights kept, distinct values, bits a weight."""
    if isinstance(method, Chain):
        return size(method.first, code) if not isinstance(method.first, Chain) else 0
    if isinstance(method, Prune):
        return int(code.mask.sum())
    if isinstance(method, Codebook):
        return code.zero + (code.centroids.numel() if isinstance(code.centroids, Tensor) else 0)
    if isinstance(method, Quantize):
        return method.bits
    if isinstance(method, AdaptivePrecision):
        return code.digits.numel()
    if isinstance(method, LossAwareBinary):
        return code.scale.numel()
    return code.cost().parameters


def rivals(method: Compressor, w: Tensor) -> Iterator[Tensor]:
    """Other members of the same set, among them the best where it can be enumerated."""
    w = w.double()
    if isinstance(method, LowRank):
        yield from _low_rank_rivals(method, w)
    elif isinstance(method, Prune):
        for kept in itertools.combinations(range(w.numel()), method.kept(w.numel())):
            mask = torch.zeros(w.numel(), dtype=torch.bool)
            mask[list(kept)] = True
            yield w * mask.reshape(w.shape)
    elif isinstance(method, Codebook):
        yield from _codebook_rivals(method, w)
    elif isinstance(method, Quantize):
        yield from _grid_rivals(method, w)
    elif isinstance(method, LossAwareBinary):
        yield from _binary_rivals(method, w)
    elif hasattr(method, "rivals"):
        yield from method.rivals(w)  # a user's method brings its own
    else:
        yield from _members(method, w)


def _members(method: Compressor, w: Tensor) -> Iterator[Tensor]:
    """Of any method: codes of other weights at its setting, its own code with tensors shifted, and those tuned by descent."""
    draw = torch.Generator().manual_seed(0)
    code = compress(method, w, Case(tuple(w.shape)).stats())
    free = [t.double() for t in code.free()]
    spread = w.std(correction=0) + torch.finfo(w.dtype).tiny
    for near in (0.01, 0.1, 1.0):
        for _ in range(10):
            other = w + near * spread * torch.randn(w.shape, generator=draw, dtype=w.dtype)
            yield compress(method, other, Case(tuple(w.shape)).stats()).decompress()
            moved = [t + near * spread * torch.randn(t.shape, generator=draw, dtype=t.dtype) for t in free]
            yield code.with_free(moved).decompress()
    tuned = [t.clone().requires_grad_() for t in free]
    descent = torch.optim.LBFGS(tuned, max_iter=50, line_search_fn="strong_wolfe")

    def distance() -> Tensor:
        descent.zero_grad()
        loss = ((code.with_free(tuned).decompress() - w) / spread).square().sum()
        loss.backward()
        return loss

    descent.step(distance)
    yield code.with_free([t.detach() for t in tuned]).decompress()


def _low_rank_rivals(method: LowRank, w: Tensor) -> Iterator[Tensor]:
    name = "matrix2" if method.scheme == 2 and w.dim() == 4 else "matrix"
    m = view(name).see(w)
    u, s, v = torch.linalg.svd(m, full_matrices=False)
    yield view(name).back((u * s)[:, : method.rank] @ v[: method.rank], w.shape)
    if method.by == "activation":  # the decomposition of W S, with S taken out again
        root = torch.linalg.cholesky(second_moments(m.shape[1]))
        u, s, v = torch.linalg.svd(m @ root, full_matrices=False)
        v = v @ torch.linalg.inv(root)
        yield view(name).back((u * s)[:, : method.rank] @ v[: method.rank], w.shape)
    for seed in range(20):
        basis = torch.randn(m.shape[1], method.rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for near in (0.0, 1.0):  # a random subspace, and one close to the best
            basis = torch.linalg.qr(0.01 * basis + near * v[: method.rank].T)[0]
            yield view(name).back(m @ basis @ basis.T, w.shape)


def _codebook_rivals(method: Codebook, w: Tensor) -> Iterator[Tensor]:
    """Every assignment of the weights to ``k`` values, each at its mean (or at zero); for tiny weights."""
    flat = w.reshape(-1)
    h = Case(tuple(w.shape)).stats().fisher.reshape(-1).double() if method.by == "fisher" else torch.ones_like(flat)
    for assignment in itertools.product(range(method.k), repeat=flat.numel()):
        index = torch.tensor(assignment)
        mass = torch.zeros(method.k, dtype=torch.float64).index_add(0, index, h)
        means = torch.zeros(method.k, dtype=torch.float64).index_add(0, index, h * flat) / mass.clamp(min=1e-300)
        if method.keep_zero:
            means[0] = 0
        yield means[index].reshape(w.shape)


def _binary_rivals(method: LossAwareBinary, w: Tensor) -> Iterator[Tensor]:
    """Every choice of signs, each with the best scale, and some scales at its side; for tiny weights."""
    d = Case(tuple(w.shape)).stats().fisher.double() if method.by == "fisher" else torch.ones_like(w)
    rows = len(w) if method.per == "row" and w.dim() > 1 else 1
    for signs in itertools.product((-1.0, 1.0), repeat=w.numel()):
        b = torch.tensor(signs, dtype=torch.float64)
        scale = (d.reshape(-1) * b * w.reshape(-1)).reshape(rows, -1).sum(1) / d.reshape(rows, -1).sum(1)
        for factor in (1.0, 0.97, 1.03):
            yield (factor * scale[:, None] * b.reshape(rows, -1)).reshape(w.shape)


def _grid_rivals(method: Quantize, w: Tensor) -> Iterator[Tensor]:
    """Grids of 2000 steps."""
    limit = 2 ** (method.bits - 1) - 1
    rows = w.reshape(w.shape[0], -1) if method.per == "row" and w.dim() > 1 else w.reshape(1, -1)
    best, least = torch.zeros_like(rows), torch.full((rows.shape[0], 1), float("inf"), dtype=torch.float64)
    for j in torch.logspace(-0.3, 2.5, 2000, dtype=torch.float64):
        step = rows.abs().amax(1, keepdim=True) / j
        grid = (rows / step).round().clamp(-limit, limit) * step
        errors = ((rows - grid) ** 2).sum(1, keepdim=True)
        best, least = torch.where(errors < least, grid, best), torch.minimum(errors, least)
    yield best.reshape(w.shape)
