"""``taut demo``: the main job, from training to the files, on real data."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from taut.bench.demo import run
from taut.cli.screen import Json, command
from taut.cli.search import show, watched


@command
def demo(
    out: Annotated[Path, typer.Option(help="The folder for the results.")] = Path("demo"),
    data: Annotated[str, typer.Option(help="digits, or fashion-mnist for the full scale.")] = "digits",
    data_dir: Annotated[Path | None, typer.Option(help="A folder of IDX files.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 0,
    as_json: Json = False,
) -> None:
    """Train, compress and ship a network on real data, in about a minute."""
    told = shlex.join(["taut", *sys.argv[1:]])
    with watched() as watch:
        done = run(out, data, data_dir, seed, command=told, training=watch.epoch, searching=watch.point)
    show(done.result, done.delivery, as_json)
