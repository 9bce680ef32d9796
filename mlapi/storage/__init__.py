"""Where the bytes of files, modules and models are kept: blobs, each under the SHA-256 of its content.

A blob is stored before the row that names it is committed, and deleted after the last such row is gone.
What a failure leaves in between is a blob that no row names, and the sweep deletes it after a time of grace.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CHUNK = 256 * 1024
"""Bytes that are read, sent or written at a time."""


class MissingBlob(LookupError):
    """A blob that should be there is not: a row names it, or someone deleted it from the disk."""


@dataclass(frozen=True, slots=True)
class Blob:
    """What was stored: the SHA-256 of the content in lower-case hex, and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob as the store lists it, with the time (seconds since 1970) from which its grace is counted."""

    sha256: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep deleted: unreferenced blobs, the bytes they held, and temporary files."""

    blobs: int
    size: int
    temporary: int


class Stream(Iterator[bytes], Protocol):
    """Chunks of a blob; its end closes it, and so does `close` for a reader that leaves early."""

    def close(self) -> None:
        """Let go of what the stream holds open; closing twice does no harm."""


class BlobStore(Protocol):
    """What the service asks of a store of blobs.

    Every method that takes a SHA-256 raises `ValueError` where it is not 64 lower-case hex digits.
    """

    def put(self, chunks: Iterable[bytes], limit: int | None = None) -> Blob:
        """Store the bytes of `chunks`; they survive a loss of power from when this returns.

        Raises `TooLarge` beyond `limit` bytes and `StorageFull` where there is no room. An exception, from
        here or from `chunks`, leaves nothing behind. Content that is there already is replaced, which heals
        a damaged blob and begins its grace anew.
        """

    def open(self, sha256: str, start: int = 0, stop: int | None = None) -> Stream:
        """Open the bytes from `start` up to `stop`, or raise `MissingBlob`."""

    def size(self, sha256: str) -> int | None:
        """Return the size of a blob, or None where there is no such blob."""

    def touch(self, sha256: str) -> bool:
        """Begin the grace of a blob anew and say whether it is there.

        This comes before a new row that names a blob which the same request did not put.
        """

    def verify(self, sha256: str) -> bool:
        """Read the whole blob again and say whether it is there and is what its name says."""

    def blobs(self) -> Iterator[Stored]:
        """List every blob, in no order."""

    def sweep(self, referenced: Callable[[Collection[str]], Collection[str]], grace: float) -> Swept:
        """Delete blobs that no row names and temporary files, where older than `grace` seconds.

        `referenced` is asked about some hundred blobs at a time and returns those that rows name. The grace
        must be longer than the time from a `put` to the commit of its row.
        """


def store_from(location: str) -> BlobStore:
    """Return the store at `location`, which is the path of a folder."""
    from mlapi.storage.local import LocalStore  # it imports the words above

    if "://" in location:
        raise ValueError(f"Blobs are kept in a local folder, not at {location!r}.")
    return LocalStore(Path(location))
