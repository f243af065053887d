"""Data-parallel training over two processes gives the weights of one process on the same global batches."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from laws.loop_laws import check_same_weights

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "ddp.py"
# One process adds the gradients of 32 samples in another order than two, which add 16 each and then the sums. So the gradient of
# a step is off by a few roundings (6e-8 relative in single precision, 1e-16 in double). Proximal operators of convex penalties do
# not widen a difference, training may, a few times. In double precision the difference has to shrink as the rounding does.
TOLERANCE = {"torch.float32": 1e-4, "torch.float64": 1e-12}


def ddp():
    spec = importlib.util.spec_from_file_location("ddp_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def on_two(script, out):
    """Start a script on two processes, as a user does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    # gloo aborts now and then on a busy machine as connections open: one more start; a wrong result fails both times
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    return subprocess.run([*launch, script, "--out", out], env=environment, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The weights of two processes."""
    out = tmp_path_factory.mktemp("ddp") / "two.pt"
    done = on_two(EXAMPLE, out)
    assert done.returncode == 0, done.stderr[-10000:]
    return torch.load(out, weights_only=True)


LEFT = """
import runpy
from pathlib import Path
runpy.run_path({script!r}, run_name="__main__")
left = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
assert not any("gloo" in name for name in left), f"still there: {{left}}"
"""
IMPORT = "import torch.distributed.nn "


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are named in /proc alone")
@pytest.mark.parametrize("planted", [False, True], ids=["as it is", "without the import"])
def test_no_thread_of_gloo_outlives_the_group(planted, tmp_path):
    """One that does may want the interpreter's lock after its end, which aborts the process."""
    script, wrapped = tmp_path / "ddp.py", tmp_path / "wrapped.py"
    text = EXAMPLE.read_text()
    assert IMPORT in text
    script.write_text(text.replace(IMPORT, "# " + IMPORT) if planted else text)
    wrapped.write_text(LEFT.format(script=str(script)))
    done = on_two(wrapped, tmp_path / "two.pt")
    assert ("still there" in done.stderr) == planted and (done.returncode != 0) == planted, done.stderr[-10000:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_two_processes_train_the_weights_of_one(two, dtype):
    one = ddp().train(0, 1, dtype=dtype)
    check_same_weights(two[str(dtype)], one, TOLERANCE[str(dtype)])
    assert bool((one["4.weight"] == 0).any()) and int(torch.linalg.matrix_rank(one["0.weight"])) < 20, "nothing was shrunk"


def test_the_comparison_fails_where_gradients_are_not_shared():
    """Each process on its own share alone: what training without averaged gradients would give."""
    module = ddp()
    whole, half = module.train(0, 1), module.train(0, 1)
    check_same_weights(whole, half, 0.0)
    module.global_batch, everything = (
        (lambda step: tuple(part[: module.BATCH // 2] for part in everything(step))),
        module.global_batch,
    )
    with pytest.raises(AssertionError, match="is off by"):
        check_same_weights(module.train(0, 1), whole, TOLERANCE["torch.float32"])
