"""The command line ``taut``: each command calls one function of the library, and says what came of it."""

from taut.cli.app import app, main

__all__ = ["app", "main"]
