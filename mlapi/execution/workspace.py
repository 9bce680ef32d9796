"""The folder in which an attempt runs."""

from __future__ import annotations

import fcntl
import itertools
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "attempt-"
"""The prefix of the names of workspaces. Other folders are never swept."""


class Workspace:
    """The folder of an attempt, locked while this process lives, and deleted afterwards."""

    def __init__(self, scratch: str) -> None:
        self._scratch = os.path.abspath(scratch)
        os.makedirs(scratch, mode=0o700, exist_ok=True)
        self.path, self._lock = self._claim()
        self.module, self.job = os.path.join(self.path, "module"), os.path.join(self.path, "job")
        self.input, self.output = os.path.join(self.job, "input"), os.path.join(self.job, "output")
        self.temporary = os.path.join(self.job, "tmp")
        for folder in (self.module, self.job, self.input, self.output, self.temporary):
            os.mkdir(folder, 0o700)

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        remove_tree(self.path)
        os.close(self._lock)
        self._sweep()

    def environment(self, python: str) -> dict[str, str]:
        """Return the complete environment of a function."""
        return {
            "PATH": f"{os.path.dirname(python)}:/usr/local/bin:/usr/bin:/bin",
            "HOME": self.job,
            "LANG": "C.UTF-8",
            "TMPDIR": self.temporary,
            "MPLCONFIGDIR": os.path.join(self.temporary, "matplotlib"),
            "MLAPI_JOB_DIR": self.job,
            "PYTHONUNBUFFERED": "1",
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }

    def _claim(self) -> tuple[str, int]:
        """Create and lock a new folder. Other runners delete folders that are not locked."""
        while True:
            path = os.path.join(self._scratch, PREFIX + os.urandom(8).hex())
            os.mkdir(path, 0o700)
            lock = _lock(path)
            if lock is None:
                continue
            if os.path.isdir(path):
                return path, lock
            os.close(lock)

    def _sweep(self) -> None:
        """Delete the folders of killed runners."""
        for name in os.listdir(self._scratch):
            path = os.path.join(self._scratch, name)
            lock = _lock(path) if name.startswith(PREFIX) else None
            if lock is not None:
                remove_tree(path)
                os.close(lock)


def _lock(path: str) -> int | None:
    """Lock a folder, or return None if another process has. The lock ends with this process."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def remove_tree(root: str) -> None:
    """Delete a folder with everything in it, whatever its depth and permissions. Links are never followed.

    Subfolders are moved up before they are emptied, so that no path becomes too long.
    """
    numbers = itertools.count()
    previous: list[str] = []
    try:
        while (names := _entries(root)) and names != previous:
            previous = names
            for name in names:
                _remove_one(root, os.path.join(root, name), numbers)
        os.rmdir(root)
    except OSError:
        return


def _entries(folder: str) -> list[str]:
    """Make a folder readable and writable, and return its entries in order."""
    os.chmod(folder, 0o700)
    return sorted(os.listdir(folder))


def _remove_one(root: str, path: str, numbers: Iterator[int]) -> None:
    """Delete a file, or move the subfolders of a folder up into `root` and delete it."""
    try:
        if not _is_folder(path):
            os.unlink(path)
            return
        for name in _entries(path):
            inner = os.path.join(path, name)
            if _is_folder(inner):
                # Moving a folder changes its "..", which requires write permission.
                os.chmod(inner, 0o700)
                os.rename(inner, os.path.join(root, f"moved-{os.getpid()}-{next(numbers)}"))
            else:
                os.unlink(inner)
        os.rmdir(path)
    except OSError:
        return


def _is_folder(path: str) -> bool:
    """Whether this is a folder, and not a link to one."""
    return os.path.isdir(path) and not os.path.islink(path)
