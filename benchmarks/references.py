"""What a search starts from and is held to: the dense network after the training that compression has.

That training takes as long as the search itself, so that its end is kept beside the baselines (``--save-reference``), and read
from there when a search of studies ``zero-loss`` or ``records`` has the same.
"""

import argparse
import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from baselines import path, save, trained
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from taut.bench.data import Splits
from taut.bench.networks import build
from taut.bench.recipes import RECIPES, evaluate, train
from taut.budget import Recovery
from taut.budget.recover import recover
from taut.objective import Objective

NONE = "none"
"""The augmentation of a study whose images stay as they are."""
AS_THEY_ARE = ", images as they are"
"""The end of the name of such a search, and of a table of them."""
Reference = tuple[str, nn.Module]
"""Which of the trainings is best on validation data, and the network."""


@dataclass(frozen=True)
class Dense:
    """The dense network of a study's command line, to be trained on twice by ``how``, ``rounds`` epochs each; 0: not at all."""

    args: argparse.Namespace
    how: Recovery
    rounds: int
    train: Iterable
    splits: Splits

    def training(self, repeat: int | None) -> str:
        """What has to be the same for a kept network to be the one."""
        return f"{self.rounds} epochs twice, {self.how}, repeat {repeat}"

    def reference(self) -> Reference:
        """The network that was kept, if it has had this training, or this one of images that never come again; else of the
        trainings the best on validation data.
        """
        kept = self._read()
        found = kept or self._best()
        if self.args.save_reference and kept is None:  # one that was kept stays as it is, with the training it has had
            self._write(found)
        return found

    def _best(self) -> Reference:
        found = {"as trained": self._first()}
        for turn, name in enumerate(("trained on", "trained on twice") if self.rounds else (), 1):
            found[name] = self._longer(list(found.values())[-1], turn)
        accuracy = {name: evaluate(model, self.splits.val)[1] for name, model in found.items()}
        print(f"validation {accuracy}", flush=True)
        return max(found.items(), key=lambda one: accuracy[one[0]])

    def _first(self) -> nn.Module:
        """The committed baseline; where images stay as they are one of the same training without augmentation."""
        args = self.args
        if args.augment != NONE or not self.rounds:
            return trained(args.network, args.dataset, args.seed)
        recipe = RECIPES[args.network, args.dataset] | {"augment": None}
        new = build(args.network, args.seed)
        return self._kept(0, new, lambda model: train(model, self.splits, seed=args.seed, threads=args.threads, **recipe))

    def _longer(self, before: nn.Module, turn: int) -> nn.Module:
        """The network after a long round of recovery; from the work folder if it is there."""
        how, seed = replace(self.how, epochs=self.rounds), self.args.seed + turn
        return self._kept(
            turn, copy.deepcopy(before),
            lambda model: recover(model, before, self.train, Objective(), how, seed=seed, deadline=inf),
        )  # fmt: skip

    def _kept(self, turn: int, model: nn.Module, training: Callable[[nn.Module], object]) -> nn.Module:
        """The network after one training; from the work folder if it is there."""
        file = None if self.args.work is None else self.args.work / f"dense-{turn}.safetensors"
        if file is not None and file.exists():
            model.load_state_dict(load_file(file))
            return model.eval()
        training(model)
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
        if told.get("training") not in (self.training(self.args.repeat), self.training(None)):
            print(f"{file.name} has had another training ({told.get('training')}): left aside", flush=True)
            return None
        model = build(self.args.network)
        model.load_state_dict(load_file(file))
        return told["start"], model.eval()

    def _write(self, found: Reference) -> None:
        save(found[1], self._file(), {"training": self.training(self.args.repeat), "start": found[0]})
