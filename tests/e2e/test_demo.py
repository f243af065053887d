"""The main job, as a newcomer starts it: what the demo leaves behind agrees with what it says, and with itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from taut.bench.data import Batches, load
from taut.bench.networks import build
from taut.bench.recipes import evaluate
from taut.codec import files

SRC = Path(__file__).parents[2] / "src"
SECONDS = 600  # for a machine that does other things as well

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """``(folder, summary on stdout, stderr)`` of one run of ``taut demo --json``."""
    out = tmp_path_factory.mktemp("demo")
    environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "taut", "demo", "--out", str(out), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_the_five_files_and_nothing_else(demo):
    out, summary, progress = demo
    assert sorted(p.name for p in out.iterdir()) == ["curve.jsonl", "model.onnx", "model.taut", "report.html", "summary.json"]
    assert summary == json.loads((out / "summary.json").read_text())
    assert "step 1" in progress


def test_the_summary_says_what_the_files_are(demo):
    out, summary, _ = demo
    assert summary["compressed"]["bytes"] == (out / "model.taut").stat().st_size
    assert summary["compressed"]["onnx_bytes"] == (out / "model.onnx").stat().st_size
    assert 70_000 <= summary["baseline"]["params"] <= 80_000
    assert summary["ratio"]["bytes"] == pytest.approx(4 * summary["baseline"]["params"] / summary["compressed"]["bytes"])
    assert summary["ratio"]["params"] == pytest.approx(summary["baseline"]["params"] / summary["compressed"]["params"])
    assert len((out / "curve.jsonl").read_text().splitlines()) > 2


def test_no_drop_and_at_least_25_times_smaller(demo, digits):
    out, summary, _ = demo
    assert summary["budget"] == {"kind": "metric_drop", "value": 0.0, "maximize": True, "kept": True}
    assert summary["compressed"]["metric"] >= summary["baseline"]["metric"]
    assert summary["ratio"]["bytes"] >= 25
    model = files.load(out / "model.taut", into=build("digits-cnn")).eval()
    loss, metric = evaluate(model, digits.val)
    assert metric == pytest.approx(summary["compressed"]["metric"])
    assert loss == pytest.approx(summary["compressed"]["loss"], rel=1e-4)
    assert evaluate(model, digits.test)[1] == pytest.approx(summary["test"]["after"])
    assert summary["test"]["samples"] == len(digits.test)


def test_file_and_graph_agree(demo, digits):
    out, _, _ = demo
    model = files.load(out / "model.taut", into=build("digits-cnn")).eval()
    graph = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    x, _ = next(iter(Batches(digits.test, 50, shuffle=False)))
    with torch.no_grad():
        want = model(x).numpy()
    have = graph.run(None, {graph.get_inputs()[0].name: x.numpy()})[0]
    np.testing.assert_allclose(have, want, rtol=1e-3, atol=1e-4)
