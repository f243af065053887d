"""The order of imports in design and code is one: bases at the bottom, the command line on top."""

from pathlib import Path

import pytest
from laws.import_laws import CHECKS, read_modules

MODULES = read_modules(Path(__file__).parents[2] / "src")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_imports_point_down(check):
    assert len(MODULES) > 5
    check(MODULES)
