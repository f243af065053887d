"""Every law on every compressor of taut, and on one that lives in this file alone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import pytest
import torch
from laws import compressor_laws as law
from laws.compressor_laws import Case
from torch import Tensor, nn

from taut.compressors import Chain, Code, Codebook, Compressor, LowRank, Prune, Quantize, RateQuantize, Stats
from taut.compressors.adaptive_precision import AdaptivePrecision
from taut.compressors.base import check_weight, dense
from taut.compressors.binary import Binary, BinaryKernels, unfit
from taut.compressors.codebook import EntropyCodebook, LinearCodebook
from taut.compressors.columns import Columns
from taut.compressors.loss_aware import LossAwareBinary
from taut.compressors.low_rank import matrix_shape
from taut.compressors.pool import Pool
from taut.compressors.tucker import Tucker


@dataclass(frozen=True, eq=False)
class UserRowsCode(Code):
    """Some rows of a weight; the others are zero."""

    rows: Tensor | Code
    which: Tensor
    shape: tuple[int, ...]

    def decompress(self) -> Tensor:
        rows = dense(self.rows)
        return rows.new_zeros(self.shape).index_copy(0, self.which, rows.reshape(-1, *self.shape[1:]))


@dataclass(frozen=True)
class UserRows(Compressor):
    """A method in the user's own file: keep the rows of largest norm."""

    count: int = 1
    optimal: ClassVar[bool] = True

    def compress(self, w: Tensor, stats: Stats | None = None) -> Code:
        w = check_weight(w, self)
        norms = w.reshape(w.shape[0], -1).double().norm(dim=1)
        which = norms.argsort(descending=True, stable=True)[: self.count].sort().values
        return UserRowsCode(w[which], which, tuple(w.shape))

    def ladder(self, shape: Sequence[int]) -> list[Compressor]:
        return [dataclasses.replace(self, count=c) for c in range(1, shape[0] + 1)]

    def rivals(self, w: Tensor) -> Iterator[Tensor]:
        for rows in itertools.combinations(range(w.shape[0]), self.count):
            mask = torch.zeros(w.shape[0], dtype=torch.bool)
            mask[list(rows)] = True
            yield w * mask.reshape(-1, *[1] * (w.dim() - 1))


METHODS: list[Compressor] = [
    LowRank(rank=1),
    LowRank(rank=2),
    LowRank(rank=3, scheme=2),
    LowRank(rank=2, by="activation"),
    Tucker(rank_in=1, rank_out=1),
    Tucker(rank_in=3, rank_out=2),
    Columns(inputs=0.4),
    Columns(inputs=0.6, by="activation"),
    Chain(Columns(inputs=0.5), LowRank(rank=2)),
    Chain(Columns(inputs=0.6, by="activation"), LowRank(rank=1, by="activation")),
    Pool(by=2),
    Pool(by=3, channels=1),
    Pool(by=2, channels=4),
    Chain(Pool(by=2), Prune(density=0.5, by="fisher")),
    Chain(Pool(by=2), Chain(Prune(density=0.5), Codebook(k=6))),
    Prune(density=0.3),
    Prune(density=1.0),
    Prune(density=0.4, by="fisher"),
    Prune(density=0.2, by="random", seed=3),
    Codebook(k=1),
    Codebook(k=2, keep_zero=False),
    Codebook(k=5),
    Codebook(k=3, by="fisher"),
    Codebook(k=300, keep_zero=False),
    EntropyCodebook(price=0.2),
    EntropyCodebook(price=1e-3, k=5, keep_zero=False),
    EntropyCodebook(price=0.03, by="fisher"),
    EntropyCodebook(price=0.03, by="fisher", damping=1.0),
    LinearCodebook(k=4),
    LinearCodebook(k=7, keep_zero=True),
    AdaptivePrecision(tolerance=0.1),
    AdaptivePrecision(tolerance=2**-9),
    AdaptivePrecision(tolerance=0.03, by="fisher"),
    LossAwareBinary(),
    LossAwareBinary(per="row"),
    LossAwareBinary(by="fisher"),
    Binary(),
    Binary(scale="tensor"),
    Binary(scale="none"),
    BinaryKernels(k=1),
    BinaryKernels(k=3),
    BinaryKernels(k=2, scale="tensor"),
    BinaryKernels(k=300, scale="none"),
    Chain(Binary(), Codebook(k=3)),
    Quantize(bits=2),
    Quantize(bits=4),
    Quantize(bits=8, per="row"),
    Quantize(bits=16),
    Quantize(step=0.01),
    RateQuantize(price=0.05),
    RateQuantize(price=1e-6),
    RateQuantize(price=0.01, by="loss"),
    RateQuantize(price=1e-9, by="loss"),
    Chain(),
    Chain(LowRank(rank=2), Codebook(k=4)),
    Chain(Tucker(rank_in=2, rank_out=3), Quantize(bits=4)),
    Chain(Prune(density=0.3), Codebook(k=4)),
    Chain(Prune(density=0.3), LinearCodebook(k=4)),
    Chain(AdaptivePrecision(tolerance=0.1), Quantize(bits=8)),
    Chain(LossAwareBinary(per="row"), EntropyCodebook(price=0.1)),
    Chain(Prune(density=0.5, by="fisher"), Codebook(k=3, by="fisher")),
    Chain(LowRank(rank=2), Chain(Prune(density=0.5), Codebook(k=6))),
    Chain(Chain(LowRank(rank=2), Prune(density=0.5)), Quantize(bits=4)),
    Chain(Codebook(k=4), Quantize(bits=8)),
    Chain(Quantize(bits=4, per="row"), Codebook(k=2)),
    UserRows(count=2),
    Chain(UserRows(count=2), Codebook(k=3)),
]
FOUND = law.discovered(METHODS)  # methods that are not listed above are held to every law at each rung of their ladder
METHODS += FOUND
SHAPES = [(7,), (1,), (10, 6), (5, 16), (6, 33), (1, 9), (9, 1), (5, 4, 3), (8, 3, 3, 5), (4, 3, 2, 3, 2)]
HALF = (torch.float16, torch.bfloat16)
CASES = [
    *(Case(shape) for shape in SHAPES),
    *(Case((10, 6), dtype) for dtype in (torch.float64, *HALF)),
    *(Case((8, 3, 3, 5), dtype, "heavy") for dtype in (torch.float64, *HALF)),
    *(Case((12, 9), torch.float32, values) for values in ("heavy", "sparse", "ties", "zero", "equal")),
    *(Case((12, 9), torch.float32, "normal", scale) for scale in (1e-30, 1e30)),
]


def fits(method: Compressor, case: Case) -> bool:
    if isinstance(method, Chain) and isinstance(method.first, Columns) and isinstance(method.second, LowRank):
        narrow = replace_last(case, method.first.inputs)
        return fits(method.first, case) and fits(method.second, narrow)
    if isinstance(method, Chain):
        return fits(method.first, case)
    if isinstance(method, Columns):
        return len(case.shape) == 2
    if isinstance(method, Tucker):
        return len(case.shape) > 2 and method.rank_out <= case.shape[0] and method.rank_in <= case.shape[1]
    if isinstance(method, Pool):
        return method._unfit(case.shape) is None
    if isinstance(method, BinaryKernels):
        return unfit(case.shape) is None
    if isinstance(method, UserRows):
        return method.count <= case.shape[0]
    if isinstance(method, Quantize) and method.step is not None:
        return case.scale <= 1
    scheme = method.scheme if isinstance(method, LowRank) and len(case.shape) == 4 else 1
    return not isinstance(method, LowRank) or (len(case.shape) > 1 and method.rank <= min(matrix_shape(case.shape, scheme)))


def replace_last(case: Case, share: float) -> Case:
    """The case with this share of its columns."""
    return dataclasses.replace(case, shape=(*case.shape[:-1], max(1, round(share * case.shape[-1]))))


def settings(method: Compressor, case: Case) -> list[Compressor]:
    """What is tested of a method on a case: a listed one as it is, another on its whole ladder."""
    if method in FOUND:
        return law.rungs(method, case.shape)
    return [method] if fits(method, case) else []


CHECKS = pytest.mark.parametrize(
    "check",
    [
        law.check_shape_and_dtype,
        law.check_input_untouched,
        law.check_idempotent,
        law.check_same_code_again,
        law.check_free_tensors,
        law.check_bad_weights,
    ],
    ids=lambda check: check.__name__[6:],
)


@pytest.mark.parametrize("method", METHODS, ids=str)
@CHECKS
def test_law(check, method):
    for case in CASES:
        for setting in settings(method, case):
            try:
                check(setting, case)
            except AssertionError as broken:
                raise AssertionError(f"{check.__name__}({setting}, {case})") from broken


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_gradients(method):
    for case in (Case((6, 33), torch.float64), Case((3, 16), torch.float64), Case((8, 3, 3, 5), torch.float64, "sparse")):
        for setting in settings(method, case):
            law.check_gradients(setting, case)


LADDERS = [
    LowRank(),
    LowRank(scheme=2),
    LowRank(by="activation"),
    Tucker(),
    Columns(),
    Columns(by="activation"),
    Chain(Columns(), LowRank(rank=1)),
    Prune(),
    Prune(by="fisher"),
    Prune(by="random", seed=1),
    Codebook(),
    Codebook(keep_zero=False),
    Codebook(by="fisher"),
    EntropyCodebook(),
    EntropyCodebook(by="fisher", keep_zero=False),
    LinearCodebook(),
    AdaptivePrecision(),
    AdaptivePrecision(by="fisher"),
    LossAwareBinary(),
    LossAwareBinary(by="fisher"),
    Binary(),
    BinaryKernels(),
    BinaryKernels(scale="none"),
    Quantize(),
    Quantize(per="row"),
    RateQuantize(),
    RateQuantize(by="loss"),
    Chain(),
    Chain(Prune(), Codebook(k=4)),
    UserRows(),
]
LADDERS += law.discovered(LADDERS)


@pytest.mark.parametrize("method", LADDERS, ids=str)
def test_ladder(method):
    cases = [case for case in (*CASES, Case((60, 100)), Case((16, 8, 5, 3))) if law.rungs(method, case.shape)]
    first = method.first if isinstance(method, Chain) else method
    needed = {Tucker: {4}, Columns: {2}, BinaryKernels: {4}, Pool: {2}}.get(type(first), {2, 4})
    assert {len(case.shape) for case in cases} >= needed, "a ladder that takes no matrices is held to no law"
    for case in cases:
        law.check_ladder(method, case)


@pytest.mark.parametrize("method", [LowRank(), LowRank(scheme=2), Prune(), Prune(by="fisher"), Codebook(), UserRows()], ids=str)
def test_the_ladder_ends_dense(method):
    # a codebook's ends dense where the weight has no more than 256 elements
    for case in CASES:
        if (len(case.shape) > 1 or not isinstance(method, LowRank)) and prod(case.shape) <= 255:
            law.check_dense_end(method, case)


@pytest.mark.parametrize("method", FOUND, ids=str)
def test_as_many_numbers_as_weights_have_no_error(method):
    for case in (case for case in CASES if law.rungs(method, case.shape)):
        best = law.compress(law.rungs(method, case.shape)[-1], case.weight(), case.stats())
        if sum(t.numel() for t in best.free()) >= prod(case.shape):
            law.check_dense_end(method, case)


OPTIMAL = [
    *((LowRank(rank=r, scheme=s), Case(shape)) for r in (1, 2, 5) for s in (1, 2) for shape in ((12, 9), (9, 30), (8, 3, 3, 5))),
    *((LowRank(rank=r, by="activation"), Case(shape)) for r in (1, 2, 5) for shape in ((12, 9), (9, 30), (8, 3, 3, 5))),
    (LowRank(rank=3, by="activation"), Case((12, 9), torch.float32, "heavy")),
    (LowRank(rank=3), Case((12, 9), torch.float16)),
    (LowRank(rank=3), Case((40, 30), torch.float32, "heavy")),
    (LowRank(rank=4), Case((12, 9), torch.float32, "normal", 1e-30)),
    *((Prune(density=d, by=by), Case((3, 3))) for d in (0.1, 0.34, 0.8) for by in ("magnitude", "fisher")),
    (Prune(density=0.5), Case((3, 3), torch.float32, "ties")),
    *((Codebook(k=k, keep_zero=z, by=by), Case((6,))) for k in (1, 2, 3) for z in (0, 1) for by in ("magnitude", "fisher")),
    (Codebook(k=2), Case((2, 4), torch.float32, "sparse")),
    *((LossAwareBinary(by=by, per=per), Case((3, 3))) for by in ("magnitude", "fisher") for per in ("tensor", "row")),
    (LossAwareBinary(by="fisher"), Case((2, 4), torch.float32, "sparse")),
    *((Binary(scale=scale), Case(shape)) for scale in ("tensor", "row") for shape in ((12, 9), (8, 3, 3, 5))),
    (UserRows(count=2), Case((5, 3))),
]
OPTIMAL += [
    (rung, case)
    for case in (Case((3, 3)), Case((12, 9), torch.float32, "heavy"), Case((8, 3, 3, 5)))
    for method in FOUND
    if type(method).optimal
    for rung in law.rungs(method, case.shape)
]


@pytest.mark.parametrize(("method", "case"), OPTIMAL, ids=str)
def test_no_rival_does_better(method, case):
    assert type(method).optimal
    law.check_no_better_rival(method, case)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("per", ["tensor", "row"])
def test_a_grid_is_nearly_the_best(bits, per):
    # approximate by its own word: within 3 % of the best of 2000 steps, where no step fits a few weights by luck
    for values in ("normal", "heavy"):
        law.check_no_better_rival(Quantize(bits=bits, per=per), Case((4, 2000), torch.float32, values), excess=0.03)


LAYERS = {
    "linear": (lambda: nn.Linear(20, 12), (4, 20)),
    "linear, no bias, more axes": (lambda: nn.Linear(20, 12, bias=False), (2, 3, 20)),
    "conv1d": (lambda: nn.Conv1d(6, 10, 5, stride=2, padding=3, dilation=2), (2, 6, 30)),
    "conv2d": (lambda: nn.Conv2d(6, 10, 3), (2, 6, 9, 9)),
    "conv2d, uneven": (lambda: nn.Conv2d(6, 10, (3, 5), stride=(2, 3), padding=(1, 4), dilation=(3, 2)), (2, 6, 15, 19)),
    "conv2d, circular": (lambda: nn.Conv2d(6, 10, (3, 5), padding=(1, 2), padding_mode="circular"), (2, 6, 9, 11)),
    "conv2d, reflect": (lambda: nn.Conv2d(6, 10, 3, stride=2, padding=2, padding_mode="reflect", bias=False), (2, 6, 9, 9)),
    "conv2d, replicate": (lambda: nn.Conv2d(6, 10, 3, padding=(2, 1), padding_mode="replicate"), (2, 6, 9, 9)),
    "conv2d, same": (lambda: nn.Conv2d(6, 10, (4, 3), padding="same", dilation=(1, 2)), (2, 6, 9, 11)),
    "conv2d, same, circular": (lambda: nn.Conv2d(6, 10, 4, padding="same", padding_mode="circular"), (2, 6, 9, 11)),
    "conv2d, valid": (lambda: nn.Conv2d(6, 10, 3, padding="valid"), (2, 6, 9, 11)),
    "conv2d, groups": (lambda: nn.Conv2d(6, 12, 3, groups=3), (2, 6, 9, 9)),
    "conv2d, depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6), (2, 6, 9, 9)),
    "conv3d": (lambda: nn.Conv3d(4, 10, (2, 3, 3), stride=(1, 2, 1), padding=(1, 0, 2)), (2, 4, 5, 7, 6)),
    "embedding": (lambda: nn.Embedding(20, 12, padding_idx=3), None),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_the_layer_computes_the_dense_product(name):
    make, shape = LAYERS[name]
    x = torch.randint(0, 20, (3, 5)) if shape is None else torch.randn(shape)
    settings = [m for m in METHODS if m not in FOUND]
    settings += [rung for m in FOUND for rung in law.rungs(m, _layer(make).weight.shape)]
    for method in settings:
        law.check_layer(method, make, x)


def test_the_layer_law_sees_layers_become_two():
    """Low rank is not refused everywhere, or the law above would say nothing of it."""
    taken = [n for n, (make, _) in LAYERS.items() if LowRank(rank=2).refuses(_layer(make)) is None]
    assert len(taken) == len(LAYERS) - 2  # all but the grouped ones


def _layer(make):
    from taut.layers import find_layers

    return find_layers(nn.Sequential(make()))["0"]


def test_every_compressor_of_taut_is_in_the_tables():
    assert not law.discovered(METHODS)
    assert not law.discovered(LADDERS)
    assert all(law.rungs(method, (10, 6)) for method in FOUND)


@CHECKS
@pytest.mark.parametrize("kind", [LowRank, Prune, Quantize])
def test_a_method_that_no_table_lists_is_held_to_its_ladder(check, kind):
    found = law.discovered(m for m in METHODS if type(m) is not kind)
    assert found == [kind()]
    ladder = law.rungs(found[0], (5, 4, 3))
    assert len(ladder) > 1
    for rung in ladder:
        check(rung, Case((5, 4, 3)))


def test_a_users_method_is_registered():
    assert Compressor.registry["UserRows"] is UserRows
    assert Code.registry["UserRowsCode"] is UserRowsCode
