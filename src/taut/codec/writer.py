"""Writing a ``.taut`` file in one pass: into a temporary file beside the target, which takes its place when it is complete."""

from __future__ import annotations

import errno
import os
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

from taut.codec.container import MAGIC, VERSION, Entry, Index, write_index
from taut.errors import TautError


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file that appears at ``path`` only when it is complete and on the disk.

    On any error, a full disk and Ctrl-C included, the temporary file goes and an older file at ``path`` stays as it was.

    Raises:
        TautError: the file cannot be written; the message says why.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    done = False
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        done = True
        _sync_folder(target.parent)
    except OSError as error:
        why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise TautError(f"{path}: cannot be written: {why}; what was there before is untouched") from error
    finally:
        if not done:
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the new name durable; some systems cannot sync a folder, where the rename is durable by itself."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


class Writer:
    """Records one after the other, then the index; the checksum is kept on the way, nothing is read back.

    Example:
        >>> import io
        >>> writer = Writer(io.BytesIO())
        >>> writer.add("bias", b"some record")
        >>> writer.finish() == len(writer.file.getvalue())
        True
    """

    def __init__(self, file: IO[bytes], weights_only: bool = False) -> None:
        self.file = file
        self.index = Index(weights_only=weights_only)
        self.length = 0
        self._crc = 0
        self._ties: dict[int, str] = {}
        self._put(MAGIC + bytes([VERSION]))

    def _put(self, data: bytes) -> None:
        self.file.write(data)
        self._crc = zlib.crc32(data, self._crc)
        self.length += len(data)

    def add(self, name: str, record: bytes) -> None:
        """One record."""
        self.index.entries.append(Entry(name, self.length, len(record), crc=zlib.crc32(record)))
        self._put(record)

    def tie(self, name: str, of: str) -> None:
        """A tensor that is another one, which may also come later."""
        self._ties[len(self.index.entries)] = of
        self.index.entries.append(Entry(name))

    def finish(self) -> int:
        """Write the index and the checksum; returns the length of the file."""
        numbers = {entry.name: number for number, entry in enumerate(self.index.entries)}
        for number, of in self._ties.items():
            if of not in numbers or numbers[of] in self._ties:
                raise TautError(f"{self.index.entries[number].name} is tied to {of!r}, which is not stored itself")
            self.index.entries[number] = replace(self.index.entries[number], alias=numbers[of])
        self._put(write_index(self.index))
        self.file.write(self._crc.to_bytes(4, "little"))
        return self.length + 4
