"""What a packed network must satisfy, as plain functions of a way to pack, ``pack(model, example_input)``."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from taut.apply import apply
from taut.binary import Sign, signs
from taut.compressors.binary import Binary
from taut.errors import TautError


@dataclass(frozen=True)
class Dense:
    """A linear layer: sizes around whole bytes, whole words and whole blocks of rows."""

    inputs: int
    rows: int
    batch: int = 3
    scale: str = "row"
    dtype: torch.dtype = torch.float32

    def model(self):
        torch.manual_seed(self.inputs * 1000 + self.rows)
        model = nn.Sequential(nn.Linear(self.inputs, self.rows, bias=False).to(self.dtype))
        return apply(model, {"0": Binary(self.scale)}).eval()

    def x(self):
        return signs(torch.randn(self.batch, self.inputs, dtype=self.dtype))


@dataclass(frozen=True)
class Conv:
    """A convolution without padding, on maps of ``size``."""

    channels: int
    filters: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    size: tuple[int, int] = (7, 6)
    batch: int = 2
    innermost: bool = False

    def model(self):
        torch.manual_seed(self.channels * 1000 + self.filters)
        layer = nn.Conv2d(self.channels, self.filters, self.kernel, self.stride, dilation=self.dilation, bias=False)
        return apply(nn.Sequential(layer), {"0": Binary()}).eval()

    def x(self):
        x = signs(torch.randn(self.batch, self.channels, *self.size))
        return x.to(memory_format=torch.channels_last) if self.innermost else x


def outputs(model, x):
    with torch.no_grad():
        return model(x)


def sums(model, x):
    """The outputs from whole-number sums in 64 bits, times the scales, in double precision: slow and obvious."""
    layer, weight = model[0], model[0].weight.detach()
    whole, scales = signs(weight).long(), weight.reshape(len(weight), -1).abs().amax(1).double()
    if isinstance(layer, nn.Linear):
        return (x.long() @ whole.T).double() * scales
    total = torch.nn.functional.conv2d(x.double(), whole.double(), None, layer.stride, 0, layer.dilation)
    return total * scales[:, None, None]


def check_equal(pack, case):
    """Outputs equal the float network's and the whole-number sums', bit for bit, in the same memory format."""
    model, x = case.model(), case.x()
    packed = pack(model, x)
    for seed in range(2):
        torch.manual_seed(seed)
        x = case.x()
        found, wanted = outputs(packed, x), outputs(model, x)
        assert found.shape == wanted.shape and found.dtype == wanted.dtype, f"{case}: {found.shape} {found.dtype}"
        assert torch.equal(found, wanted), f"{case}: off by {float((found - wanted).abs().max())}"
        assert torch.equal(found.double(), sums(model, x)), f"{case}: not the sum of whole numbers"
        innermost = isinstance(case, Conv) and case.innermost
        layout = torch.channels_last if innermost else torch.contiguous_format
        assert found.is_contiguous(memory_format=layout), f"{case}: another memory format than the input's"


def check_batches(pack, inputs=70, rows=35):
    """Every batch size has the outputs of its rows one by one."""
    case = Dense(inputs, rows, batch=64)
    model, x = case.model(), case.x()
    packed = pack(model, x)
    wanted = outputs(model, x)
    for batch in range(1, 65):
        assert torch.equal(outputs(packed, x[:batch]), wanted[:batch]), f"batch {batch}: other outputs"


def check_signs_only(pack, case):
    """One input that is no sign is an error, wherever it is."""
    model, x = case.model(), case.x()
    packed = pack(model, x)
    for place in (0, x.numel() // 2, x.numel() - 1):
        for value in (0.0, 0.5, -1.0000001, float("nan"), float("inf")):
            other = x.clone()
            other.reshape(-1)[place] = value
            with pytest.raises(TautError, match="not all -1 or 1"):
                outputs(packed, other)


def check_copy(pack, case):
    """A copy computes with memory of its own."""
    model, x = case.model(), case.x()
    packed = pack(model, x)
    other, wanted = copy.deepcopy(packed), outputs(packed, x)
    packed[0].weights.signs[:] = 0
    assert torch.equal(outputs(other, x), wanted), "the copy computes with the original's weights"


def network(pooled=False):
    """A small network of all that surrounds binary layers."""
    torch.manual_seed(4)
    model = nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1), nn.BatchNorm2d(20), Sign(), nn.ConstantPad2d(1, 1.0),
        nn.Conv2d(20, 33, 3, bias=False), nn.MaxPool2d(2) if pooled else nn.Identity(), nn.BatchNorm2d(33), Sign(),
        nn.ConstantPad2d((1, 0, 0, 1), -1.0), nn.Conv2d(33, 9, 2, stride=2, bias=False), nn.BatchNorm2d(9), Sign(),
        nn.Flatten(), nn.Linear(9 * (4 if pooled else 16), 70, bias=False), nn.BatchNorm1d(70), nn.Linear(70, 10),
    )  # fmt: skip
    x = torch.randn(6, 3, 8, 8)
    model.train()(x)  # statistics that are not those of the start
    return apply(model.eval(), {"4": Binary(), "9": Binary("tensor"), "13": Binary("none")}), x
