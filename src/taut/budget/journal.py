"""What a search writes down, so that an interrupt loses nothing: the kept networks and where the search stands."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from torch import nn

from taut.budget.search import Progress
from taut.budget.trial import Setup, Trial
from taut.budget.trust_region import TrustRegion
from taut.codec.files import load, save
from taut.compressors.base import Compressor
from taut.errors import BudgetError
from taut.measure import evaluate


def spec(method: Compressor) -> dict[str, Any]:
    """A compressor as plain data.

    Example:
        >>> from taut.compressors import Prune
        >>> from_spec(spec(Prune(density=0.5))) == Prune(density=0.5)
        True
    """
    values = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    return {"class": type(method).__name__, **{k: spec(v) if isinstance(v, Compressor) else v for k, v in values.items()}}


def from_spec(data: dict[str, Any]) -> Compressor:
    """The compressor that :func:`spec` described."""
    name = data["class"]
    if name not in Compressor.registry:
        raise BudgetError(f"the log names the compressor {name}, which is not imported; import the module that defines it first")
    values = {k: from_spec(v) if isinstance(v, dict) else v for k, v in data.items() if k != "class"}
    return Compressor.registry[name](**values)


class Journal:
    """The working directory of a search.

    ``state.json`` names the files of the kept point and is replaced atomically after they are complete, so that a kill at any
    moment leaves a state that can be resumed.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder, self.identity = folder, identity
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def state(self) -> Path:
        return self.folder / "state.json"

    def write(self, progress: Progress, extra: dict[str, Any]) -> None:
        """Store where the search stands; a network is written only when it is new."""
        kept = progress.kept
        stem = f"kept-{extra['kept_step']:04d}"
        files = {f"{stem}.dense.taut": kept.dense, f"{stem}.shipped.taut": kept.shipped}
        start = None
        if progress.start is not None:
            start = f"start-{progress.step:04d}.taut"
            files[start] = progress.start
        for name, model in files.items():
            if not (self.folder / name).exists():
                save(model, self.folder / name)
        region = progress.region
        data = {
            "identity": self.identity,
            "stem": stem,
            "plan": {name: spec(method) for name, method in kept.plan.items()},
            "cost": kept.cost,
            "step": progress.step,
            "radius": None if region is None else region.radius,
            "widest": progress.widest,
            "rejected": [sorted(key) for key in progress.rejected],
            "finished": progress.finished,
            "barred": progress.barred,
            "narrowing": progress.narrowed,
            "squeezed": progress.squeezed,
            "too_small": progress.too_small,
            "misses": progress.misses,
            "again": progress.again,
            "latest": progress.latest,
            "nearest": progress.nearest,
            "start": start,
            "price": progress.price,
            "priced": progress.priced,
            "prices": progress.prices,
            **extra,
        }
        temporary = self.state.with_suffix(".tmp")
        temporary.write_text(json.dumps(data))
        os.replace(temporary, self.state)
        for old in (*self.folder.glob("kept-*.taut"), *self.folder.glob("start-*.taut")):
            if old.name not in files:
                old.unlink()

    def read(self) -> dict[str, Any] | None:
        """The stored state, or ``None`` for a fresh folder; another run's folder is an error that says what differs."""
        if not self.state.exists():
            return None
        data = json.loads(self.state.read_text())
        different = [k for k, v in self.identity.items() if data["identity"].get(k) != v]
        if different:
            told = ", ".join(f"{k}: {data['identity'].get(k)!r} there, {self.identity[k]!r} now" for k in different)
            raise BudgetError(f"{self.folder} holds another run ({told}); give a new workdir or the same settings")
        return data

    def progress(self, data: dict[str, Any], setup: Setup, fresh: Any) -> Progress:
        """The search as it stood; ``fresh()`` builds the original network."""
        dense: nn.Module = load(self.folder / f"{data['stem']}.dense.taut", into=fresh())
        shipped: nn.Module = load(self.folder / f"{data['stem']}.shipped.taut", into=fresh())
        plan = {name: from_spec(value) for name, value in data["plan"].items()}
        kept = Trial(dense, shipped.eval(), plan, evaluate(shipped, setup.val, setup.objective), data["cost"])
        region = None if data["radius"] is None else TrustRegion(data["radius"])
        rejected = {frozenset((a, b) for a, b in key) for key in data["rejected"]}
        return Progress(
            kept, data["step"], region, rejected, data["finished"], data["widest"], data.get("barred", {}),
            data.get("narrowing", ""), data["squeezed"], data["too_small"], data["misses"],
            data.get("again", 0), data.get("latest", 0.0), tuple(data.get("nearest", (False, 0.0, 0.0))),
            None if data["start"] is None else load(self.folder / data["start"], into=fresh()), data["price"],
            data.get("priced", False), tuple(data.get("prices", (0.0, 0.0))),
        )  # fmt: skip
