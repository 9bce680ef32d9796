"""Runners as processes on this machine."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, cast

import mlapi
from mlapi.execution import leftovers
from mlapi.execution.executors.base import Ticket

log = logging.getLogger(__name__)

KILLED = 10.0
"""Seconds to wait for the end of a killed runner."""

RETRY = 1.0
"""Seconds after which the start of an idle runner is tried again."""

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""The environment variables that a runner inherits. No password and no setting of the service is among them."""

# coverage.py starts itself in any Python process that has these, and so measures the runner too.
COVERAGE = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")

# The runner imports this package from where it was imported here, installed or not. The folder is on the path for that
# import only, so that no file beside the package can shadow a module of the standard library.
BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop()); import mlapi; del sys.path[0]; "
    "from mlapi.execution.runner import main; sys.exit(main())"
)


class LocalExecutor:
    """An executor that runs runners as processes on this machine, each in its own session.

    One runner is started ahead and waits for its ticket, so that no job waits for the start of Python. It exits with
    this process. Runners with a ticket outlive this process, however it ends, and renew their own leases.
    """

    def __init__(self, scratch: Path, python: str) -> None:
        self._scratch, self._python = scratch, python
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._adopted: dict[int, int] = {}
        self._idle: subprocess.Popen[bytes] | None = None
        self._next_start = 0.0
        self._start_idle()

    def submit(self, ticket: Ticket) -> None:
        """Send the ticket to the idle runner, or to a new one."""
        document = {
            "attempt": ticket.url,
            "token": ticket.token,
            "scratch": os.fspath(self._scratch),
            "python": self._python,
        }
        line = json.dumps(document).encode() + b"\n"
        runner, self._idle = self._idle, None
        if runner is None or not _send(runner, line):
            runner = _start_runner()
            _send(runner, line)
        self._running[ticket.attempt_id] = runner

    def adopt(self, attempt_id: int) -> bool | None:
        """Watch a runner that an earlier process started; it is found by the folder of its attempt."""
        pid = leftovers.runner(self._scratch, attempt_id)
        if pid is not None:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                return False
            # Only now does the descriptor certainly stand for the runner.
            if leftovers.runner(self._scratch, attempt_id) == pid:
                self._adopted[attempt_id] = descriptor
                return True
            os.close(descriptor)
        return False if any(self._scratch.glob(f"{leftovers.prefix(attempt_id)}*")) else None

    def kill(self, attempt_id: int) -> bool:
        """Kill a runner and everything that its attempt has left on this machine."""
        runner = self._running.get(attempt_id)
        if runner is not None:
            _kill_group(runner)
            try:
                runner.wait(KILLED)
            except subprocess.TimeoutExpired:
                return False
        return leftovers.kill(self._scratch, attempt_id)

    def poll(self) -> dict[int, int | None]:
        """Return the runners that ended, and start the next idle one."""
        ended: dict[int, int | None] = {}
        for attempt_id, runner in list(self._running.items()):
            code = runner.poll()
            if code is not None:
                ended[attempt_id] = code
                del self._running[attempt_id]
        for attempt_id, descriptor in list(self._adopted.items()):
            if select.select([descriptor], [], [], 0)[0]:
                ended[attempt_id] = None
                os.close(self._adopted.pop(attempt_id))
        self._start_idle()
        return ended

    def close(self) -> None:
        """End the idle runner. The others continue."""
        idle, self._idle = self._idle, None
        if idle is not None:
            _kill_group(idle)
            _close_stdin(idle)
            idle.wait()
        _DETACHED.extend(self._running.values())
        self._running = {}
        while self._adopted:
            os.close(self._adopted.popitem()[1])

    def _start_idle(self) -> None:
        """Start the idle runner, unless there is one. If that fails, a later call tries again."""
        if self._idle is None and time.monotonic() >= self._next_start:
            try:
                self._idle = _start_runner()
            except OSError as error:
                log.warning("No runner can be started ahead: %s.", error.strerror)
                self._next_start = time.monotonic() + RETRY


_DETACHED: list[subprocess.Popen[bytes]] = []
"""Runners that are no longer watched. `Popen` warns if a running process is garbage-collected."""


def _start_runner() -> subprocess.Popen[bytes]:
    """Start a runner that waits for its ticket."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(mlapi.__file__)))
    return subprocess.Popen(
        [sys.executable, "-P", "-c", BOOT, package],
        stdin=subprocess.PIPE,
        stdout=2,
        env={name: os.environ[name] for name in INHERITED + COVERAGE if name in os.environ},
        start_new_session=True,
    )


def _send(runner: subprocess.Popen[bytes], line: bytes) -> bool:
    """Write a ticket to the runner, and return whether it was alive to read it."""
    if runner.poll() is not None:
        _close_stdin(runner)
        return False
    try:
        with cast("IO[bytes]", runner.stdin) as stdin:
            stdin.write(line)
    except OSError:
        return False
    return True


def _close_stdin(runner: subprocess.Popen[bytes]) -> None:
    """Close a runner's stdin. A runner without a ticket exits."""
    if runner.stdin is not None:
        runner.stdin.close()


def _kill_group(runner: subprocess.Popen[bytes]) -> None:
    """Kill a runner. Its function dies with it."""
    try:
        os.killpg(runner.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
