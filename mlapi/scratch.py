"""Folders in the scratch folder: each is locked while the process that needs it lives, and swept afterwards.

The job runner uses them too, so they need nothing but the standard library.
"""

from __future__ import annotations

import fcntl
import itertools
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ATTEMPT = "attempt-"
"""The prefix of the names of the folders in which attempts run."""

MODULE = "module-"
"""The prefix of the names of the folders in which module archives are unpacked."""


def create(scratch: str, prefix: str) -> tuple[str, int]:
    """Create and lock a new folder; returns its path and the lock, which ends when it is closed or the process ends."""
    while True:
        path = os.path.join(scratch, prefix + os.urandom(8).hex())
        os.mkdir(path, 0o700)
        descriptor = lock(path)
        if descriptor is None:
            continue
        # A sweep may have deleted it before it was locked.
        if os.path.isdir(path):
            return path, descriptor
        os.close(descriptor)


def lock(path: str) -> int | None:
    """Lock a folder, or return None if it is not a folder or another process holds its lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def abandoned(scratch: str, prefix: str) -> Iterator[str]:
    """Yield the folders of processes that have ended. Each is locked until the next one is asked for."""
    for name in sorted(os.listdir(scratch)) if os.path.isdir(scratch) else ():
        path = os.path.join(scratch, name)
        descriptor = lock(path) if name.startswith(prefix) else None
        if descriptor is not None:
            try:
                yield path
            finally:
                os.close(descriptor)


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
