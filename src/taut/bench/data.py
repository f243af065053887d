"""Data sets of the demo and the benchmarks as tensors in three parts.

The search for a small network fine-tunes on ``train``, chooses on ``val`` and never sees ``test``. Every part of images is
normalised with the mean and the deviation of the training part, channel by channel.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from taut.bench.formats import read_cifar, read_idx, read_svhn
from taut.bench.splits import Batches, Split, Splits
from taut.bench.text import python_source
from taut.errors import ExtraError, TautError

Arrays = tuple[np.ndarray, np.ndarray]
TEXT = "python-source"
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


def load(name: str, data_dir: str | Path | None = None, seed: int = 0) -> Splits:
    """The data set called ``name``: ``digits``, ``mnist``, ``fashion-mnist``, ``cifar-10``, ``svhn`` or ``python-source``.

    ``data_dir`` is the folder of the files in their original layout, or its parent. ``digits`` comes with scikit-learn and
    needs none; ``fashion-mnist`` is found where Debian's package ``dataset-fashion-mnist`` puts it. The official test
    images are ``test``; ``val`` is drawn from the rest, class by class, by ``seed`` alone (10,000 images; digits has no
    official split: 1,100 / 297 / 400). ``python-source`` is text that is there wherever Python is
    (:func:`taut.bench.text.python_source`).

    Raises:
        TautError: an unknown name, files that are missing (the message says how to get them) or broken, or the extra ``bench`` is
            needed and not installed.

    Example:
        >>> splits = load("digits")
        >>> len(splits.train), len(splits.val), len(splits.test), splits.example_input.shape
        (1100, 297, 400, torch.Size([1, 1, 8, 8]))
    """
    if name == TEXT:
        return python_source(None if data_dir is None else Path(data_dir))
    if name not in SOURCES:
        raise TautError(f"unknown data set {name!r}; choose one of {', '.join(SOURCES)}, {TEXT}")
    rest, test = SOURCES[name](None if data_dir is None else Path(data_dir))
    order = np.random.default_rng(seed)
    if test is None:
        test_at, rest_at = _draw(rest[1], 400, order)
        test, rest = (rest[0][test_at], rest[1][test_at]), (rest[0][rest_at], rest[1][rest_at])
    val_at, train_at = _draw(rest[1], 297 if name == "digits" else min(10_000, len(rest[1]) // 5), order)
    mean, deviation = _moments(rest[0][train_at])

    def split(x: np.ndarray, y: np.ndarray) -> Split:
        pixels = torch.from_numpy(x.astype(np.float32))
        return Split(pixels.sub_(mean).div_(deviation), torch.from_numpy(y.astype(np.int64)), -mean / deviation)

    train, val = (split(rest[0][at], rest[1][at]) for at in (train_at, val_at))
    return Splits(name, train, val, split(*test))


def _moments(x: np.ndarray) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of each channel of ``(n, channels, height, width)`` bytes, shaped to broadcast."""
    # from counts of the 256 values: exact, and much faster than in floating point
    counts = np.stack([np.bincount(x[:, channel].ravel(), minlength=256) for channel in range(x.shape[1])])
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ np.arange(256)
    deviation = np.sqrt((share * (np.arange(256) - mean[:, None]) ** 2).sum(1))
    moments = np.stack([mean, np.where(deviation > 0, deviation, 1)]).astype(np.float32)
    first, second = torch.from_numpy(moments)[:, :, None, None]
    return first, second


def _draw(labels: np.ndarray, count: int, order: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """``count`` indices with the classes in proportion, and the others; both in random order."""
    at = order.permutation(len(labels))
    # the rank of each example within its class, as a fraction: the smallest fractions take every class in proportion
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        mine = at[labels[at] == label]
        rank[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    chosen = np.zeros(len(labels), bool)
    chosen[np.argsort(rank, kind="stable")[:count]] = True
    return at[chosen[at]], at[~chosen[at]]


def _digits(folder: Path | None) -> tuple[Arrays, None]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ExtraError("scikit-learn", "bench") from error
    digits = load_digits()
    return (digits.images[:, None].astype(np.uint8), digits.target), None


def _find(folder: Path | None, inside: tuple[str, ...], names: tuple[str, ...], help_: str) -> list[Path]:
    """The files ``names`` (gzipped or not) in ``folder`` or one of its subfolders ``inside``; an error says how to get them."""
    if folder is None:
        raise TautError(f"no data folder was given; {help_}")
    for place in (folder, *(folder / sub for sub in inside)):
        found = [next((path for path in (place / name, place / f"{name}.gz") if path.is_file()), None) for name in names]
        if all(found):
            return [path for path in found if path]
    raise TautError(f"{folder} does not hold {', '.join(names)}; {help_}")


def _idx(default: Path | None, inside: tuple[str, ...], help_: str) -> Callable[[Path | None], tuple[Arrays, Arrays]]:
    names = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))

    def read(folder: Path | None) -> tuple[Arrays, Arrays]:
        paths = _find(folder or default, inside, names, help_)
        arrays = [read_idx(path) for path in paths]
        for images, labels, path in zip(arrays[::2], arrays[1::2], paths[::2], strict=True):
            if images.ndim != 3 or labels.ndim != 1 or not 0 < len(images) == len(labels):
                raise TautError(f"{path} holds {images.shape} and its labels {labels.shape}: not n images and n labels; {help_}")
        return (arrays[0][:, None], arrays[1]), (arrays[2][:, None], arrays[3])

    return read


def _cifar(folder: Path | None) -> tuple[Arrays, Arrays]:
    help_ = (
        "get CIFAR-10's binary version (cifar-10-binary.tar.gz; the pickled one is not read) and give its folder as --data-dir"
    )
    names = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
    paths = _find(folder, ("cifar-10-batches-bin", "cifar-10", "cifar10"), names, help_)
    return read_cifar(paths[:5]), read_cifar(paths[5:])


def _svhn(folder: Path | None) -> tuple[Arrays, Arrays]:
    help_ = "get SVHN's train_32x32.mat and test_32x32.mat and give their folder as --data-dir"
    paths = _find(folder, ("svhn", "SVHN"), ("train_32x32.mat", "test_32x32.mat"), help_)
    return read_svhn(paths[0]), read_svhn(paths[1])


_FILES = "give the folder of the four IDX files (gzipped or not) as --data-dir"
SOURCES: dict[str, Callable[[Path | None], tuple[Arrays, Arrays | None]]] = {
    "digits": _digits,
    "mnist": _idx(None, ("mnist", "MNIST/raw"), _FILES),
    "fashion-mnist": _idx(
        DEBIAN_FASHION, ("fashion-mnist", "FashionMNIST/raw"), f"install Debian's package dataset-fashion-mnist, or {_FILES}"
    ),
    "cifar-10": _cifar,
    "svhn": _svhn,
}

__all__ = ["SOURCES", "Batches", "Split", "Splits", "load"]
