"""The ``.taut`` file: entropy models, coder, container. The format is described in docs/format.md."""

from taut.codec.records import decode, encode, size

__all__ = ["decode", "encode", "size"]
