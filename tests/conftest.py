"""One thread a process: results repeat, and parallel workers do not fight for the cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    """A test that draws without a seed of its own draws the same numbers every time."""
    torch.manual_seed(0)
