"""A function's process and its folder: started alone, watched without blocking, ended with all it started."""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import resource
import signal
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

GRACE = 0.5
"""Seconds between the request to end (SIGTERM) and the end (SIGKILL)."""

PIECE = 65536
"""Bytes that one read takes from the pipe: what a pipe of Linux holds."""

PREFIX = "attempt-"
"""How the names of attempts' folders begin: what begins otherwise is never swept away."""

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36

_LIBC = ctypes.CDLL(None)


class CannotStart(Exception):
    """The command of a function cannot be started; the message is for the module's author."""


def prctl(option: int, value: int) -> None:
    """Ask Linux for something about this process; other systems have no such thing and do without."""
    if sys.platform == "linux":
        _LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def guard_self() -> None:
    """Make this process the one that a function cannot look into and cannot leave.

    It leaves no core file, other processes of its user cannot read its memory or its environment, and what a
    function detaches from itself becomes a child of this process, so that `kill_strays` finds it.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1)


class Child:
    """A command in a session of its own, with nothing of ours but a pipe for what it prints.

    Start it before any other thread runs, as a fork wants it, and from a thread that lives as long as the
    child should: on Linux the child is killed when that thread ends.
    """

    def __init__(self, command: Sequence[str], folder: str, environment: Mapping[str, str]) -> None:
        self.output, writer = os.pipe()
        try:
            self._process = subprocess.Popen(
                list(command),
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                start_new_session=True,
                umask=0o077,
                preexec_fn=_tie_to(os.getpid()),
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            os.close(self.output)
            words = getattr(error, "strerror", None) or str(error)
            raise CannotStart(f"The command {command[0]!r} cannot be started: {words}.") from error
        finally:
            os.close(writer)
        os.set_blocking(self.output, False)
        self.pid = self._process.pid
        self.ending = _open_pidfd(self.pid)
        self._kill_at: float | None = None

    def exited(self) -> bool:
        """Whether the command has ended; what it left behind may still run."""
        if self._process.returncode is not None:
            return True
        if not hasattr(os, "waitid"):
            return self._process.poll() is not None
        # WNOWAIT leaves the dead process in place, so that its number stays the number of its group.
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def read(self) -> bytes | None:
        """Return what it printed, nothing (b"") when the pipe has ended, None when there is nothing now."""
        try:
            return os.read(self.output, PIECE)
        except BlockingIOError:
            return None

    def stop(self) -> None:
        """Ask the whole group to end; `press` sees to it after the grace."""
        if self._kill_at is None:
            self._kill_at = time.monotonic() + GRACE
            self._signal(signal.SIGTERM)

    def press(self) -> None:
        """Kill the group when it was asked to end and the grace is over."""
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self.kill()

    def kill(self) -> None:
        """End the whole group now."""
        self._signal(signal.SIGKILL)

    def reap(self) -> int:
        """Kill what is left of the group, wait for the command, return its status, negative for a signal."""
        self.kill()
        return self._process.wait()

    def close(self) -> None:
        """Kill what still runs and let go of the pipe."""
        self.reap()
        for number in (self.output, self.ending):
            if number is not None:
                os.close(number)
        self.output, self.ending = -1, None

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the group; once the command was reaped its number may be another's."""
        if self._process.returncode is None:
            try:
                os.killpg(self.pid, number)
            except (ProcessLookupError, PermissionError):
                return


def _tie_to(parent: int) -> Callable[[], None]:
    """Return what the child does to itself before it becomes the command: die with `parent`, dump no core."""

    def tie() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def _open_pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when `pid` ends, where the system has such."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def kill_strays(patience: float = 2.0) -> None:
    """Kill every child of this process, also those that came to it as orphans, until none is left.

    Only for a process whose children are all a function's: `guard_self` made it their heir.
    """
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        for pid in _children():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        time.sleep(0.005)


def _children() -> Iterator[int]:
    """Yield the numbers of this process's children, as /proc tells them."""
    ours = str(os.getpid())
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stat:
                # The name of the command stands in parentheses and may hold anything, also parentheses.
                if stat.read().rpartition(")")[2].split()[1] == ours:
                    yield int(name)
        except (OSError, IndexError):
            continue


class Workspace:
    """The attempt's folder, ours alone for as long as this process lives, and gone afterwards."""

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
        """Return all of the environment that a function sees."""
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
        """Make a fresh folder and lock it: what is not locked is left over, and swept away by others."""
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
        """Remove what runners that were killed have left in the same place."""
        for name in os.listdir(self._scratch):
            path = os.path.join(self._scratch, name)
            lock = _lock(path) if name.startswith(PREFIX) else None
            if lock is not None:
                remove_tree(path)
                os.close(lock)


def _lock(path: str) -> int | None:
    """Lock a folder, unless another process has; the lock ends with the process."""
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
    """Remove a folder and all that a function left in it, however deep or locked it is; never follow a link.

    Folders are moved up before they are emptied: a path never grows, so no depth is too deep.
    """
    numbers = itertools.count()
    seen: list[str] = []
    try:
        while (names := _unlocked(root)) and names != seen:
            seen = names
            for name in names:
                _remove_one(root, os.path.join(root, name), numbers)
        os.rmdir(root)
    except OSError:
        return


def _unlocked(folder: str) -> list[str]:
    """Return what is in a folder, in order, after making it one that may be read and changed."""
    os.chmod(folder, 0o700)
    return sorted(os.listdir(folder))


def _remove_one(root: str, path: str, numbers: Iterator[int]) -> None:
    """Remove a file, or move the folders of a folder up into `root` and remove it."""
    try:
        if not _is_folder(path):
            os.unlink(path)
            return
        for name in _unlocked(path):
            inner = os.path.join(path, name)
            if _is_folder(inner):
                # To move a folder is to write its "..", which a locked one does not allow.
                os.chmod(inner, 0o700)
                os.rename(inner, os.path.join(root, f"moved-{os.getpid()}-{next(numbers)}"))
            else:
                os.unlink(inner)
        os.rmdir(path)
    except OSError:
        return


def _is_folder(path: str) -> bool:
    """Whether this is a folder itself, not a link to one."""
    return os.path.isdir(path) and not os.path.islink(path)
