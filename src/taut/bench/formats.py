"""Readers for the files that public image data sets come in: IDX, CIFAR-10's binary version, SVHN's MATLAB files.

Nothing here unpickles anything: a data file is read as numbers only, and one that is cut or of another kind raises an error
that names the file.
"""

import gzip
import zlib
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np

from taut.errors import ExtraError, TautError

CIFAR_SHAPE = (3, 32, 32)
_CIFAR_RECORD = 1 + prod(CIFAR_SHAPE)
_LARGEST = 1 << 32


def read_idx(path: str | Path) -> np.ndarray:
    """An IDX file of unsigned bytes, plain or gzipped, as an array of the shape it declares.

    The layout (LeCun, Cortes and Burges, the MNIST database): two zero bytes, a type byte (8: unsigned byte), the number of
    dimensions, each dimension as a big-endian 32-bit integer, then the values, the last dimension fastest.

    Raises:
        TautError: the file is missing, no IDX file, of another type, or shorter or longer than it declares.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "labels-idx1-ubyte"
        >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
        >>> read_idx(path)
        array([7, 2, 1], dtype=uint8)
    """
    path = Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            shape = _idx_shape(path, file.read(4), file.read)
            data = file.read(prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise TautError(f"cannot read {path}: {error or type(error).__name__}; fetch the file again") from error
    if len(data) != prod(shape):
        raise TautError(f"{path} declares {prod(shape)} values, {shape}, but holds {_count(data, shape)}; fetch the file again")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _count(data: bytes, shape: tuple[int, ...]) -> str:
    return "more" if len(data) > prod(shape) else str(len(data))


def _idx_shape(path: Path, magic: bytes, read: Callable[[int], bytes]) -> tuple[int, ...]:
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise TautError(f"{path} is no IDX file (it begins with {magic.hex() or 'nothing'}, not 0000); fetch the file again")
    if magic[2] != 8:
        raise TautError(f"{path} holds IDX type 0x{magic[2]:02x}; only unsigned bytes (0x08) are images or labels")
    dims = read(4 * magic[3])
    if len(dims) < 4 * magic[3] or not magic[3]:
        raise TautError(f"{path} ends inside its header of {magic[3]} dimensions; fetch the file again")
    shape = tuple(int(size) for size in np.frombuffer(dims, ">u4"))
    if prod(shape) > _LARGEST:
        raise TautError(f"{path} declares {prod(shape)} values, {shape}, more than any data set; fetch the file again")
    return shape


def read_cifar(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Files of CIFAR-10's binary version: images ``(n, 3, 32, 32)`` and labels ``(n,)``, bytes.

    A record is a label byte and 3,072 pixel bytes, red plane first (Krizhevsky, "CIFAR-10 binary version").

    Raises:
        TautError: a file is missing, not a whole number of records, or holds a label above 9.
    """
    images, labels = [], []
    for path in paths:
        try:
            data = np.fromfile(path, np.uint8)
        except OSError as error:
            raise TautError(f"cannot read {path}: {error}; get the binary version of CIFAR-10") from error
        if data.size == 0 or data.size % _CIFAR_RECORD:
            raise TautError(f"{path} has {data.size} bytes, not a multiple of {_CIFAR_RECORD}; fetch CIFAR-10's binary version")
        records = data.reshape(-1, _CIFAR_RECORD)
        if records[:, 0].max() > 9:
            raise TautError(f"{path} holds label {records[:, 0].max()}, above 9: it is not CIFAR-10's binary version")
        images.append(records[:, 1:].reshape(-1, *CIFAR_SHAPE))
        labels.append(records[:, 0])
    return np.concatenate(images), np.concatenate(labels)


def read_svhn(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """A cropped-digits file of SVHN: images ``(n, 3, 32, 32)`` and labels ``(n,)`` from 0 to 9, bytes.

    The file holds ``X`` of shape ``(32, 32, 3, n)`` and ``y`` of shape ``(n, 1)`` in which 10 stands for the digit 0
    (Netzer et al., 2011). This reader was tested on small made files, not on the real data.

    Raises:
        TautError: the file is missing, no MATLAB file, or its arrays have other shapes.
        ExtraError: scipy is not installed.
    """
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise ExtraError("scipy", "bench") from error
    try:
        content = loadmat(path, variable_names=["X", "y"])
    except (OSError, ValueError, TypeError, NotImplementedError, zlib.error, MatReadError) as error:
        raise TautError(f"cannot read {path} as a MATLAB file: {error}; fetch the file again") from error
    if "X" not in content or "y" not in content:
        raise TautError(f"{path} lacks the arrays X and y of SVHN's cropped digits; get train_32x32.mat and test_32x32.mat")
    x, y = content["X"], content["y"].reshape(-1)
    if x.ndim != 4 or x.shape[:3] != (32, 32, 3) or x.shape[3] != len(y) or x.dtype != np.uint8:
        raise TautError(f"{path}: X is {x.shape} {x.dtype}, with {len(y)} labels; SVHN has (32, 32, 3, n) bytes and n labels")
    if len(y) and (y.min() < 0 or y.max() > 10):
        raise TautError(f"{path}: labels run from {y.min()} to {y.max()}; SVHN's run from 1 to 10")
    return np.ascontiguousarray(x.transpose(3, 2, 0, 1)), (y % 10).astype(np.uint8)
