"""The original network's outputs, asked for once for each sample of a round of recovery."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from taut.objective import call_batch, inputs_of, logits_of

ROOM = 2**26
"""Bytes of outputs that are remembered, and of what tells their samples apart."""
KEY = 256
"""About how many of these a sample takes besides its outputs."""


class Answers:
    """The outputs of ``teacher``, in evaluation mode, for batches: for samples that come again, as all do in every epoch where a
    loader does not augment, they are not computed again, in whatever order and company.

    Samples are told apart by their contents (BLAKE2b of the inputs), so that nothing is asked of the loader. Inputs that are not
    tensors in the processor's memory are asked about every time; so are all when ``room`` bytes are taken. If no batch comes
    again among as many as are remembered then, as of augmented images, they are not compared any more. The first batch
    whose samples were in others before is asked about once more: where its outputs are not those that are remembered, as of a
    network that compares the samples of a batch, nothing is remembered from there on.

    Example:
        >>> answers = Answers(nn.Linear(2, 3).eval())
        >>> x = torch.rand(4, 2)
        >>> answers(x) is answers(x), torch.equal(answers(x.flip(0)), answers(x).flip(0))
        (True, True)
    """

    def __init__(self, teacher: nn.Module, room: int = ROOM) -> None:
        self.teacher, self.room = teacher, room
        self.places: dict[tuple, tuple[int, int]] = {}
        """Of each sample: which of the ``outputs``, and the row there."""
        self.outputs: list[Tensor] = []
        self.missed, self.checked = 0, False

    def __call__(self, batch: Any) -> Tensor:
        """The outputs for a batch of any form, ``(samples, …, classes)``."""
        if self.missed > len(self.outputs):
            return self.ask(batch)
        keys = _contents(batch)
        places = [self.places[key] for key in keys if key in self.places]
        if keys and len(places) == len(keys):
            self.missed = 0
            return self._together(places, batch)
        outputs = self.ask(batch)
        size = outputs.nbytes + KEY * len(keys)
        if keys and len(outputs) == len(keys) and size <= self.room:
            self.room -= size
            self.places |= {key: (len(self.outputs), row) for row, key in enumerate(keys)}
            self.outputs.append(outputs)
        elif keys:
            self.missed += 1
        return outputs

    def _together(self, places: list[tuple[int, int]], batch: Any) -> Tensor:
        """The remembered outputs of these samples."""
        first = self.outputs[places[0][0]]
        if len(first) == len(places) and places == [(places[0][0], row) for row in range(len(places))]:
            return first
        rows = [self.outputs[which][row] for which, row in places]
        if not self.checked:
            self.checked, outputs = True, self.ask(batch)
            same = all(row.shape == other.shape for row, other in zip(rows, outputs, strict=True))
            if not same or not torch.allclose(torch.stack(rows), outputs, rtol=1e-3, atol=1e-4):
                self.outputs, self.places, self.missed = [], {}, 1
                return outputs
        return torch.stack(rows)

    def ask(self, batch: Any) -> Tensor:
        """The same of a batch that will not come again: computed, and not remembered."""
        with torch.inference_mode():
            return logits_of(call_batch(self.teacher, batch))


def _contents(batch: Any) -> list[tuple]:
    """What tells each sample from others; empty where nothing does."""
    inputs = inputs_of(batch)
    parts = inputs if isinstance(inputs, dict) else {"": inputs}
    if not all(isinstance(part, Tensor) and part.device.type == "cpu" and part.dim() for part in parts.values()):
        return []
    if len({len(part) for part in parts.values()}) != 1 or not all(part.numel() for part in parts.values()):
        return []
    named = [[(name, part.shape[1:], part.dtype, digest) for digest in _digests(part)] for name, part in parts.items()]
    return list(zip(*named, strict=True))


def _digests(x: Tensor) -> list[bytes]:
    rows = x.detach().contiguous().reshape(len(x), -1).view(torch.uint8).numpy()
    return [hashlib.blake2b(row, digest_size=16).digest() for row in rows]
