"""Each import law turns red on a tree with one wrong import, at the top of a file or deep inside a function."""

import pytest
from laws.import_laws import (
    CHECKS,
    check_direction,
    check_no_cycle,
    check_owners,
    check_report_without_torch,
    check_siblings,
    read_modules,
)

SOUND = {
    "taut/__init__.py": "from taut.budget import search",
    "taut/errors.py": "",
    "taut/records.py": "import json",
    "taut/compressors/__init__.py": "from taut.compressors.one import One\nfrom taut.compressors.two import Two",
    "taut/compressors/base.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from taut.layers import Layer",
    "taut/compressors/one.py": "from taut.compressors.base import Code",
    "taut/compressors/two.py": "from .base import Code",
    "taut/compressors/chain.py": "from taut.compressors.base import Compressor",
    "taut/layers.py": "import torch\nfrom taut.compressors.base import Code",
    "taut/budget/__init__.py": "",
    "taut/budget/search.py": "from taut.layers import Layer",
    "taut/report/__init__.py": "from taut import records\ndef draw():\n    import plotly",
    "taut/cli/__init__.py": "import typer",
}

FAULTS = {
    "upwards": (check_direction, "taut/errors.py", "import taut.layers"),
    "upwards in a function": (check_direction, "taut/layers.py", "def f():\n    if 1:\n        from taut.budget import search"),
    "upwards by name": (check_direction, "taut/layers.py", "import importlib\nm = importlib.import_module('taut.budget.search')"),
    "upwards, relative": (check_direction, "taut/layers.py", "from .cli import main"),
    "base knows a method": (check_direction, "taut/compressors/base.py", "from taut.compressors import one"),
    "module without a place": (check_direction, "taut/layers.py", "import taut.unheard"),
    "sibling": (check_siblings, "taut/compressors/one.py", "def f():\n    from taut.compressors.two import Two"),
    "sibling through the package": (check_siblings, "taut/compressors/one.py", "from taut.compressors import Two"),
    "relative sibling": (check_siblings, "taut/compressors/one.py", "from . import two"),
    "composition knows a method": (check_siblings, "taut/compressors/chain.py", "from taut.compressors.one import One"),
    "cycle": (check_no_cycle, "taut/records.py", "def f():\n    import taut.errors as e\n"),
    "plotly elsewhere": (check_owners, "taut/budget/search.py", "def f():\n    import plotly.graph_objects"),
    "plotly at import": (check_owners, "taut/report/__init__.py", "try:\n    import plotly\nexcept ImportError:\n    pass"),
    "torch in the report": (check_report_without_torch, "taut/records.py", "def f():\n    import torch"),
}


def plant(folder, files):
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return read_modules(folder)


def test_a_sound_tree_passes_every_check(tmp_path):
    modules = plant(tmp_path, SOUND)
    for check in CHECKS:
        check(modules)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_import_turns_its_law_red(tmp_path, fault):
    check, path, text = FAULTS[fault]
    files = SOUND | {path: text}
    if check is check_no_cycle:
        files |= {"taut/errors.py": "from taut.records import x"}
    modules = plant(tmp_path, files)
    with pytest.raises(AssertionError):
        check(modules)
