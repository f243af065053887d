"""A training that was interrupted goes on where its last epoch ended, bit for bit."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import torch

from taut.errors import TautError


class Stateful(Protocol):
    """Anything with a state: a module, an optimizer, a schedule."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after its last whole epoch, in one file, which is written whole or not at all.

    ``parts``: what has a state; ``identity``: the settings that have to be the same for going on to make sense. torch's random
    numbers are part of the state. The file holds tensors and plain values only: nothing in it is executed.

    Example:
        >>> import tempfile
        >>> layer = torch.nn.Linear(2, 2)
        >>> kept = Checkpoint(Path(tempfile.mkdtemp()) / "training.ckpt", {"model": layer}, {"lr": 0.1})
        >>> kept.resume()
        0
        >>> kept.write(3)
        >>> kept.resume()
        3
    """

    path: Path
    parts: Mapping[str, Stateful]
    identity: Mapping[str, Any]

    def write(self, epoch: int) -> None:
        """Keep the state after ``epoch`` epochs."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        told = {name: str(value) for name, value in self.identity.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.part")
        torch.save({"epoch": epoch, "identity": told, "random": torch.get_rng_state(), "state": state}, temporary)
        os.replace(temporary, self.path)

    def resume(self) -> int:
        """Put the kept state back and return how many epochs it has seen; 0 if there is no file.

        Raises :class:`~taut.errors.TautError` for a file that cannot be read, or that another training has left; the message
        names the setting that differs.
        """
        if not self.path.exists():
            return 0
        try:
            kept = torch.load(self.path, weights_only=True)
            epoch, identity, random, state = (kept[key] for key in ("epoch", "identity", "random", "state"))
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError, BadZipFile) as error:
            raise TautError(f"{self.path} is no checkpoint of a training: {error}; delete it to start anew") from error
        for name, value in self.identity.items():
            if identity.get(name) != str(value):
                raise TautError(
                    f"{self.path} is of another training: {name} was {identity.get(name)} and is {value}; "
                    "delete the file to start anew, or go on with the same settings"
                )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(random)
        return int(epoch)
