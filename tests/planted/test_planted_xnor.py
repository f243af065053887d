"""Each law of packed layers turns red on a kernel that breaks it."""

import numpy as np
import pytest
from laws import xnor_laws as laws
from laws.xnor_laws import Conv, Dense

from taut.xnor import PackedConv2d, PackedLinear, pack


def planted(change):
    """A way to pack that goes wrong after the network was compared."""

    def wrong(model, x):
        packed = pack(model, x)
        change(packed[0])
        return packed

    return wrong


def rows_out_of_order(layer):
    layer.weights.signs[:] = np.roll(layer.weights.signs, 1, axis=-1)


def ends_of_bytes_count(layer):
    layer.weights.signs[:, -1] |= 0x80


def last_step_forgotten(layer):
    layer.weights.signs[:, -1] ^= 0x01


def scales_of_one(layer):
    layer.weights.scales[:] = 1


def scales_out_of_order(layer):
    layer.weights.scales[:] = layer.weights.scales[::-1].copy()


class TwoMore(PackedConv2d):
    """Counts two products that are not there."""

    def forward(self, x):
        self.weights.inputs += 2
        try:
            return super().forward(x)
        finally:
            self.weights.inputs -= 2


class Turned(PackedConv2d):
    """Reads its patches by columns."""

    def _patches(self, packed):
        return np.ascontiguousarray(super()._patches(packed).swapaxes(3, 4))


class WithoutStride(PackedConv2d):
    def _patches(self, packed):
        self.stride = (1, 1)
        return super()._patches(packed)


class OtherFormat(PackedConv2d):
    def forward(self, x):
        return super().forward(x).contiguous()


class TakesAll(PackedLinear):
    """Takes whatever it is given for signs."""

    def _refuse(self):
        pass


def become(kind):
    def change(layer):
        layer.__class__ = kind

    return change


FAULTS = {
    "rows": (rows_out_of_order, Dense(70, 40)),
    "rows of a convolution": (rows_out_of_order, Conv(9, 40)),
    "ends of bytes": (ends_of_bytes_count, Dense(70, 40)),
    "ends of bytes in a convolution": (ends_of_bytes_count, Conv(9, 40)),
    "last step": (last_step_forgotten, Dense(65, 40)),
    "no scales": (scales_of_one, Dense(70, 40)),
    "scales out of order": (scales_out_of_order, Dense(70, 40)),
    "two more": (become(TwoMore), Conv(9, 4)),
    "turned": (become(Turned), Conv(9, 4)),
    "no stride": (become(WithoutStride), Conv(9, 4, stride=(2, 1))),
    "memory format": (become(OtherFormat), Conv(9, 4, innermost=True)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_other_outputs_are_seen(name):
    change, case = FAULTS[name]
    laws.check_equal(pack, case)
    with pytest.raises(AssertionError):
        laws.check_equal(planted(change), case)


def test_a_batch_that_loses_rows_is_seen():
    class Pairs(PackedLinear):
        def forward(self, x):
            out = super().forward(x)
            return out if len(x) % 4 != 3 else out.index_fill(0, out.new_tensor([len(x) - 1]).long(), 0.0)

    with pytest.raises(AssertionError, match="batch 3"):
        laws.check_batches(planted(become(Pairs)))


def test_inputs_that_pass_for_signs_are_seen():
    with pytest.raises(pytest.fail.Exception):
        laws.check_signs_only(planted(become(TakesAll)), Dense(9, 3))


def test_copies_that_share_are_seen():
    class Shared(PackedLinear):
        def __deepcopy__(self, memo):
            return self

    with pytest.raises(AssertionError, match="copy"):
        laws.check_copy(planted(become(Shared)), Dense(70, 9))
