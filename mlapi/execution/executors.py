"""What carries a ticket to a runner: an executor only starts, stops and watches; it never changes state."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol, cast

import mlapi

KILL_AFTER = 5.0
"""Seconds that a runner has to end its function and leave, before it is killed."""

KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""What a runner keeps of the environment: no password and no setting of the service reaches it."""

# So that coverage.py, which starts itself in each Python by these, sees the runner's code too.
MEASURED = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")

# The package is found where this one was, installed or not, and nothing of its folder can hide a module of
# Python's own: the folder is on the path for that one import only.
BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop()); import mlapi; del sys.path[0]; "
    "from mlapi.execution.runner import main; sys.exit(main())"
)


@dataclass(frozen=True)
class Ticket:
    """What an executor carries: a URL, and a token that is good for this one attempt."""

    attempt_id: int
    url: str
    token: str = field(repr=False)


class Executor(Protocol):
    """Where runners run: on this machine, or on others."""

    def capacity(self) -> int:
        """How many more attempts it can take now."""

    def submit(self, ticket: Ticket) -> None:
        """Start a runner with this ticket."""

    def cancel(self, attempt_id: int) -> None:
        """Stop a runner now. It may be asked twice or too late; it never raises."""

    def poll(self) -> dict[int, int]:
        """Tell the attempts that ended since the last poll, with the exit codes of their runners."""

    def close(self) -> None:
        """Stop watching; what runs goes on."""


class LocalExecutor:
    """Runners as processes of this machine, each in a session of its own.

    One runner is started ahead and waits for its ticket: what it costs to start a Python is spent before
    somebody waits for it. It leaves when this process is gone. Runners with a ticket outlive this process,
    whatever ends it; they keep their leases by themselves.
    """

    def __init__(self, slots: int, scratch: Path, python: str) -> None:
        self._slots, self._scratch, self._python = slots, scratch, python
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._kill_at: dict[int, float] = {}
        self._waiting: subprocess.Popen[bytes] | None = _start_runner()

    def capacity(self) -> int:
        """How many more attempts it can take now."""
        return max(0, self._slots - len(self._running))

    def submit(self, ticket: Ticket) -> None:
        """Give the ticket to the runner that waits, or to a new one."""
        said = {
            "attempt": ticket.url,
            "token": ticket.token,
            "scratch": os.fspath(self._scratch),
            "python": self._python,
        }
        line = json.dumps(said).encode() + b"\n"
        waiting, self._waiting = self._waiting, None
        if waiting is None or not _give(waiting, line):
            waiting = _start_runner()
            _give(waiting, line)
        self._running[ticket.attempt_id] = waiting

    def cancel(self, attempt_id: int) -> None:
        """Ask the runner to stop its function and leave; `poll` kills it when it takes too long."""
        runner = self._running.get(attempt_id)
        if runner is not None and attempt_id not in self._kill_at:
            self._kill_at[attempt_id] = time.monotonic() + KILL_AFTER
            runner.send_signal(signal.SIGTERM)

    def poll(self) -> dict[int, int]:
        """Tell which runners ended, kill those that should have, and have the next one wait."""
        ended = {}
        for attempt_id, runner in list(self._running.items()):
            code = runner.poll()
            if code is not None:
                ended[attempt_id] = code
                del self._running[attempt_id]
                self._kill_at.pop(attempt_id, None)
            elif time.monotonic() >= self._kill_at.get(attempt_id, float("inf")):
                _kill_group(runner)
        if self._waiting is None:
            self._waiting = _start_runner()
        return ended

    def close(self) -> None:
        """Let the runner that waits go; the others go on."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            _kill_group(waiting)
            _hang_up(waiting)
            waiting.wait()
        _LEFT_ALONE.extend(self._running.values())
        self._running = {}


_LEFT_ALONE: list[subprocess.Popen[bytes]] = []
"""Runners that nobody watches any more; `Popen` warns of a running process that is forgotten."""


def _start_runner() -> subprocess.Popen[bytes]:
    """Start a runner that waits for its ticket."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(mlapi.__file__)))
    return subprocess.Popen(
        [sys.executable, "-P", "-c", BOOT, package],
        stdin=subprocess.PIPE,
        stdout=2,
        env={name: os.environ[name] for name in KEPT + MEASURED if name in os.environ},
        start_new_session=True,
    )


def _give(runner: subprocess.Popen[bytes], line: bytes) -> bool:
    """Hand over a ticket; say whether there was somebody to take it."""
    if runner.poll() is not None:
        _hang_up(runner)
        return False
    try:
        with cast("IO[bytes]", runner.stdin) as stdin:
            stdin.write(line)
    except OSError:
        return False
    return True


def _hang_up(runner: subprocess.Popen[bytes]) -> None:
    """Close a runner's stdin: it leaves unless it has its ticket."""
    if runner.stdin is not None:
        runner.stdin.close()


def _kill_group(runner: subprocess.Popen[bytes]) -> None:
    """Kill a runner; its function dies with it."""
    try:
        os.killpg(runner.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
