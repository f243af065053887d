"""Packed layers give the float network's outputs bit for bit, at every size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from laws import xnor_laws as laws
from laws.xnor_laws import Conv, Dense
from torch import nn

from taut.apply import apply
from taut.binary import Sign
from taut.codec.files import load, save
from taut.compressors.binary import Binary, BinaryKernels
from taut.errors import ParityError, TautError
from taut.layers import bake, codes
from taut.numeric import popcount
from taut.parametrizations import Binary as BinaryTraining
from taut.reparametrize import wrap
from taut.xnor import Packed, pack, packable

SIZES = (1, 2, 7, 8, 9, 31, 63, 64, 65, 100, 127, 250)
DENSE = [
    *(Dense(inputs, rows) for inputs, rows in zip(SIZES, (1, 64, 65, 33, 3, 31, 8, 32, 130, 7, 63, 96), strict=True)),
    # counts of 31 steps of a byte each, and one more
    *(Dense(8 * steps + more, 40) for steps in (31, 62) for more in (-1, 0, 1)),
    *(Dense(1030, 70, batch) for batch in (1, 2, 3, 4, 5, 64)),
    *(Dense(90, 35, 5, scale) for scale in ("none", "tensor")),
    *(Dense(inputs, 70, 3, dtype=torch.float64) for inputs in (3, 64, 1030)),
    Dense(65535, 2, 1),
]
CONVS = [
    *(Conv(channels, filters) for channels, filters in ((1, 1), (3, 8), (8, 31), (20, 33), (64, 65), (70, 16))),
    *(Conv(20, 9, kernel) for kernel in ((1, 1), (1, 3), (5, 2), (7, 6))),
    Conv(20, 9, (3, 3), (2, 1)),
    Conv(20, 9, (3, 2), (2, 3), (2, 1)),
    Conv(12, 9, (2, 2), (1, 1), (1, 3), (9, 8), batch=1),
    Conv(20, 33, innermost=True),
]


@pytest.mark.parametrize("case", [*DENSE, *CONVS], ids=str)
def test_outputs_are_equal(case):
    laws.check_equal(pack, case)


def test_every_batch_size():
    laws.check_batches(pack)


@pytest.mark.parametrize("case", [Dense(9, 3), Dense(64, 3, dtype=torch.float64), Conv(9, 3)], ids=str)
def test_inputs_that_are_no_signs_are_refused(case):
    laws.check_signs_only(pack, case)


@pytest.mark.parametrize("case", [Dense(70, 9), Conv(9, 3)], ids=str)
def test_copies_have_their_own_memory(case):
    laws.check_copy(pack, case)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_whole_network(pooled, tmp_path):
    model, x = laws.network(pooled)
    packed = pack(model, x)
    assert [type(m).__name__ for m in packed if isinstance(m, Packed)] == ["PackedConv2d", "PackedConv2d", "PackedLinear"]
    for batch in (x, x[:1], torch.randn(17, 3, 8, 8)):
        assert torch.equal(laws.outputs(packed, batch), laws.outputs(model, batch))
    # on the way: from its file, and with kernels that are shared
    save(model, tmp_path / "m.taut")
    again = load(tmp_path / "m.taut", into=bake(laws.network(pooled)[0])).eval()
    shared = apply(model, {"4": BinaryKernels(k=12)})
    for network in (again, shared):
        assert torch.equal(laws.outputs(pack(network, x), x), laws.outputs(network, x))
    assert not torch.equal(laws.outputs(shared, x), laws.outputs(model, x))


def test_the_way_without_a_table_gives_the_same():
    code = (
        "from laws import xnor_laws as laws; from laws.xnor_laws import Conv, Dense; from taut.xnor import pack\n"
        "from taut.numeric.popcount import has_lookup\n"
        "assert not has_lookup()\n"
        "[laws.check_equal(pack, case) for case in (Dense(250, 70, 5), Dense(1030, 65, 2), Conv(20, 33))]\n"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic", "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root / 'tests'}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)


def _padded():
    return nn.Sequential(Sign(), nn.Conv2d(3, 4, 3, padding=1, bias=False))


def _tied():
    model = nn.Sequential(Sign(), nn.Linear(6, 6, bias=False), Sign(), nn.Linear(6, 6, bias=False))
    model[3].weight = model[1].weight
    return model


UNFIT = {
    "not binary": (lambda: nn.Sequential(Sign(), nn.Linear(6, 4)), (2, 6), "its weights are not binary"),
    "in training": (lambda: wrap(nn.Sequential(Sign(), nn.Linear(6, 4)), {"*": BinaryTraining()}).model, (2, 6), "finalize"),
    "real inputs": (lambda: nn.Sequential(nn.ReLU(), nn.Linear(6, 4, bias=False)), (2, 6), "not all -1 or 1"),
    "zeros at the border": (_padded, (2, 3, 5, 5), "ConstantPad2d"),
    "groups": (lambda: nn.Sequential(Sign(), nn.Conv2d(4, 4, 3, groups=2, bias=False)), (2, 4, 5, 5), "grouped"),
    "one dimension": (lambda: nn.Sequential(Sign(), nn.Conv1d(4, 4, 3, bias=False)), (2, 4, 5), "2-D"),
    "shared": (_tied, (2, 6), "shared with 3"),
    "half precision": (lambda: nn.Sequential(Sign(), nn.Linear(6, 4, bias=False)).bfloat16(), (2, 6), "bfloat16"),
    "too long": (lambda: nn.Sequential(Sign(), nn.Linear(65536, 1, bias=False)), (2, 65536), "65,535"),
    "a bias of many digits": (lambda: nn.Sequential(Sign(), nn.Linear(6, 4)), (2, 6), "too many digits"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_be_packed_says_why(name):
    make, shape, why = UNFIT[name]
    torch.manual_seed(0)
    model = make().eval()
    x = torch.randn(shape, dtype=next(model.parameters()).dtype)
    if name not in ("not binary", "in training"):
        model = apply(model, {"*": Binary()})
    assert why in next(iter(packable(model, x).values()))
    with pytest.raises(TautError, match=why.split("(")[0]):
        pack(model, x)


def test_scales_that_were_trained_are_rounded_by_the_method_again():
    model = apply(nn.Sequential(Sign(), nn.Linear(100, 9, bias=False)), {"1": Binary()})
    x = torch.randn(4, 100)
    with torch.no_grad():
        model[1].parametrizations.weight.original0.mul_(1 / 3)
    assert "too many digits" in packable(model, x)["1"]
    model = apply(model, {"1": Binary()})
    assert torch.equal(laws.outputs(pack(model, x), x), laws.outputs(model, x))


def test_a_bias_of_few_digits_is_added():
    model = nn.Sequential(Sign(), nn.Linear(100, 9))
    model[1].bias.data = torch.arange(9) / 4
    model, x = apply(model, {"1": Binary("none")}), torch.randn(4, 100)
    assert torch.equal(laws.outputs(pack(model, x), x), laws.outputs(model, x))


def test_misuse_is_told(tmp_path):
    model, x = Dense(70, 9).model(), Dense(70, 9).x()
    packed = pack(model, x)
    with pytest.raises(TautError, match="no gradients"):
        packed(x.clone().requires_grad_())
    with pytest.raises(TautError, match="float64"):
        packed(x.double())
    with pytest.raises(TautError, match="70 inputs is given an input of shape"):
        packed(x.reshape(-1, 35))
    conv = pack(Conv(4, 3).model(), Conv(4, 3).x())
    for shape in ((2, 5, 7, 6), (4, 7, 6), (2, 4, 2, 6)):
        with pytest.raises(TautError, match="packed convolution"):
            conv(torch.ones(shape))
    # a packed network's state is not mistaken for the original's
    assert "0.packed" in codes(packed) and "0.weight" not in codes(packed)


def test_other_outputs_are_never_handed_over(monkeypatch):
    case = Dense(70, 40)
    monkeypatch.setattr("taut.xnor.lay_out", lambda bits: popcount.lay_out(bits[::-1]))
    with pytest.raises(ParityError, match="other outputs"):
        pack(case.model(), case.x())
