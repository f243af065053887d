"""Every model of the table, with every kind of code: outputs, sizes, bits, and what runs."""

import pytest
from laws.compressor_laws import discovered, rungs
from laws.export_laws import (
    CASES,
    case,
    check_bits,
    check_decoded_once,
    check_gathered_only_where_smaller,
    check_outputs,
    check_travels,
)

from taut.apply import apply
from taut.compressors.chain import Chain
from taut.compressors.codebook import Codebook
from taut.compressors.low_rank import LowRank
from taut.compressors.prune import Prune
from taut.compressors.quantize import Quantize
from taut.export.onnx import export_onnx
from taut.layers import find_layers

CODES = {
    "dense": None,
    "codebook": Codebook(k=4),
    "quantize": Quantize(bits=4),
    "prune": Prune(density=0.2),
    "low_rank": LowRank(rank=2),
    "chain": Chain(LowRank(rank=2), Codebook(k=4)),
    "pruned_codebook": Chain(Prune(density=0.3), Codebook(k=4)),
}
# a method that is not listed: the middle of its ladder
FOUND = discovered(m for m in CODES.values() if m is not None)
CODES |= {type(method).__name__: method for method in FOUND}
# the slow graphs with the codes that change the graph; the others with all
SLOW, CHANGES = ("recurrent", "attention"), ("codebook", "prune", "chain")
TABLE = [(name, code) for name in CASES for code in (CHANGES if name in SLOW else CODES)]
FEW_VALUES = ("codebook", "quantize", "pruned_codebook")


def coded(model, method):
    if method is None:
        return model
    plan = {n: middle(method, layer.weight.shape) if method in FOUND else method for n, layer in find_layers(model).items()}
    return apply(model, {n: rung for n, rung in plan.items() if rung and rung.refuses(find_layers(model)[n]) is None})


def middle(method, shape):
    """The middle rung of a ladder, or ``None`` where there is none."""
    ladder = rungs(method, shape)
    return ladder[len(ladder) // 2] if ladder else None


@pytest.mark.parametrize(("name", "code"), TABLE)
def test_every_code_in_every_model(name, code, tmp_path):
    model, example = case(name)
    model = coded(model, CODES[code])
    dense = export_onnx(model, tmp_path / "dense.onnx", example, codebooks="off", way="trace")
    report = export_onnx(model, tmp_path / "m.onnx", example, way="trace")
    assert report.max_difference <= 1e-4
    check_outputs(report.path, model, example)
    check_gathered_only_where_smaller(dense, report)
    check_bits(report.path, model, report.indexed)
    check_decoded_once(dense.path, report.path, tmp_path)
    check_travels(model, example, report.path, tmp_path, "trace")
    if code in FEW_VALUES:
        assert report.bytes < dense.bytes, "a codebook must make the file smaller"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dense.onnx", "m.onnx", "optimised.onnx"]


MIXED = {
    "recurrent": {"table": Codebook(k=4), "rnn*": Quantize(bits=3), "out": Codebook(k=4)},
    "attention": {"table": Codebook(k=8), "block.linear1": LowRank(rank=3), "block.linear2": Codebook(k=8)},
    "keywords": {"table": Codebook(k=8)},
}


@pytest.mark.parametrize("name", MIXED)
def test_the_exporter_that_ships(name, tmp_path):
    model, example = case(name)
    model = apply(model, MIXED[name])
    report = export_onnx(model, tmp_path / "m.onnx", example)
    assert report.way == "export"
    assert report.indexed
    assert report.bytes < report.dense_bytes
    check_travels(model, example, report.path, tmp_path, "export")
    check_outputs(report.path, model, example)
    check_bits(report.path, model, report.indexed)
