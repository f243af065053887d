"""Bytes: variable-length integers, and a reader that never runs past the end."""

from __future__ import annotations

from taut.errors import FormatError

MAX_VARINT = 10  # bytes: 64 bits in groups of 7


def zigzag(value: int) -> int:
    """Signed to unsigned: 0, -1, 1, -2 … become 0, 1, 2, 3 …

    Example:
        >>> [zigzag(v) for v in (0, -1, 1, -2)]
        [0, 1, 2, 3]
    """
    return 2 * value if value >= 0 else -2 * value - 1


def unzigzag(value: int) -> int:
    """The inverse of :func:`zigzag`."""
    return -(value + 1) // 2 if value & 1 else value // 2


def varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; the top bit says that more follow.

    Example:
        >>> varint(300).hex()
        'ac02'
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """A cursor over bytes; reading past the end raises :class:`FormatError`."""

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data)
        self.at = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int) -> memoryview:
        """The next ``count`` bytes."""
        if count > self.left:
            raise FormatError(f"cut short: {count} bytes are announced, {self.left} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        value = 0
        for position in range(MAX_VARINT):
            byte = self.byte()
            value |= (byte & 0x7F) << 7 * position
            if byte < 0x80:
                return value
        raise FormatError("a number is longer than 64 bits")

    def signed(self) -> int:
        return unzigzag(self.varint())

    def text(self) -> str:
        raw = bytes(self.take(self.varint()))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError("a name is not UTF-8") from None


def text(value: str) -> bytes:
    """A string: its length in bytes, then UTF-8."""
    raw = value.encode("utf-8", "surrogatepass")
    return varint(len(raw)) + raw
