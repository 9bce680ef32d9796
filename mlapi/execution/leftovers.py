"""What attempts whose runners were killed leave on this machine: their processes and their folders.

The folder of an attempt has its id in its name, and records the processes of the runner and the function. A process
of the same user belongs to an attempt if it is in the session of the function, works in the folder, or has the folder
in its environment. All this is read from /proc; on systems without it, nothing is found.
"""

from __future__ import annotations

import os
import signal
import time

from mlapi import scratch as folders

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RUNNER, FUNCTION = "runner", "function"
"""The names of the records of an attempt's processes."""

PATIENCE = 10.0
"""Seconds to wait for killed processes to disappear."""


def prefix(attempt: int | str) -> str:
    """Return the start of the names of the folders of an attempt."""
    return f"{folders.ATTEMPT}{attempt}-"


def record(folder: str, name: str, pid: int) -> None:
    """Record a process in the folder of its attempt, with its start, because process ids are reused."""
    with open(os.path.join(folder, name), "w", encoding="ascii") as file:
        file.write(f"{pid} {_started(pid)}")


def runner(scratch: str | os.PathLike[str], attempt: int | str) -> int | None:
    """Return the process id of the living runner of an attempt on this machine, or None."""
    for folder in _folders(scratch, attempt):
        pid, started = _recorded(folder, RUNNER)
        if pid and started == _started(pid):
            return pid
    return None


def kill(scratch: str | os.PathLike[str], attempt: int | str) -> bool:
    """Kill all processes of an attempt on this machine, its runner first, and delete its folder.

    Returns whether nothing of it is left. This may be called while the runner lives, or is suspended.
    """
    left = [folder for folder in _folders(scratch, attempt) if not _clear(folder)]
    return not left


def sweep(scratch: str | os.PathLike[str]) -> bool:
    """Kill the processes and delete the folders of all attempts whose runners have ended.

    The folders of interrupted uploads of modules are deleted as well. Returns whether nothing is left.
    """
    scratch = os.fspath(scratch)
    for folder in folders.abandoned(scratch, folders.MODULE):
        folders.remove_tree(folder)
    left = [folder for folder in folders.abandoned(scratch, folders.ATTEMPT) if not _clear(folder)]
    return not left


def _folders(scratch: str | os.PathLike[str], attempt: int | str) -> list[str]:
    """Return the folders of an attempt."""
    try:
        names = os.listdir(scratch)
    except FileNotFoundError:
        return []
    start = prefix(attempt)
    return [os.path.join(os.path.abspath(scratch), name) for name in names if name.startswith(start)]


def _clear(folder: str) -> bool:
    """Kill the processes of a folder until none is left, and delete it. Returns whether nothing is left."""
    pid, started = _recorded(folder, RUNNER)
    if pid and pid != os.getpid():
        _kill(pid, started)
    until = time.monotonic() + PATIENCE
    while processes := list(_belonging(folder)):
        for pid, started in processes:
            _kill(pid, started)
        if time.monotonic() >= until:
            return False
        time.sleep(0.01)
    folders.remove_tree(folder)
    return not os.path.isdir(folder)


def _belonging(folder: str) -> Iterator[tuple[int, str]]:
    """Yield the processes that belong to an attempt, with their starts."""
    runner, function = _recorded(folder, RUNNER), _recorded(folder, FUNCTION)
    own = os.getpid()
    for pid in _processes():
        fields = _stat(pid)
        if pid == own or fields is None or fields[0] in "ZX" or not _own(pid):
            continue
        started = fields[19]
        if (pid, started) == runner or _in_session(fields, function) or _uses(pid, folder):
            yield pid, started


def _in_session(fields: list[str], leader: tuple[int, str]) -> bool:
    """Whether a process is in the session of a recorded leader, and not in a later one with the same id."""
    pid, started = leader
    if not pid or int(fields[3]) != pid or int(fields[19]) < int(started):
        return False
    return _started(pid) in (started, "")


def _uses(pid: int, folder: str) -> bool:
    """Whether a process works in a folder or has it in its environment.

    Open files are no sign: another process of this service may be reading the records.
    """
    try:
        working = os.readlink(f"/proc/{pid}/cwd").removesuffix(" (deleted)")
        if os.path.join(working, "").startswith(os.path.join(os.path.realpath(folder), "")):
            return True
        with open(f"/proc/{pid}/environ", "rb") as environ:
            return b"=" + os.fsencode(os.path.join(folder, "")) in environ.read()
    except OSError:
        return False


def _own(pid: int) -> bool:
    """Whether a process belongs to the user of this one."""
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except OSError:
        return False


def _kill(pid: int, started: str) -> None:
    """Kill a process, unless it is another one with the same id."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # The descriptor stands for one process, whatever happens to the id from now on.
        if _started(pid) == started:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        return
    finally:
        os.close(descriptor)


def _recorded(folder: str, name: str) -> tuple[int, str]:
    """Return the id and the start of a recorded process, or 0 and no start."""
    try:
        with open(os.path.join(folder, name), encoding="ascii") as file:
            pid, started = map(int, file.read(64).split())
            return (pid, str(started)) if 0 < pid < 2**31 else (0, "")
    except (OSError, ValueError):
        return 0, ""


def _processes() -> Iterable[int]:
    """Return the ids of all processes."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()] if os.path.isdir("/proc") else []


def _started(pid: int) -> str:
    """Return the start of a process in ticks since the start of the machine, or no text if it does not exist."""
    fields = _stat(pid)
    return fields[19] if fields is not None and fields[0] not in "ZX" else ""


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on, or None."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            # The name of the command is in parentheses and may contain anything, including parentheses.
            return stat.read().rpartition(")")[2].split()
    except OSError:
        return None
