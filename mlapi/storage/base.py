"""The interface of a store of blobs, and the types that it uses."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

CHUNK = 256 * 1024
"""Bytes read, sent or written at a time."""


class MissingBlob(LookupError):
    """A blob that does not exist, although a row names it."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored blob: the SHA-256 of the content in lower-case hex, and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob in the list of a store. Its grace period starts at `modified`, in seconds since 1970."""

    sha256: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The numbers of deleted blobs, of their bytes, and of deleted temporary files."""

    blobs: int
    size: int
    temporary: int


class Stream(Iterator[bytes], Protocol):
    """The chunks of a blob. The stream is closed at its end, or earlier by `close`."""

    def close(self) -> None:
        """Release the resources of the stream. Closing it twice is allowed."""


class BlobStore(Protocol):
    """A store of blobs.

    Every method with a SHA-256 raises `ValueError` if that is not 64 lower-case hex digits.
    """

    def put(self, chunks: Iterable[bytes], limit: int | None = None) -> Blob:
        """Store the bytes of `chunks`. They survive a loss of power once this returns.

        Raises `TooLarge` beyond `limit` bytes and `StorageFull` without space. Any exception, also from `chunks`,
        leaves nothing behind. Existing content is replaced, which repairs a damaged blob and restarts its grace
        period.
        """

    def open(self, sha256: str, start: int = 0, stop: int | None = None) -> Stream:
        """Open the bytes from `start` up to `stop`, or raise `MissingBlob`."""

    def room(self) -> int:
        """Write a little, and return how many bytes can be stored. Raises `StorageFull`, or `OSError` if it cannot."""

    def size(self, sha256: str) -> int | None:
        """Return the size of a blob, or None if it does not exist."""

    def verify(self, sha256: str) -> bool:
        """Read the whole blob and return whether it exists and matches its hash."""

    def blobs(self) -> Iterator[StoredBlob]:
        """List every blob, in no particular order."""

    def sweep(self, referenced: Callable[[Collection[str]], Collection[str]], grace: float) -> SweepResult:
        """Delete blobs that no row names, and temporary files, if they are older than `grace` seconds.

        `referenced` is called with batches of some hundred blobs and returns those that rows name. The grace period
        must be longer than the time from a `put` to the commit of its row.
        """
