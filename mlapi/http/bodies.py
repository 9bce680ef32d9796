"""Request bodies without structure, read in chunks or at once within a limit."""

from collections.abc import Iterator
from typing import Protocol

from mlapi.errors import TooLarge
from mlapi.storage import CHUNK


class Readable(Protocol):
    """A binary stream."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes; an empty result marks the end of the stream."""


def read_chunks(body_file: Readable, size: int = CHUNK) -> Iterator[bytes]:
    """Read a body to its end in chunks of at most `size` bytes."""
    while chunk := body_file.read(size):
        yield chunk


def read_whole(body_file: Readable, length: int | None, limit: int) -> bytes:
    """Read a body of `length` bytes into memory; raises `TooLarge` if it has more than `limit` bytes."""
    if (length or 0) > limit:
        raise TooLarge(f"The body must have at most {limit} bytes.")
    return body_file.read(length or 0)
