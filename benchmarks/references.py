"""What a search starts from and is held to: the dense network after the training that compression has.

That training takes as long as the search itself, so that its end is kept beside the baselines (``--save-reference``), and read
from there when a search of studies ``zero-loss`` or ``records`` has the same.
"""

import argparse
import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from baselines import path, save, trained
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from taut.bench.data import Split
from taut.bench.networks import build
from taut.bench.recipes import evaluate
from taut.budget import Recovery
from taut.budget.recover import recover
from taut.objective import Objective

Reference = tuple[str, nn.Module]
"""Which of the trainings is best on validation data, and the network."""


@dataclass(frozen=True)
class Dense:
    """The dense network of a study's command line, to be trained on twice by ``how``, ``rounds`` epochs each; 0: not at all."""

    args: argparse.Namespace
    how: Recovery
    rounds: int
    train: Iterable
    val: Split

    @property
    def training(self) -> str:
        """What has to be the same for a kept network to be the one."""
        return f"{self.rounds} epochs twice, {self.how}, repeat {self.args.repeat}"

    def reference(self) -> Reference:
        """The network that was kept, if it has had this training; else of the trainings the best on validation data."""
        found = self._read() or self._best()
        if self.args.save_reference:
            self._write(found)
        return found

    def _best(self) -> Reference:
        found = {"as trained": trained(self.args.network, self.args.dataset, self.args.seed)}
        for turn, name in enumerate(("trained on", "trained on twice") if self.rounds else (), 1):
            found[name] = self._longer(list(found.values())[-1], turn)
        accuracy = {name: evaluate(model, self.val)[1] for name, model in found.items()}
        print(f"validation {accuracy}", flush=True)
        return max(found.items(), key=lambda one: accuracy[one[0]])

    def _longer(self, before: nn.Module, turn: int) -> nn.Module:
        """The network after a long round of recovery; from the work folder if it is there."""
        file = None if self.args.work is None else self.args.work / f"dense-{turn}.safetensors"
        model = copy.deepcopy(before)
        if file is not None and file.exists():
            model.load_state_dict(load_file(file))
            return model
        seed = self.args.seed + turn
        recover(model, before, self.train, Objective(), replace(self.how, epochs=self.rounds), seed=seed, deadline=inf)
        if file is not None:
            save(model, file)
        return model

    def _file(self) -> Path:
        baseline = path(self.args.network, self.args.dataset, self.args.seed)
        return baseline.with_name(f"{baseline.stem}-{self.args.augment}{baseline.suffix}")

    def _read(self) -> Reference | None:
        file = self._file()
        if not self.rounds or not file.exists():
            return None
        with safe_open(file, "pt") as kept:
            told = kept.metadata() or {}
        if told.get("training") != self.training:
            print(f"{file.name} has had another training ({told.get('training')}): left aside", flush=True)
            return None
        model = build(self.args.network)
        model.load_state_dict(load_file(file))
        return told["start"], model.eval()

    def _write(self, found: Reference) -> None:
        save(found[1], self._file(), {"training": self.training, "start": found[0]})
