"""What a command says and how it ends: results on stdout, progress on stderr, one line for an error, an exit code."""

from __future__ import annotations

import functools
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from taut.errors import TautError
from taut.records import plain

FAILED, INTERRUPTED = 1, 130

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")]


class Interrupted(Exception):
    """Ctrl-C in a command that can go on later; the message says how."""


def errors() -> Console:
    """The console on stderr, where progress and errors go."""
    return Console(stderr=True, highlight=False)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command that ends as a shell expects: an error the user can mend is one message and exit code 1, Ctrl-C is 130."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except TautError as error:
            _fail(str(error), FAILED)
        except OSError as error:  # a full disk, a folder that may not be written
            name = f"{error.filename}: " if error.filename else ""
            _fail(f"{name}{error.strerror or error}", FAILED)
        except Interrupted as stop:
            _fail(f"interrupted; {stop}", INTERRUPTED, "stopped")
        except KeyboardInterrupt:
            _fail("interrupted; nothing was written", INTERRUPTED, "stopped")

    return run


def _fail(message: str, code: int, label: str = "error") -> None:
    errors().print(f"[bold red]{label}:[/] ", end="")
    errors().print(message, markup=False, soft_wrap=True)
    raise typer.Exit(code)


@contextmanager
def resumable(how: str) -> Iterator[Callable[..., None]]:
    """Ctrl-C inside says ``how`` the work goes on. Call the value at every step: Python drops a ``KeyboardInterrupt`` that
    is raised in a finalizer or in a library's callback, and the next step then raises it again.
    """
    pressed = threading.Event()

    def note(*_: object) -> None:
        pressed.set()
        raise KeyboardInterrupt

    def step(*_: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    try:
        with _on_interrupt(note):
            yield step
    except KeyboardInterrupt as stop:
        raise Interrupted(how) from stop


@contextmanager
def _on_interrupt(handler: Callable[..., None]) -> Iterator[None]:
    """What Ctrl-C calls, unless the program that called us has its own, or we are not in its main thread."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def emit(result: Mapping[str, Any], as_json: bool, *renderables: RenderableType) -> None:
    """The result on stdout: as JSON, or as tables and lines for people."""
    if as_json:
        sys.stdout.write(json.dumps(plain(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        sys.stdout.flush()
        return
    console = Console(highlight=False)
    for renderable in renderables:
        console.print(renderable, soft_wrap=isinstance(renderable, str))


def table(*headings: str, rows: list[list[str]]) -> Table:
    """A table; each heading ends in ``<`` or ``>``, the side its column keeps to."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        made.add_column(heading[:-1].strip(), justify="right" if heading[-1] == ">" else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


@contextmanager
def bar(what: str, in_bytes: bool = False) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr; call the value with ``(done, total)``, and what is being done as a third if it changes."""
    count = DownloadColumn() if in_bytes else MofNCompleteColumn()
    with Progress(TextColumn("{task.description}"), BarColumn(), count, TimeElapsedColumn(), console=errors()) as progress:
        task = progress.add_task(what, total=None)

        def step(done: int, total: int, now: str = "") -> None:
            progress.update(task, completed=done, total=total, description=f"{what} {now}".rstrip())

        yield step


@contextmanager
def narrated(console: Console | None = None) -> Iterator[None]:
    """What the library logs while it works, as lines on stderr."""
    log = logging.getLogger("taut")
    handler = RichHandler(console=console or errors(), show_path=False, show_level=False, show_time=False)
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def size(count: float) -> str:
    """A number of bytes for people.

    Example:
        >>> size(812), size(81_200), size(8_120_000)
        ('812 B', '81.2 kB', '8.12 MB')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"
