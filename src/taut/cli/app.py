"""The program ``taut``: its commands, in the order in which a newcomer meets them."""

from __future__ import annotations

from typing import Annotated

import typer

from taut.cli.artifacts import decode, inspect, verify
from taut.cli.compress import compress
from taut.cli.demo import demo
from taut.cli.export import export
from taut.cli.study import report, sweep
from taut.cli.train import train
from taut.version import VERSION

app = typer.Typer(name="taut", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Take the slack out of a neural network, and prove that nothing was lost."""


for _command in (demo, compress, train, sweep, report, inspect, verify, decode, export):
    app.command()(_command)


def main() -> None:
    """The entry point of the program."""
    app()
