"""The second phase of an attempt: running the function under its limits, and passing on its log."""

from __future__ import annotations

import errno
import selectors
import signal
import time

from mlapi.execution.errors import WORKER, AttemptOver, JobFailed, JobReturned
from mlapi.execution.process import CannotStart, Child, kill_strays

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlapi.execution.bounds import Bounds
    from mlapi.execution.log import Log
    from mlapi.execution.workspace import Workspace

ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC})
"""Errors of starting a program that is absent, or is no program."""

INTERVAL = 0.2
"""Seconds between two checks of the bounds."""

STOP_TIME = 1.0
"""Seconds between the ends of a function and of its runner, if a service manager stops all processes together."""

DRAIN_TIME = 0.5
"""Seconds to read the rest of the log after every process of the function should be dead."""


def start(command: list[str], python: str, workspace: Workspace) -> Child:
    """Start the command of a module. The program "python" stands for `python`."""
    program, *arguments = command
    interpreted = program in ("python", "python3")
    try:
        return Child([python if interpreted else program, *arguments], workspace.module, workspace.environment(python))
    except CannotStart as error:
        if interpreted and getattr(error.__cause__, "errno", None) in ABSENT:
            raise JobReturned(f"The machine has no Python interpreter {python!r}.", WORKER) from error
        raise JobFailed(str(error)) from error


def watch(child: Child, log: Log, bounds: Bounds) -> JobFailed | None:
    """Wait until the function has ended, with every process it started. Returns how it failed, or None.

    Raises what ended the attempt otherwise.
    """
    end = _wait(child, log, bounds)
    status = child.reap()
    kill_strays()
    _drain(child, log)
    if end is None and status in (-signal.SIGTERM, 128 + signal.SIGTERM):
        end = _stopped_together(bounds)
    if end is None and isinstance(later := bounds.end(), Exception) and not isinstance(later, JobFailed):
        end = later
    if end is None or isinstance(end, JobFailed):
        return end or _failure(status)
    raise end


def _wait(child: Child, log: Log, bounds: Bounds) -> Exception | None:
    """Read the log until the child exits. Returns why it was stopped, if it was."""
    end: Exception | None = None
    with selectors.DefaultSelector() as selector:
        for descriptor in (child.output, child.pidfd):
            if descriptor is not None:
                selector.register(descriptor, selectors.EVENT_READ)
        while not child.exited():
            ready = [key.fd for key, _ in selector.select(INTERVAL)]
            if child.output in ready and _copy(child, log) == b"":
                selector.unregister(child.output)
            end = end or bounds.end()
            if end is not None:
                # Another runner may already have the job, once the lease is over.
                if isinstance(end, AttemptOver) or bounds.lease.over:
                    child.kill_group()
                else:
                    child.terminate_group()
    return end


def _stopped_together(bounds: Bounds) -> Exception | None:
    """Wait for the runner to be stopped as well, as service managers stop all processes of a service at once."""
    until = time.monotonic() + STOP_TIME
    while (end := bounds.end()) is None and time.monotonic() < until:
        time.sleep(INTERVAL / 4)
    return end


def _copy(child: Child, log: Log) -> bytes | None:
    """Copy the available output to the log, and return it as `Child.read` does."""
    data = child.read()
    if data:
        log.write(data)
    return data


def _drain(child: Child, log: Log) -> None:
    """Copy the rest of the output to the log, until it ends or takes too long."""
    end = time.monotonic() + DRAIN_TIME
    while (data := _copy(child, log)) != b"" and time.monotonic() < end:
        if data is None:
            time.sleep(0.005)


def _failure(status: int) -> JobFailed | None:
    """Return the failure that an exit status means."""
    if status < 0:
        return JobFailed(f"The function was killed by signal {_signal_name(-status)}.")
    if status:
        return JobFailed(f"The function ended with exit status {status}.")
    return None


def _signal_name(number: int) -> str:
    """Return the number and the name of a signal."""
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)
