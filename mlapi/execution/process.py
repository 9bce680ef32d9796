"""The process of a function: isolated, read without blocking, and killed with every process it started."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mlapi.execution.contract import Usage

GRACE = 0.5
"""Seconds between SIGTERM and SIGKILL."""

CHUNK = 65536
"""Bytes per read from the pipe: the capacity of a pipe on Linux."""

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36

EXHAUSTED = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""Errors of starting a process that are faults of the machine, not of the command."""

_LIBC = ctypes.CDLL(None)


class CannotStart(Exception):
    """The command of a function cannot be started. The message is for the author of the module."""


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process on Linux. Other systems do not support it."""
    if sys.platform == "linux":
        _LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def guard_self() -> None:
    """Protect this process from the function it will run.

    It dumps no core, other processes of the same user cannot read its memory or environment, and processes that a
    function detaches become children of this process, so that `kill_strays` finds them.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1)


class Child:
    """A command in its own session, which inherits nothing but a pipe for its output.

    It must be started before any other thread, because it forks, and from a thread that outlives it: on Linux it is
    killed when that thread ends. Raises `CannotStart`, or `OSError` if the machine has no room for another process.
    """

    def __init__(self, command: Sequence[str], folder: str, environment: Mapping[str, str]) -> None:
        self.output, writer = os.pipe()
        self._started = time.monotonic()
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
                preexec_fn=_die_with(os.getpid()),
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            os.close(self.output)
            if isinstance(error, OSError) and error.errno in EXHAUSTED:
                raise
            reason = getattr(error, "strerror", None) or str(error)
            raise CannotStart(f"The command {command[0]!r} cannot be started: {reason}.") from error
        finally:
            os.close(writer)
        os.set_blocking(self.output, False)
        self.pid = self._process.pid
        self.pidfd = open_pidfd(self.pid)
        self._kill_at: float | None = None

    def exited(self) -> bool:
        """Whether the command has ended. Processes it started may still run."""
        if self._process.returncode is not None:
            return True
        if not hasattr(os, "waitid"):
            return self._process.poll() is not None
        # WNOWAIT keeps the dead process as a zombie, so that its pid remains the id of its group.
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def read(self) -> bytes | None:
        """Return available output, b"" at the end of the pipe, and None if there is no output now."""
        try:
            return os.read(self.output, CHUNK)
        except BlockingIOError:
            return None

    def terminate_group(self) -> None:
        """Send SIGTERM to the group at the first call, and SIGKILL at calls after the grace period."""
        if self._kill_at is None:
            self._kill_at = time.monotonic() + GRACE
            self._signal(signal.SIGTERM)
        elif time.monotonic() >= self._kill_at:
            self.kill_group()

    def kill_group(self) -> None:
        """Kill the group."""
        self._signal(signal.SIGKILL)

    def reap(self) -> int:
        """Kill the rest of the group, wait for the command, and return its status, negative for a signal."""
        self.kill_group()
        return self._process.wait()

    def close(self) -> None:
        """Kill the group and close the pipe."""
        self.reap()
        for descriptor in (self.output, self.pidfd):
            if descriptor is not None:
                os.close(descriptor)
        self.output, self.pidfd = -1, None

    def usage(self) -> Usage:
        """Return what the command has used with all processes that it started, once all of them have ended.

        They must be the only children of this process. The memory is that of the largest process, and at least that
        of this process when it started the command.
        """
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "peak_memory": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 3),
            "wall_seconds": round(time.monotonic() - self._started, 3),
        }

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the group. After the command was reaped, its pid may belong to another process."""
        if self._process.returncode is None:
            try:
                os.killpg(self.pid, number)
            except (ProcessLookupError, PermissionError):
                return


def _die_with(parent: int) -> Callable[[], None]:
    """Return the function that the child runs before the command: it dies with `parent` and dumps no core."""

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def open_pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when `pid` ends, or None if the system has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def kill_strays(timeout: float = 2.0) -> None:
    """Kill every child of this process, including adopted orphans, until none is left.

    Only for a process that called `guard_self`, and whose children all belong to a function.
    """
    end = time.monotonic() + timeout
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
    """Yield the pids of the children of this process, from /proc."""
    own_pid = str(os.getpid())
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stat:
                # The name of the command is in parentheses and may contain anything, including parentheses.
                if stat.read().rpartition(")")[2].split()[1] == own_pid:
                    yield int(name)
        except (OSError, IndexError):
            continue
