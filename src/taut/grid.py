"""The grid of a sweep: what is run, over which combinations, and the name by which a finished combination is known again."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taut.errors import TautError
from taut.records import plain

Point = dict[str, Any]


@dataclass(frozen=True)
class Spec:
    """What a sweep runs: ``run`` (``"package.module:function"``) over every combination of each of the ``grids``, with ``fixed``
    added.
    """

    study: str
    run: str
    grids: list[dict[str, list[Any]]]
    fixed: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, source: Mapping[str, Any] | str | os.PathLike[str]) -> Spec:
        """From a mapping, or a JSON or TOML file that holds one; every mistake is a :class:`TautError` that names it."""
        data, where = (dict(source), "the sweep") if isinstance(source, Mapping) else (_load(Path(source)), str(source))
        unknown = set(data) - {"study", "run", "grid", "fixed"}
        if unknown:
            raise TautError(f"{where} has unknown keys {sorted(unknown)}; a sweep has study, run, grid and fixed")
        for key in ("study", "run"):
            if not isinstance(data.get(key), str):
                raise TautError(f"{where} needs {key!r} (a string), found {data.get(key)!r}")
        fixed = data.get("fixed") or {}
        if not isinstance(fixed, Mapping):
            raise TautError(f"{where}: 'fixed' must be an object, found {fixed!r}")
        grids = _grids(data.get("grid"), fixed, where)
        try:
            return cls(data["study"], data["run"], plain({"grids": grids})["grids"], plain(fixed))
        except TypeError as error:
            raise TautError(f"{where}: {error}; grid and fixed hold numbers, strings, lists and objects") from error

    def points(self) -> Iterator[Point]:
        """The keyword arguments of every point: one grid after the other, the last axis fastest."""
        for grid in self.grids:
            for values in itertools.product(*grid.values()):
                yield {**self.fixed, **dict(zip(grid, values, strict=True))}

    def setting(self, point: Point) -> Point:
        """What of a point's arguments comes from its grid."""
        return {name: value for name, value in point.items() if name not in self.fixed}

    def key(self, point: Point) -> str:
        """A stable name for a point: a hash of the study, the function and the arguments, whatever their order."""
        text = json.dumps([self.study, self.run, point], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _grids(given: Any, fixed: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    """One grid, or a list of them, checked."""
    grids = [given] if isinstance(given, Mapping) else given
    if not isinstance(grids, (list, tuple)) or not grids or not all(isinstance(grid, Mapping) for grid in grids):
        raise TautError(f"{where} needs 'grid' (an object, or a list of objects), found {given!r}")
    for grid in grids:
        for name, values in grid.items():
            if not isinstance(values, (list, tuple)) or not values:
                raise TautError(f"{where}: grid {name!r} must be a list with at least one value, found {values!r}")
        if both := set(fixed) & set(grid):
            raise TautError(f"{where}: {sorted(both)} in both grid and fixed; keep one")
    return list(grids)


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise TautError(f"cannot read the sweep in {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise TautError(f"{path} is not valid {'TOML' if path.suffix == '.toml' else 'JSON'}: {error}") from error
    if not isinstance(data, dict):
        raise TautError(f"{path} must hold one object with study, run and grid, found {type(data).__name__}")
    return data


def resolve(target: str) -> Callable[..., Any]:
    """The function at ``"package.module:function"``.

    Example:
        >>> resolve("math:sqrt")(9)
        3.0
    """
    module, _, name = target.partition(":")
    if not (module and name):
        raise TautError(f"run {target!r} must read 'package.module:function'")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise TautError(f"run {target!r}: {error}; is the folder that holds {module.split('.')[0]!r} on PYTHONPATH?") from error
    if not callable(function):
        raise TautError(f"run {target!r} is not a function")
    return function
