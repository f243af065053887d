"""One thread a process: results repeat, and parallel workers do not fight for the cores."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402
from torchvision_mend import mend  # noqa: E402

torch.set_num_threads(1)
mend()


@pytest.fixture(autouse=True)
def _seeded():
    """A test that draws without a seed of its own draws the same numbers every time."""
    torch.manual_seed(0)


# modules that tests import hold no tests: collected for doctests they would be imported, and register their classes, twice
HERE = Path(__file__).parent
collect_ignore = [str(p.relative_to(HERE)) for p in HERE.glob("*/*.py") if not p.name.startswith("test_")]
