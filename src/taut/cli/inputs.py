"""What a command line names: the user's own functions, networks, data, weights in a file, methods, a length of time."""

from __future__ import annotations

import ast
import importlib
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from taut.errors import TautError


def user_module(option: str, name: str) -> Any:
    """The module called ``name``; the present folder is looked in first."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TautError(f"{option}: cannot import {name}: {error} (looked in {os.getcwd()} first)") from error


def user_object(option: str, target: str) -> Any:
    """What ``package.module:name`` names.

    Example:
        >>> user_object("--model", "math:pi")
        3.141592653589793
    """
    module, _, name = target.partition(":")
    if not module or not name:
        raise TautError(f"{option} {target!r}: write it as package.module:name")
    found: Any = user_module(option, module)
    for part in name.split("."):
        if not hasattr(found, part):
            raise TautError(f"{option} {target!r}: {module} has no {name}")
        found = getattr(found, part)
    return found


def user_function(option: str, target: str) -> Any:
    """As :func:`user_object`, for something that is called."""
    found = user_object(option, target)
    if not callable(found):
        raise TautError(f"{option} {target!r}: not a function but {type(found).__name__}")
    return found


def build_model(target: str) -> nn.Module:
    """The network from ``package.module:build`` (called without arguments), or one of taut's own by its name."""
    if ":" in target:
        model = user_function("--model", target)()
    else:
        from taut.bench.networks import build

        model = build(target)
    if not isinstance(model, nn.Module):
        raise TautError(f"--model {target!r}: it returned {type(model).__name__}, not a torch.nn.Module")
    return model


PARTS = ("train", "val", "test")


def user_data(target: str, data_dir: Path | None = None, seed: int = 0, batch_size: int = 128) -> dict[str, Any]:
    """``{"train": …, "val": …, "test": …}`` from ``package.module:data``, or a data set by its name; absent parts are ``None``.

    The function returns ``(train, val)``, ``(train, val, test)`` or a dict with these keys, each an iterable of batches.
    """
    if ":" not in target:
        return _named_data(target, data_dir, seed, batch_size)
    found = user_function("--data", target)()
    if isinstance(found, Mapping):
        unknown = sorted(set(found) - set(PARTS))
        if unknown or "val" not in found:
            raise TautError(f"--data {target!r}: the keys are {sorted(found)}; only train, val, test; val is needed")
        return {part: found.get(part) for part in PARTS}
    if not isinstance(found, tuple) or len(found) not in (2, 3):
        kind = f"{len(found)} values" if isinstance(found, tuple) else type(found).__name__
        raise TautError(f"--data {target!r}: it returned {kind}; return (train, val), (train, val, test) or a dict of these")
    return dict(zip(PARTS, (*found, None), strict=False))


def _named_data(name: str, data_dir: Path | None, seed: int, batch_size: int) -> dict[str, Any]:
    from taut.bench.data import Batches, load
    from taut.bench.recipes import RECIPES

    splits = load(name, data_dir, seed)
    augment = next((recipe.get("augment") for (_, data), recipe in RECIPES.items() if data == name), None)
    train = Batches(splits.train, batch_size, seed=seed, augment=augment)
    return {"train": train, **{part: Batches(getattr(splits, part), 500, shuffle=False) for part in ("val", "test")}}


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors, torch or ``.taut`` file. A torch file is read with ``weights_only=True``: no code runs."""
    if not path.is_file():
        raise TautError(f"{path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".taut":
            from taut.codec.files import load_state_dict

            return load_state_dict(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TautError(
            f"{path}: cannot read weights ({reason}); save them as safetensors or with torch.save(model.state_dict(), path)"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise TautError(f"{path}: not a dict of tensors; save it with torch.save(model.state_dict(), path)")
    return dict(found)


def load_weights(model: nn.Module, path: Path) -> None:
    """Put the weights of a file into ``model``; names and shapes must be the model's."""
    try:
        model.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise TautError(f"{path} does not fit the model: {' '.join(str(error).split())}") from error


def seconds(text: str | None) -> float | None:
    """A length of time: ``90``, ``90s``, ``10m``, ``1h30m``.

    Example:
        >>> seconds("90"), seconds("10m"), seconds("1h30m")
        (90.0, 600.0, 5400.0)
    """
    if text is None:
        return None
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    if not match or not any(match.groups()):
        raise TautError(f"{text!r} is no length of time; write it as 90s, 10m or 1h30m")
    hours, minutes, rest = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + rest


def method(text: str, registry: Mapping[str, type], option: str) -> Any:
    """A method as it is written in Python, ``Chain(LowRank(rank=8), Codebook(k=16))``; only names and literals are understood.

    ``package.module:Name(...)`` imports the module first: a method of the user's own registers itself.

    Example:
        >>> from fractions import Fraction
        >>> method("Fraction(1, denominator=3)", {"Fraction": Fraction}, "--method")
        Fraction(1, 3)
    """
    own = re.match(r"([A-Za-z_][\w.]*):", text)
    if own:
        user_module(option, own[1])
    try:
        tree = ast.parse(text[own.end() if own else 0 :], mode="eval").body
        return _made(tree, {_key(name): kind for name, kind in registry.items()})
    except (SyntaxError, ValueError, TypeError) as error:
        raise TautError(f"{option} {text!r}: {error}; as in Python, with one of: {', '.join(sorted(registry))}") from error


def _key(name: str) -> str:
    return name.replace("_", "").lower()


def _made(node: ast.expr, known: Mapping[str, type]) -> Any:
    if isinstance(node, ast.Name):
        return _kind(node.id, known)()
    if isinstance(node, ast.Call):
        keywords = {str(k.arg): _made(k.value, known) for k in node.keywords}
        return _kind(ast.unparse(node.func), known)(*(_made(argument, known) for argument in node.args), **keywords)
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_made(item, known) for item in node.elts)
    return ast.literal_eval(node)


def _kind(name: str, known: Mapping[str, type]) -> type:
    if _key(name) not in known:
        raise ValueError(f"{name} is not known")
    return known[_key(name)]


def regularizers(texts: Iterable[str], registry: Mapping[str, type]) -> dict[str, Any]:
    """``{pattern: regularizer}`` from ``nuclear=1e-3``, ``group-lasso=1e-4@fc*``, ``Nuclear(1e-3)@conv*``; no pattern: all.

    Example:
        >>> from taut.regularizers import Regularizer
        >>> {pattern: str(r) for pattern, r in regularizers(["l1=1e-4@fc*", "l2=0.5"], Regularizer.registry).items()}
        {'fc*': 'L1(strength=0.0001)', '*': 'L2(strength=0.5)'}
    """
    plan: dict[str, Any] = {}
    for text in texts:
        what, _, pattern = text.partition("@")
        name, equals, strength = what.partition("=")
        if equals and "(" not in name:
            what = f"{name.replace('-', '_')}({strength})"
        plan[pattern or "*"] = method(what, registry, "--regularizer")
    return plan
