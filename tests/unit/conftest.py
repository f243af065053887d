"""The scripts of the studies, importable as they are when they run."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scripts(monkeypatch):
    """The folder of the studies, importable as its scripts are when they run."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(ROOT / "benchmarks") in str(sys.modules[name].__file__):
            del sys.modules[name]
