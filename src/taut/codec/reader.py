"""Reading a ``.taut`` file tensor by tensor: nothing but the index is decoded before it is asked for."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from taut.codec.bounded import densify
from taut.codec.container import CHECKED, HEAD, TAIL, Entry, Index, check_head, read_index, read_tail
from taut.codec.tree import FREE_ELEMENTS, Record, default_limit, materialise, parse
from taut.compressors.base import Code
from taut.errors import FormatError
from taut.layers import Alias

BLOCK = 1 << 20


class TautFile:
    """A ``.taut`` file, opened lazily.

    A small file is checked whole when it is opened. Of a large one the index is checked when it is opened and every record
    when it is read; :meth:`verify` checks all of it.

    ``max_elements`` bounds what one tensor may expand to (by default 2**22 elements and 1024 for every byte of its record), so
    that a small hostile file cannot fill the memory.

    Raises:
        FormatError: the file is missing, cut, damaged, hostile or from a newer version; the message names file and tensor.

    Example:
        >>> import os, tempfile, torch
        >>> from taut.codec.files import save
        >>> path = os.path.join(tempfile.mkdtemp(), "m.taut")
        >>> _ = save(torch.nn.Linear(2, 2), path)
        >>> with TautFile(path) as file:
        ...     file.names(), file.tensor("bias").shape
        (['weight', 'bias'], torch.Size([2]))
    """

    def __init__(self, path: str | os.PathLike[str], max_elements: int | None = None) -> None:
        self.path = Path(path)
        self.max_elements = max_elements
        try:
            self._file = open(self.path, "rb")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise FormatError(f"{self.path}: cannot be read: {error.strerror}") from None
        try:
            with self._context():
                self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        self.length = os.fstat(self._file.fileno()).st_size
        check_head(self._read(0, min(HEAD, self.length)))
        room = min(TAIL, max(0, self.length - HEAD))
        self.flags, start, size = read_tail(self._read(self.length - room, room), self.length)
        if not self.flags & CHECKED:
            self._check_whole()
        self.index: Index = read_index(self._read(start, size), self.flags, start)
        self.index_bytes = self.length - start
        self._entries = {entry.name: entry for entry in self.index.entries}

    def __enter__(self) -> TautFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def names(self) -> list[str]:
        """All tensor names, in the order of the file."""
        return list(self._entries)

    @property
    def meta(self) -> dict[str, Any]:
        """The user's notes."""
        return self.index.meta

    @property
    def graph(self) -> bytes:
        """The ONNX graph without its weights that travels in the file, if one does."""
        return self.index.graph

    @property
    def dense_shapes(self) -> dict[str, tuple[int, ...]]:
        """The original shapes of tensors that removed neurons made smaller."""
        return self.index.dense_shapes

    def alias(self, name: str) -> str | None:
        """The tensor that this one is tied to, if it is."""
        entry = self._entry(name)
        return None if entry.alias is None else self.index.entries[entry.alias].name

    def entry(self, name: str) -> Entry:
        """Where the record of ``name`` lies; a tied tensor's is the one it is tied to."""
        entry = self._entry(name)
        return entry if entry.alias is None else self.index.entries[entry.alias]

    def record(self, name: str) -> Record:
        """The record of ``name`` with its structure read and nothing decoded."""
        with self._context(name):
            return parse(self._record_bytes(self.entry(name)))

    def limit(self, name: str) -> int:
        """How many elements the record of ``name`` may expand to."""
        return default_limit(self.entry(name).length) if self.max_elements is None else self.max_elements

    def code(self, name: str) -> Code | Tensor:
        """The code of one tensor, or the tensor where it is stored as it is."""
        return self.materialise(name, self.record(name))

    def materialise(self, name: str, record: Record, used: dict[str, float] | None = None) -> Code | Tensor:
        """Decode the tensors of a record of this file; ``used`` receives the bytes of each."""
        with self._context(name):
            value = materialise(record, self.limit(name), used)
            if not isinstance(value, Code | Tensor):
                raise FormatError(f"it is a {type(value).__name__} instead of a code or a tensor")
            return value

    def densify(self, name: str, value: Code | Tensor, room: int | None = None) -> Tensor:
        """The dense tensor of a code of this file, of at most ``room`` elements (by default, what its record may expand to)."""
        with self._context(name):
            return densify(value, max(FREE_ELEMENTS, self.limit(name)) if room is None else max(0, room))

    def tensor(self, name: str) -> Tensor:
        """One dense tensor."""
        return self.densify(name, self.code(name))

    def state(self) -> dict[str, Code | Tensor | Alias]:
        """Everything: each tensor's name with its code, plain tensor or tie."""
        self.check_total()
        if self.flags & CHECKED:
            with self._context():
                self._check_whole()
        ties = {name: self.alias(name) for name in self.names()}
        return {name: self.code(name) if of is None else Alias(of) for name, of in ties.items()}

    @property
    def total_limit(self) -> int:
        """How many elements the whole file may expand to."""
        return default_limit(self.length) if self.max_elements is None else self.max_elements

    def check_total(self) -> int:
        """The elements of all tensors together; an error if they are more than the whole file may expand to."""
        total = sum(self.record(e.name).elements for e in self.index.entries if e.alias is None)
        limit = self.total_limit
        if total > limit:
            raise FormatError(
                f"{self.path}: {total:,} elements are declared in {self.length:,} bytes, more than the limit of {limit:,}; "
                f"if the file is trusted, pass max_elements={total}"
            )
        return total

    def verify(self) -> None:
        """Check every checksum of the file, in blocks."""
        with self._context():
            self._check_whole()
        for entry in self.index.entries:
            if entry.alias is None and entry.crc is not None:
                with self._context(entry.name):
                    self._record_bytes(entry)

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            known = ", ".join(list(self._entries)[:4])
            raise FormatError(f"{self.path}: there is no tensor {name!r}; the file holds {len(self._entries)}: {known} …")
        return self._entries[name]

    def _record_bytes(self, entry: Entry) -> bytes:
        data = self._read(entry.start, entry.length)
        if entry.crc is not None and zlib.crc32(data) != entry.crc:
            raise FormatError("its checksum does not match: the file is damaged")
        return data

    def _check_whole(self) -> None:
        crc, at = 0, 0
        while at < self.length - 4:
            block = self._read(at, min(BLOCK, self.length - 4 - at))
            crc, at = zlib.crc32(block, crc), at + len(block)
        if crc != int.from_bytes(self._read(self.length - 4, 4), "little"):
            raise FormatError("the checksum does not match: the file is cut or damaged")

    def _read(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        data = self._file.read(size)
        if len(data) != size:
            raise FormatError(f"cut short: {size} bytes are wanted at byte {start}, {len(data)} are there")
        return data

    @contextmanager
    def _context(self, name: str | None = None) -> Iterator[None]:
        """Put the file's and the tensor's name in front of an error."""
        try:
            yield
        except FormatError as error:
            where = f"{self.path}: " if name is None else f"{self.path}: tensor {name!r}: "
            message = str(error)
            raise FormatError(message if message.startswith(str(self.path)) else where + message) from error.__cause__
        except OSError as error:
            raise FormatError(f"{self.path}: cannot be read: {error.strerror}") from None
