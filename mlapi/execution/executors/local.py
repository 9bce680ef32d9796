"""Runners as processes on this machine."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import mlapi
from mlapi.execution import leftovers
from mlapi.execution.executors.base import Ticket
from mlapi.execution.zygote import ENDED, MESSAGE, REQUEST, STARTED

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

KILLED = 10.0
"""Seconds to wait for the end of a killed runner."""

RETRY = 1.0
"""Seconds after which the start of a zygote is tried again."""

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""The environment variables that a runner inherits. No password and no setting of the service is among them."""

# coverage.py starts itself in any Python process that has these, and so measures the runner too.
COVERAGE = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")

# The zygote imports this package from where it was imported here, installed or not. The folder is on the path for that
# import only, so that no file beside the package can shadow a module of the standard library.
BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop()); import mlapi; del sys.path[0]; "
    "from mlapi.execution.runner import load, main; from mlapi.execution.zygote import fork_runners; "
    "load(); sys.exit(fork_runners(main))"
)


class Message(NamedTuple):
    """A message of the zygote."""

    kind: int
    attempt: int
    value: int
    pidfd: int | None


class Zygote:
    """The process that forks runners (`mlapi.execution.zygote`), as the executor sees it."""

    def __init__(self) -> None:
        package = os.path.dirname(os.path.dirname(os.path.abspath(mlapi.__file__)))
        self.control, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", BOOT, package],
                    stdin=theirs.fileno(),
                    stdout=2,
                    env={name: os.environ[name] for name in INHERITED + COVERAGE if name in os.environ},
                    start_new_session=True,
                )
            except BaseException:
                self.control.close()
                raise
        self.control.setblocking(False)
        self.lives = True

    def request(self, attempt: int, ticket: bytes) -> None:
        """Request a runner for a ticket, which goes through a pipe. Raises `OSError`."""
        reader, writer = os.pipe()
        try:
            os.set_blocking(writer, False)  # A ticket is smaller than a pipe.
            os.write(writer, ticket)
            socket.send_fds(self.control, [REQUEST.pack(attempt)], [reader])
        finally:
            os.close(reader)
            os.close(writer)

    def messages(self) -> Iterator[Message]:
        """Yield the messages that have arrived. After the last one of a zygote that has ended, `lives` is False."""
        while self.lives:
            try:
                data, descriptors, _, _ = socket.recv_fds(self.control, MESSAGE.size, 1)
            except BlockingIOError:
                return
            except ConnectionResetError:  # It has not read all requests.
                data, descriptors = b"", []
            if len(data) == MESSAGE.size:
                kind, attempt, value = MESSAGE.unpack(data)
                yield Message(kind, attempt, value, descriptors[0] if descriptors else None)
            else:
                self.lives = False

    def kill(self) -> None:
        """Kill it; its runners continue."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Let it fork the runners that have been requested, and wait until it has ended."""
        self.control.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILLED)
        self.kill()


class LocalExecutor:
    """An executor that runs runners as processes on this machine, each in its own session.

    They are forked by a zygote, so that no job waits for the start of Python. It exits with this process. Runners
    outlive both, however they end, and renew their own leases.
    """

    def __init__(self, scratch: Path, python: str) -> None:
        self._scratch, self._python = scratch, python
        self._zygote: Zygote | None = None
        self._requested: set[int] = set()
        self._running: dict[int, int] = {}
        """Descriptors that stand for the runners of attempts. Those of an earlier scheduler are not of this zygote."""
        self._adopted: set[int] = set()
        self._ended: dict[int, int | OSError | None] = {}
        self._next_start = 0.0
        self._start_ahead()

    def submit(self, ticket: Ticket) -> None:
        """Request a runner for the ticket."""
        document = {
            "attempt": ticket.url,
            "token": ticket.token,
            "scratch": os.fspath(self._scratch),
            "python": self._python,
        }
        line = json.dumps(document).encode() + b"\n"
        if self._zygote is not None:
            try:
                self._zygote.request(ticket.attempt_id, line)
            except ConnectionError:
                self._drop_zygote()
        if self._zygote is None:
            self._zygote = Zygote()
            self._zygote.request(ticket.attempt_id, line)
        self._requested.add(ticket.attempt_id)

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
                self._running[attempt_id] = descriptor
                self._adopted.add(attempt_id)
                return True
            os.close(descriptor)
        return False if any(self._scratch.glob(f"{leftovers.prefix(attempt_id)}*")) else None

    def kill(self, attempt_id: int) -> bool:
        """Kill a runner and everything that its attempt has left on this machine."""
        self._receive()
        if attempt_id in self._requested:  # The zygote hangs.
            self._drop_zygote()
        runner = self._running.get(attempt_id)
        if runner is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(runner, signal.SIGKILL)
            if not _has_ended(runner, KILLED):
                return False
        return leftovers.kill(self._scratch, attempt_id)

    def poll(self) -> dict[int, int | OSError | None]:
        """Return the runners that ended, and replace a zygote that has."""
        self._receive()
        for attempt_id in [each for each in self._adopted if _has_ended(self._running[each])]:
            self._end(attempt_id, None)
        self._start_ahead()
        ended, self._ended = self._ended, {}
        return ended

    def descriptors(self) -> list[int]:
        """Return the connection with the zygote, and the runners that are not its own."""
        zygote = [] if self._zygote is None else [self._zygote.control.fileno()]
        return zygote + [self._running[each] for each in self._adopted]

    def close(self) -> None:
        """End the zygote. The runners continue."""
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None
        for descriptor in self._running.values():
            os.close(descriptor)
        self._running, self._requested, self._adopted = {}, set(), set()

    def _receive(self) -> None:
        """Process the messages of the zygote."""
        if self._zygote is None:
            return
        for message in self._zygote.messages():
            self._process(message)
        if not self._zygote.lives:
            log.warning("The zygote has ended, and is replaced. Its runners continue.")
            self._drop_zygote()

    def _process(self, message: Message) -> None:
        """Note the start or the end of a runner."""
        self._requested.discard(message.attempt)
        if message.kind == ENDED:
            self._end(message.attempt, message.value)
        elif message.kind != STARTED:
            self._end(message.attempt, OSError(message.value, os.strerror(message.value)))
        elif message.pidfd is not None:
            self._running[message.attempt] = message.pidfd

    def _end(self, attempt_id: int, code: int | OSError | None) -> None:
        """Note the end of a runner."""
        self._ended[attempt_id] = code
        self._adopted.discard(attempt_id)
        if (descriptor := self._running.pop(attempt_id, None)) is not None:
            os.close(descriptor)

    def _drop_zygote(self) -> None:
        """Do without a zygote that hangs or has ended: adopt its runners, and end the attempts that have none."""
        if self._zygote is None:
            return
        self._zygote.kill()
        for message in self._zygote.messages():
            self._process(message)
        self._zygote.control.close()
        self._zygote = None
        for attempt_id in self._requested:
            self._ended[attempt_id] = None
        self._requested = set()
        self._adopted = set(self._running)

    def _start_ahead(self) -> None:
        """Start a zygote, unless there is one. If that fails, a later call tries again."""
        if self._zygote is None and time.monotonic() >= self._next_start:
            try:
                self._zygote = Zygote()
            except OSError as error:
                log.warning("No zygote can be started: %s.", error.strerror)
                self._next_start = time.monotonic() + RETRY


def _has_ended(runner: int, seconds: float = 0.0) -> bool:
    """Whether a runner ends within some seconds."""
    poll = select.poll()
    poll.register(runner, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
