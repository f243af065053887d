"""``taut sweep`` and ``taut report``: many runs into a file of records, and records into a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taut.cli.inputs import user_module
from taut.cli.screen import Json, bar, command, emit, narrated, resumable
from taut.errors import TautError
from taut.grid import Spec
from taut.report import report as draw
from taut.report import static_plot
from taut.sweep import sweep as run

PICTURES = (".png", ".svg", ".pdf")


@command
def sweep(
    spec: Annotated[Path, typer.Argument(help="A TOML or JSON file with study, run, grid and fixed.")],
    out: Annotated[Path, typer.Option(help="The file of records; points that are in it are not run again.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes side by side.")] = 1,
    ray: Annotated[bool, typer.Option("--ray", help="Run the points on a Ray cluster.")] = False,
    as_json: Json = False,
) -> None:
    """Run every combination of a grid, once each."""
    plan = Spec.read(spec)
    user_module("run", plan.run.partition(":")[0])  # the present folder is looked in, as for the other commands
    rest = f"what was measured is in {out}: the same command runs the rest"
    with resumable(rest) as going, bar(f"sweep {plan.study}") as step, narrated():

        def told(done: int, total: int) -> None:
            step(done, total)
            going()

        records = run(spec, out, workers=workers, ray=ray, progress=told)
    emit({"study": plan.study, "out": out, "records": records}, as_json, f"{len(records)} records in {out}")


@command
def report(
    records: Annotated[list[Path], typer.Argument(help="Files of records: curve.jsonl, a sweep, a study.")],
    out: Annotated[Path, typer.Option(help="The page (.html), or a picture (.png, .svg, .pdf).")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Its title.")] = None,
    cost: Annotated[str, typer.Option(help="A picture's x axis: bytes, params, macs or latency_ms.")] = "bytes",
    score: Annotated[str, typer.Option(help="A picture's y axis: metric_val, loss_val or metric_test.")] = "metric_val",
    choose: Annotated[list[str] | None, typer.Option(help="A setting that was tried: only its best on validation data.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="KEY=VALUE: those records alone; several are alternatives.")] = None,
    error: Annotated[bool, typer.Option("--error", help="A picture of one minus the metric, on a logarithmic axis.")] = False,
    as_json: Json = False,
) -> None:
    """Draw records as one self-contained HTML page, or as a picture."""
    wanted = _pairs(only or [])
    if out.suffix.lower() in PICTURES:
        static_plot(records, out, x=cost, y=score, title=title, choose=choose or (), only=wanted, error=error)
    else:
        draw(records, out, title, choose=choose or (), only=wanted)
    size = out.stat().st_size
    emit({"records": records, "out": out, "bytes": size}, as_json, f"{out}: {size:,} bytes")


def _pairs(words: list[str]) -> dict[str, list[str]]:
    pairs: dict[str, list[str]] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not (key and separator):
            raise TautError(f"--only {word!r} is not KEY=VALUE; for example --only method=pruning")
        pairs.setdefault(key, []).append(value)
    return pairs
