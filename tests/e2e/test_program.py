"""The program as it is started from a shell: a process, its streams, its signals, its exit code."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

SRC = Path(__file__).parents[2] / "src"
NET = """
import time
import torch
from torch import nn

def build():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))

def data():
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    batches = list(zip(x.split(64), y.split(64)))
    return Slow(batches[:2]), batches[2:3], batches[3:]

class Slow(list):
    def __iter__(self):
        for batch in super().__iter__():
            time.sleep(0.05)
            yield batch
"""

COMPRESS = ("compress", "--weights", "w.safetensors", "--max-error", 0.05, "--out", "w.taut")


@pytest.fixture
def place(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    save_file({"w": torch.randn(64, 32), "b": torch.zeros(5)}, tmp_path / "w.safetensors")
    return tmp_path


def start(place, *arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "taut", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def finish(process, timeout=120):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def test_a_file_there_and_back(place):
    code, out, err = finish(start(place, *COMPRESS, "--json"))
    assert code == 0, err
    assert json.loads(out)["bytes_after"] == (place / "w.taut").stat().st_size
    code, out, err = finish(start(place, "verify", "w.taut"))
    assert code == 0, err
    assert "whole" in out
    code, out, err = finish(start(place, "verify", "w.safetensors"))
    assert (code, out) == (1, "")
    assert "w.safetensors" in err
    assert "Traceback" not in err


def test_a_full_disk_leaves_what_was_there(place):
    (place / "w.taut").write_bytes(b"before")

    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    code, out, err = finish(start(place, *COMPRESS, preexec_fn=small_disk))
    assert (code, out) == (1, ""), err
    assert "w.taut" in err
    assert "Traceback" not in err
    assert (place / "w.taut").read_bytes() == b"before"
    assert sorted(p.name for p in place.iterdir() if p.is_file()) == ["net.py", "w.safetensors", "w.taut"]


def test_interrupt_then_the_same_command_goes_on(place):
    command = ("compress", "--model", "net:build", "--data", "net:data", "--max-drop", 20, "--out", "out")
    # a shell's jobs in the background are started with the signal ignored
    process = start(place, *command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    state = place / "out" / "search" / "state.json"
    deadline = time.monotonic() + 120
    while not (state.exists() and json.loads(state.read_text())["step"]):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert code == 130, err
    assert out == ""
    assert "the same command goes on" in " ".join(err.split())
    assert "Traceback" not in err
    assert [p.name for p in (place / "out").iterdir()] == ["search"]
    done = json.loads(state.read_text())["step"]
    code, out, err = finish(start(place, *command, "--time-limit", "2s", "--json"))
    assert code == 0, err
    assert f"resuming after step {done}" in " ".join(err.split())
    assert json.loads(out)["compressed"]["bytes"] == (place / "out" / "model.taut").stat().st_size
