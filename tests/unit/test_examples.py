"""A method in the user's own file obeys the laws of taut's own, and works everywhere they do."""

import doctest
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from laws import compressor_laws as laws

import taut.compressors
from taut.apply import apply
from taut.codec.files import load, save
from taut.compressors import Chain, Code, Compressor, Prune

PATH = Path(__file__).parents[2] / "examples" / "my_method.py"
CASES = [
    laws.Case((8, 6)),
    laws.Case((4, 3, 3, 3), torch.float16),
    laws.Case((5, 7), values="zero"),
    laws.Case((5, 7), values="heavy", scale=1e3),
    laws.Case((6, 4), torch.float64, "ties"),
]
CHECKS = [
    laws.check_shape_and_dtype,
    laws.check_input_untouched,
    laws.check_idempotent,
    laws.check_ladder,
    laws.check_same_code_again,
    laws.check_free_tensors,
    laws.check_gradients,
    laws.check_bad_weights,
]


@pytest.fixture(scope="module")
def my_method():
    """The example as a module; what it registered is forgotten afterwards."""
    spec = importlib.util.spec_from_file_location("my_method", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["my_method"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["my_method"]
    for registry in (Compressor.registry, Code.registry):
        for name in [name for name, kind in registry.items() if kind.__module__ == "my_method"]:
            del registry[name]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_laws_hold_on_every_rung(my_method, check, case):
    for method in my_method.PowersOfTwo().ladder(case.shape):
        check(method, case)


def test_no_other_powers_do_better(my_method):
    w = laws.Case((3, 4)).weight()
    code = my_method.PowersOfTwo(levels=3).compress(w)
    values = torch.cat([torch.zeros(1), code.unit * 2.0 ** -torch.arange(3)])
    nearest = (w.abs()[..., None] - values).abs().min(-1).values
    assert laws.error(w, code.decompress()) == pytest.approx(float(nearest.square().sum()))


def test_it_is_applied_chained_saved_and_loaded(my_method, tmp_path):
    def build():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)).eval()

    power = my_method.PowersOfTwo(levels=7)
    small = apply(build(), {"0": power, "2": Chain(Prune(density=0.5), power)})
    written = save(small, tmp_path / "m.taut")
    assert written < save(build(), tmp_path / "dense.taut") / 4
    x = torch.randn(5, 16)
    assert torch.equal(load(tmp_path / "m.taut", into=build())(x), small(x))


def test_its_examples_run(my_method):
    assert doctest.testmod(my_method).failed == 0
    assert doctest.testmod(my_method).attempted > 0
    assert not hasattr(taut.compressors, "PowersOfTwo")
