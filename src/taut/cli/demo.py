"""``taut demo``: the main job, from training to the files, on real data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taut.cli.screen import Json, command


@command
def demo(
    out: Annotated[Path, typer.Option(help="The folder for the results.")] = Path("demo"),
    data: Annotated[str, typer.Option(help="digits, or fashion-mnist for the full scale.")] = "digits",
    data_dir: Annotated[Path | None, typer.Option(help="A folder of IDX files.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 0,
    as_json: Json = False,
) -> None:
    """Train, compress and ship a network on real data, in about a minute."""
    from taut.bench.demo import run

    run(out, data=data, data_dir=data_dir, seed=seed)
