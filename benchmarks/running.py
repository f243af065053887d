"""How studies are run: what workers are told through the environment, one sweep after the other, time over several runs."""

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import taut
from taut.errors import TautError

DATA, KEEP, RESUME = "TAUT_DATA_DIR", "TAUT_KEEP_DIR", "TAUT_RESUME_DIR"
MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "8589934592"}
"""What glibc reads when a worker starts: to keep the memory of activations, which it else gives back and asks for every step."""


def tell_workers(data: Path | None, **folders: Path | None) -> None:
    """Put the folders into the environment, by name, and make those that are written to."""
    os.environ.update(MEMORY)
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


class Spent:
    """The seconds that a training has taken, over all of its runs; ``tick`` is its ``progress``."""

    def __init__(self, checkpoint: Path | None) -> None:
        self.file = None if checkpoint is None else checkpoint.with_name(f"{checkpoint.name}.seconds")
        self.seconds = float(self.file.read_text()) if self.file is not None and self.file.exists() else 0.0
        self.start = perf_counter()

    def tick(self, epoch: int, epochs: int, loss: float) -> None:
        """An epoch has ended."""
        now = perf_counter()
        self.seconds, self.start = self.seconds + now - self.start, now
        if self.file is not None:
            self.file.write_text(str(self.seconds))
