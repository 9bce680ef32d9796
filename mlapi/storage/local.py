"""A store of blobs in a local folder, which any number of processes of one machine share."""

import errno
import fcntl
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from itertools import islice
from pathlib import Path

from mlapi.errors import StorageFull, TooLarge
from mlapi.storage import CHUNK, Blob, MissingBlob, Stored, Swept

BATCH = 500
"""Blobs that a sweep asks about, and deletes, at a time."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""The errors of a disk, a quota and a limit of file size that leave no room."""

SHA256 = re.compile("[0-9a-f]{64}")


class LocalStore:
    """Blobs as files `sha256/ab/cd/<hash>` of a folder, which is made where it is missing.

    What is being written is in `tmp/`. A blob is put in its place under a shared lock of the file `lock`,
    and swept under an exclusive one: a sweep never deletes what was put again since it asked about it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._blobs, self._temporary = self.root / "sha256", self.root / "tmp"
        self._lock = self.root / "lock"
        self.root.parent.mkdir(parents=True, exist_ok=True)
        for folder in (self.root, self._blobs, self._temporary):
            _make_folder(folder)
        self._lock.touch(0o600)
        _sync_folder(self.root)
        _sync_folder(self.root.parent)

    def put(self, chunks: Iterable[bytes], limit: int | None = None) -> Blob:
        """Store the bytes of `chunks`; they survive a loss of power from when this returns."""
        try:
            with self._new_file() as (file, path):
                blob = _write(file, chunks, limit)
                os.fsync(file.fileno())
                self._place(path, blob.sha256)
        except OSError as error:
            if error.errno in FULL:
                raise StorageFull("There is no room left to keep what was sent.") from error
            raise
        return blob

    def open(self, sha256: str, start: int = 0, stop: int | None = None) -> "Reader":
        """Open the bytes from `start` up to `stop`, or raise `MissingBlob`."""
        try:
            file = FileIO(self._path(sha256))
        except FileNotFoundError:
            raise MissingBlob(f"There is no blob {sha256}.") from None
        return Reader(file, start, stop)

    def size(self, sha256: str) -> int | None:
        """Return the size of a blob, or None where there is no such blob."""
        try:
            return self._path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def touch(self, sha256: str) -> bool:
        """Begin the grace of a blob anew and say whether it is there."""
        with self._locked(fcntl.LOCK_SH):
            try:
                os.utime(self._path(sha256))
            except FileNotFoundError:
                return False
        return True

    def verify(self, sha256: str) -> bool:
        """Read the whole blob again and say whether it is there and is what its name says."""
        try:
            with self._path(sha256).open("rb", buffering=0) as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except FileNotFoundError:
            return False

    def blobs(self) -> Iterator[Stored]:
        """List every blob, in no order; a file of any other name is passed over."""
        for path in self._blobs.glob("??/??/*"):
            if SHA256.fullmatch(path.name) and path == self._path(path.name):
                with suppress(FileNotFoundError):
                    stat = path.stat()
                    yield Stored(path.name, stat.st_size, stat.st_mtime)

    def sweep(self, referenced: Callable[[Collection[str]], Collection[str]], grace: float) -> Swept:
        """Delete blobs that no row names and temporary files, where older than `grace` seconds."""
        before = time.time() - grace
        sizes: list[int] = []
        old = (each.sha256 for each in self.blobs() if each.modified <= before)
        while batch := list(islice(old, BATCH)):
            unnamed = set(batch).difference(referenced(batch))
            with self._locked(fcntl.LOCK_EX):
                sizes += _delete_older(map(self._path, unnamed), before)
        temporary = _delete_older(self._temporary.iterdir(), before)
        return Swept(len(sizes), sum(sizes), len(temporary))

    def _path(self, sha256: str) -> Path:
        if not SHA256.fullmatch(sha256):
            raise ValueError("A SHA-256 is 64 lower-case hex digits.")
        return self._blobs / sha256[:2] / sha256[2:4] / sha256

    @contextmanager
    def _new_file(self) -> Iterator[tuple[FileIO, Path]]:
        """Open a new temporary file, which is gone afterwards unless it was moved."""
        descriptor, name = tempfile.mkstemp(dir=self._temporary)
        try:
            with FileIO(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)
                yield file, Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def _place(self, path: Path, sha256: str) -> None:
        target = self._path(sha256)
        folders = [target.parents[1], target.parents[0]]
        for folder in folders:
            _make_folder(folder)
        with self._locked(fcntl.LOCK_SH):
            os.utime(path)  # the grace begins here, however long the writing took
            path.replace(target)
        # Another process may have made these folders just now and not have synced them yet.
        for folder in [self._blobs, *folders]:
            _sync_folder(folder)

    @contextmanager
    def _locked(self, mode: int) -> Iterator[None]:
        """Hold the lock; threads exclude each other too, as each opens the file anew."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, mode)
            yield
        finally:
            os.close(descriptor)


class Reader(Iterator[bytes]):
    """The chunks of a file from `start` up to `stop`.

    This is no generator: closing one that never began would not close its file. An answer that is thrown
    away unsent, as after a failed commit, is never closed at all, hence `__del__`.
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
    """Write `chunks` while counting and hashing them; nothing beyond `limit` reaches the disk."""
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        size += len(chunk)
        if limit is not None and size > limit:
            raise TooLarge(f"A file may have at most {limit} bytes.")
        digest.update(chunk)
        rest = memoryview(chunk)
        while rest:
            rest = rest[file.write(rest) :]
    return Blob(digest.hexdigest(), size)


def _delete_older(paths: Iterable[Path], before: float) -> list[int]:
    """Delete the files last modified before a time; return their sizes."""
    sizes = []
    for path in paths:
        with suppress(FileNotFoundError):
            stat = path.stat()
            if stat.st_mtime <= before:
                path.unlink()
                sizes.append(stat.st_size)
    return sizes


def _make_folder(path: Path) -> None:
    """Make a folder that is its owner's alone, whatever the umask; leave one that is there as it is."""
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
