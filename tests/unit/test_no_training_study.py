"""Study ``no-training`` measures what it says."""

from __future__ import annotations

import sys

import torch

from taut.bench.data import load
from taut.bench.networks import build
from taut.bench.recipes import evaluate


def test_a_baseline_is_coded_and_read_back(scripts):
    import no_training

    splits, network = load("digits"), build("digits-cnn").eval()
    coder = no_training.Coder(network, splits)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    sizes = {}
    for way, setting in (("rounded", 0.5), ("rounded", 1.0), ("rate-aware", 1e-6), ("rate-aware, alone", 1e-6)):
        back, sizes[way, setting], seconds = coder.code(way, setting)
        assert seconds["compress_seconds"] > 0 < seconds["decode_seconds"] and evaluate(back, splits.val)[0] < 10
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert sizes["rounded", 1.0] < sizes["rounded", 0.5] < 4 * sum(p.numel() for p in network.parameters()) / 5
    assert sizes["rate-aware", 1e-6] != sizes["rate-aware, alone", 1e-6]


def test_the_table_takes_the_smallest_file_within_each_drop(scripts):
    import no_training

    def record(size, accuracy):
        told = {"network": "n", "seed": 0, "method": "rounded", "bytes": size, "metric_val": accuracy, "metric_test": 0.9}
        return told | {"baseline": {"metric_val": 0.98, "bytes": 1000}}

    text = no_training.table([record(500, 0.981), record(200, 0.9755), record(100, 0.975), record(50, 0.96)])
    assert text.splitlines()[-1] == (
        "| n, seed 0 | rounded | 500 (2.0×), test 90.00 % | 100 (10.0×), test 90.00 % | 100 (10.0×), test 90.00 % |"
    )


def test_what_the_peer_imports_and_does_not_use_is_gone_afterwards(scripts, tmp_path, monkeypatch):
    import standard_codec

    (tmp_path / "nncodec").mkdir()
    (tmp_path / "nncodec" / "__init__.py").write_text("")
    (tmp_path / "nncodec" / "nn.py").write_text("import flwr.common\nfrom torchvision import datasets\nencode = len\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("nncodec")]:
        monkeypatch.delitem(sys.modules, name)
    known = {name for name in sys.modules if name.split(".")[0] in standard_codec._Nothing.names}
    if not known:  # another test may have imported the real ones
        assert standard_codec.nncodec().encode is len
        assert not [name for name in sys.modules if name.split(".")[0] in standard_codec._Nothing.names]
