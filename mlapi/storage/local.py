"""A store of blobs in a local folder, shared by any number of processes on one machine."""

import errno
import fcntl
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import FileIO
from itertools import islice
from pathlib import Path

from mlapi.errors import StorageFull, TooLarge
from mlapi.storage.base import CHUNK, Blob, MissingBlob, StoredBlob, SweepResult

BATCH = 500
"""Blobs per batch of a sweep."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors that mean no space: of a disk, of a quota, and of a limit of file size."""

PROBE = bytes(4096)
"""What is written to find out whether that is possible."""

SMALL = 64 * 1024
"""Bytes of a chunk up to which hashing it takes less time than passing it to a thread."""

SHA256 = re.compile("[0-9a-f]{64}")


@contextmanager
def detect_full() -> Iterator[None]:
    """Raise `StorageFull` instead of an `OSError` that means no space."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull("No space left in the storage.") from error
        raise


class LocalStore:
    """A store that keeps blobs as files `sha256/ab/<hash>` in a folder, which is created if necessary.

    The 256 folders `sha256/ab` exist from the start. Files are written in `tmp/`. A blob is moved to its place under a
    shared lock on the file `lock`, and swept under an exclusive lock: a sweep never deletes a blob that was stored
    again since its batch was checked.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._blobs, self._temporary = self.root / "sha256", self.root / "tmp"
        self._lock = self.root / "lock"
        self.root.parent.mkdir(parents=True, exist_ok=True)
        for folder in (self.root, self._blobs, self._temporary):
            _make_folder(folder)
        for number in range(256):
            _make_folder(self._blobs / f"{number:02x}")
        self._lock.touch(0o600)
        for folder in (self._blobs, self.root, self.root.parent):
            _sync_folder(folder)

    def put(self, chunks: Iterable[bytes], limit: int | None = None) -> Blob:
        """Store the bytes of `chunks`. They survive a loss of power once this returns."""
        with detect_full(), self._new_file() as (file, path):
            blob = _write(file, chunks, limit)
            os.fsync(file.fileno())
            self._place(path, blob.sha256)
        return blob

    def open(self, sha256: str, start: int = 0, stop: int | None = None) -> "Reader":
        """Open the bytes from `start` up to `stop`, or raise `MissingBlob`."""
        try:
            file = FileIO(self._path(sha256))
        except FileNotFoundError:
            raise MissingBlob(f"Blob not found: {sha256}.") from None
        return Reader(file, start, stop)

    def room(self) -> int:
        """Write a little, and return how many bytes can be stored. Raises `StorageFull`, or `OSError` if it cannot."""
        with detect_full(), self._new_file() as (file, _):
            file.write(PROBE)
            disk = os.fstatvfs(file.fileno())
        return disk.f_bavail * disk.f_frsize

    def size(self, sha256: str) -> int | None:
        """Return the size of a blob, or None if it does not exist."""
        try:
            return self._path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def verify(self, sha256: str) -> bool:
        """Read the whole blob and return whether it exists and matches its hash."""
        try:
            with self._path(sha256).open("rb", buffering=0) as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except FileNotFoundError:
            return False

    def blobs(self) -> Iterator[StoredBlob]:
        """List every blob, in no particular order. Other files are ignored."""
        for path in self._blobs.glob("??/*"):
            if SHA256.fullmatch(path.name) and path == self._path(path.name):
                with suppress(FileNotFoundError):
                    stat = path.stat()
                    yield StoredBlob(path.name, stat.st_size, stat.st_mtime)

    def sweep(self, referenced: Callable[[Collection[str]], Collection[str]], grace: float) -> SweepResult:
        """Delete blobs that no row names, and temporary files, if they are older than `grace` seconds."""
        before = time.time() - grace
        sizes: list[int] = []
        old = (blob.sha256 for blob in self.blobs() if blob.modified <= before)
        while batch := list(islice(old, BATCH)):
            orphans = set(batch).difference(referenced(batch))
            with self._locked(fcntl.LOCK_EX):
                sizes += _delete_older(map(self._path, orphans), before)
        temporary = _delete_older(self._temporary.iterdir(), before)
        return SweepResult(len(sizes), sum(sizes), len(temporary))

    def _path(self, sha256: str) -> Path:
        if not SHA256.fullmatch(sha256):
            raise ValueError("A SHA-256 has 64 lower-case hex digits.")
        return self._blobs / sha256[:2] / sha256

    @contextmanager
    def _new_file(self) -> Iterator[tuple[FileIO, Path]]:
        """Open a new temporary file, which is deleted afterwards unless it was moved."""
        descriptor, name = tempfile.mkstemp(dir=self._temporary)
        try:
            with FileIO(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)
                yield file, Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def _place(self, path: Path, sha256: str) -> None:
        """Move a synced file to its place, so that its name survives a loss of power.

        The name of the folder `ab` needs no sync: `__init__` has synced it before any blob was in it.
        """
        target = self._path(sha256)
        with self._locked(fcntl.LOCK_SH):
            os.utime(path)  # the grace period starts here, however long the upload took
            path.replace(target)
        _sync_folder(target.parent)

    @contextmanager
    def _locked(self, mode: int) -> Iterator[None]:
        """Hold the lock. Threads exclude each other too, because every call opens the file again."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, mode)
            yield
        finally:
            os.close(descriptor)


class Reader(Iterator[bytes]):
    """The chunks of a file from `start` up to `stop`.

    This is not a generator, because closing a generator that never started would not close the file. A response that
    is discarded, as after a failed commit, is never closed, hence `__del__`.
    """

    def __init__(self, file: FileIO, start: int, stop: int | None) -> None:
        self._file = file
        self._left = None if stop is None else max(stop - start, 0)
        file.seek(start)

    def __next__(self) -> bytes:
        if self._file.closed:
            raise StopIteration
        chunk = self._file.read(CHUNK if self._left is None else min(CHUNK, self._left))
        if not chunk:
            self.close()
            raise StopIteration
        if self._left is not None:
            self._left -= len(chunk)
        return chunk

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __del__(self) -> None:
        self.close()


def _write(file: FileIO, chunks: Iterable[bytes], limit: int | None) -> Blob:
    """Write, count and hash `chunks`. Nothing beyond `limit` reaches the disk.

    A large chunk is hashed in a second thread while it is written, because hashlib releases the GIL.
    """
    digest, size = hashlib.sha256(), 0
    with ThreadPoolExecutor(1) as hasher:
        hashing: Future[None] | None = None
        for chunk in chunks:
            size += len(chunk)
            if limit is not None and size > limit:
                raise TooLarge(f"The file is larger than {limit} bytes.")
            if hashing is not None:
                hashing.result()
                hashing = None
            if len(chunk) <= SMALL:
                digest.update(chunk)
            else:
                hashing = hasher.submit(digest.update, chunk)
            rest = memoryview(chunk)
            while rest:
                rest = rest[file.write(rest) :]
    return Blob(digest.hexdigest(), size)


def _delete_older(paths: Iterable[Path], before: float) -> list[int]:
    """Delete the files last modified before a time, and return their sizes."""
    sizes = []
    for path in paths:
        with suppress(FileNotFoundError):
            stat = path.stat()
            if stat.st_mtime <= before:
                path.unlink()
                sizes.append(stat.st_size)
    return sizes


def _make_folder(path: Path) -> None:
    """Create a private folder, whatever the umask. An existing folder is left as it is."""
    with suppress(FileExistsError):
        path.mkdir(0o700)
        path.chmod(0o700)


def _sync_folder(path: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
