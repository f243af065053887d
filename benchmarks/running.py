"""How studies of several sweeps are run: what workers are told through the environment, and one sweep after the other."""

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import taut
from taut.errors import TautError

DATA, KEEP, RESUME = "TAUT_DATA_DIR", "TAUT_KEEP_DIR", "TAUT_RESUME_DIR"


def tell_workers(data: Path | None, **folders: Path | None) -> None:
    """Put the folders into the environment, by name, and make those that are written to."""
    for variable, folder in ({DATA: data} | folders).items():
        if folder is not None:
            os.environ[variable] = str(folder)
    for folder in filter(None, folders.values()):
        folder.mkdir(parents=True, exist_ok=True)


def run_all(specs: Iterable[dict[str, Any]], out: Path, workers: int, ray: bool = False) -> None:
    """Run the sweeps, those after a failed one too; leaves the program with an error if any has failed."""
    failed = 0
    for spec in specs:
        try:
            taut.sweep(spec, out, workers=workers, ray=ray, progress=partial(print, flush=True))
            print("done:", *spec["grid"], sep="\n  ", flush=True)
        except TautError as error:
            failed += 1
            print(error, flush=True)
    if failed:
        raise SystemExit(f"{failed} sweeps had points that failed; the same command runs those again")
