"""The second phase of an attempt: running the function under its limits, and passing on its log."""

from __future__ import annotations

import selectors
import signal
import time

from mlapi.execution.errors import JobCancelled, JobFailed
from mlapi.execution.process import CannotStart, Child, kill_strays

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlapi.execution.lease import Lease
    from mlapi.execution.log import Log
    from mlapi.execution.workspace import Workspace

INTERVAL = 0.2
"""Seconds between two checks of the time limit and of cancellation."""

DRAIN_TIME = 0.5
"""Seconds to read the rest of the log after every process of the function should be dead."""


def start(command: list[str], python: str, workspace: Workspace) -> Child:
    """Start the command of a module. The program "python" stands for `python`."""
    program, *arguments = command
    program = python if program in ("python", "python3") else program
    try:
        return Child([program, *arguments], workspace.module, workspace.environment(python))
    except CannotStart as error:
        raise JobFailed(str(error)) from error


def watch(child: Child, log: Log, lease: Lease, timeout: float) -> JobFailed | JobCancelled | None:
    """Wait until the function has ended, with every process it started. Returns why the job does not succeed."""
    stopped = _wait(child, log, lease, timeout)
    status = child.reap()
    kill_strays()
    _drain(child, log)
    if stopped is None and lease.cancelled:
        return JobCancelled()
    return stopped or _failure(status)


def _wait(child: Child, log: Log, lease: Lease, timeout: float) -> JobFailed | JobCancelled | None:
    """Read the log until the child exits. Returns why it was stopped, if it was."""
    deadline = time.monotonic() + timeout
    stopped: JobFailed | JobCancelled | None = None
    with selectors.DefaultSelector() as selector:
        for descriptor in (child.output, child.pidfd):
            if descriptor is not None:
                selector.register(descriptor, selectors.EVENT_READ)
        while not child.exited():
            ready = [key.fd for key, _ in selector.select(INTERVAL)]
            if child.output in ready and _copy(child, log) == b"":
                selector.unregister(child.output)
            if lease.over:
                child.kill_group()
                continue
            if stopped is None and lease.cancelled:
                stopped = JobCancelled()
            elif stopped is None and time.monotonic() >= deadline:
                stopped = JobFailed(f"The function was stopped after its time limit of {timeout:g} s.")
            if stopped:
                child.terminate_group()
    return stopped


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
