"""Text that is there wherever Python is: the source code of its own modules, to foretell character by character."""

import sysconfig
from pathlib import Path

import numpy as np
import torch

from taut.bench.splits import Split, Splits
from taut.errors import TautError

LENGTH = 128
"""Characters of one example."""
OTHER = 0
"""The number of every character that has none of its own."""
CLASSES = 97
"""The 95 printable ones of ASCII, the end of a line, and all others."""
PART = 20
"""Every so many-th file is for validation, and every so many-th for the test."""


def python_source(folder: Path | None = None) -> Splits:
    """The modules ``*.py`` of ``folder``, by default of Python's standard library, as examples of 128 characters each.

    ``x`` int64 ``(n, 128)``: characters by number, 0 to 96; ``y``: the character after each of them. Whole files are in one part:
    in the order of their names every twentieth is ``test``, every twentieth from the tenth on ``val``. The text is that of the
    Python that runs: studies say which.

    Raises:
        TautError: a folder with fewer than 11 modules, or so little text that a part has no example.

    Example:
        >>> splits = python_source()
        >>> splits.train.x.shape[1], splits.classes, torch.equal(splits.train.x[0, 1:], splits.train.y[0, :-1])
        (128, 97, True)
    """
    folder = folder or Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(folder.glob("*.py"))
    parts: dict[str, list[np.ndarray]] = {"train": [], "val": [], "test": []}
    for i, path in enumerate(paths):
        part = "test" if i % PART == 0 else "val" if i % PART == PART // 2 else "train"
        parts[part].append(numbered(path.read_text("utf-8", errors="replace")))
    made = {part: _examples(texts) for part, texts in parts.items()}
    if not all(len(split) for split in made.values()):
        raise TautError(f"{folder} holds {len(paths)} modules *.py, too few or too short; leave --data-dir out for Python's own")
    return Splits("python-source", **made, classes=CLASSES)


def numbered(text: str) -> np.ndarray:
    r"""Characters by number: 0 for those that are none of ASCII's printable ones or the end of a line.

    Example:
        >>> numbered("a b\n\tß").tolist()
        [66, 1, 67, 96, 0, 0]
    """
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.int64)
    printable = np.where((codes >= 32) & (codes < 127), codes - 31, OTHER)
    return np.where(codes == ord("\n"), CLASSES - 1, printable)


def _examples(texts: list[np.ndarray]) -> Split:
    """One after the other, cut into pieces that overlap in one character: the last answer of one is the first of the next."""
    text = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *texts]))
    count = max(0, (len(text) - 1) // LENGTH)
    x, y = (text[shift : shift + count * LENGTH].reshape(count, LENGTH) for shift in (0, 1))
    return Split(x.clone(), y.clone(), torch.zeros(1, 1, 1))
