"""Several processes on one port: a parent that serves nothing, and its children, which share its sockets.

The parent has one thread, so that a fork is safe. Signals to it concern the whole service; its children ignore SIGTERM
and SIGINT, which a terminal or a service manager may send to all of them at once. They drain at the end of a pipe that
only the parent holds, so they end with it, even if it is killed.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

log = logging.getLogger(__name__)

RESTART = 1.0
"""Seconds before a process that ended is restarted."""

ENDING = frozenset({signal.SIGTERM, signal.SIGINT})
"""The signals that end the service."""


class Child(NamedTuple):
    """A process of the service: its name, and the program of the scheduler, or None for a server."""

    name: str
    command: tuple[str, ...] | None = None


class Family:
    """The processes of a service. `scheduler` is the command of its scheduler, which ends at the end of its input.

    `close_door` has the kernel drop requests for new connections, and returns the seconds to wait for others.
    """

    def __init__(self, servers: int, scheduler: Iterable[str] | None, close_door: Callable[[], float]) -> None:
        self._servers, self._close_door = servers, close_door
        self._scheduler = None if scheduler is None else Child("scheduler", tuple(scheduler))
        self._running: dict[int, Child] = {}
        self._due: list[tuple[float, Child]] = []
        self._pipes: dict[bool, tuple[int, int]] = {}
        """The pipes whose ends the schedulers (True) and the servers (False) await."""

    def run(self) -> int | None:
        """Run the processes until SIGTERM or SIGINT; a second signal kills them.

        Returns None at the end, and in a server the descriptor at whose end it has to drain.
        """
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*ENDING, signal.SIGCHLD})
        self._pipes = {True: os.pipe(), False: os.pipe()}
        children = [Child(f"server {number + 1}") for number in range(self._servers)]
        self._due = [(0.0, child) for child in [*children, *filter(None, [self._scheduler])]]
        while True:
            for child in self._take_due():
                if self._fork(child) == 0:
                    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                    return self._become(child)
            if self._wait(RESTART) in ENDING:
                break
        self._end()
        return None

    def _take_due(self) -> list[Child]:
        """Take the processes that are to be started now."""
        now = time.monotonic()
        due = [child for when, child in self._due if when <= now]
        self._due = [(when, child) for when, child in self._due if when > now]
        return due

    def _fork(self, child: Child) -> int:
        """Fork a process; returns 0 in it. If that fails, it is tried again."""
        try:
            pid = os.fork()
        except OSError as error:
            log.error("The %s cannot be started: %s.", child.name, error.strerror)
            self._due.append((time.monotonic() + RESTART, child))
            return -1
        if pid:
            self._running[pid] = child
        return pid

    def _become(self, child: Child) -> int:
        """Become a server, and return the descriptor that it watches; or the scheduler, which does not return."""
        for _, writer in self._pipes.values():
            os.close(writer)
        reader = self._pipes[child.command is not None][0]
        if child.command is not None:
            os.dup2(reader, 0)
            try:
                os.execv(child.command[0], child.command)  # noqa: S606 - an argument list
            finally:
                os._exit(1)
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        return reader

    def _wait(self, seconds: float) -> int | None:
        """Wait for a signal and return it; processes that have ended are due again."""
        signalled = signal.sigtimedwait({*ENDING, signal.SIGCHLD}, seconds)
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            child, code = self._running.pop(pid), os.waitstatus_to_exitcode(status)
            self._due.append((time.monotonic() + RESTART, child))
            if self._pipes:
                log.error("The %s ended with exit status %d and is restarted.", child.name, code)
        return None if signalled is None else signalled.si_signo

    def _end(self) -> None:
        """Let the servers drain, and the scheduler end after them."""
        end = time.monotonic() + self._close_door()
        while (left := end - time.monotonic()) > 0:
            if self._wait(left) in ENDING:
                self._kill()
        pipes, self._pipes = self._pipes, {}
        for is_scheduler in (False, True):
            os.close(pipes[is_scheduler][1])
            while any((child.command is not None) == is_scheduler for child in self._running.values()):
                if self._wait(RESTART) in ENDING:
                    self._kill()

    def _kill(self) -> None:
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)


def await_end(lifeline: int, then: Callable[[], None]) -> None:
    """Wait until the parent has closed its pipe or has ended; then call a function."""
    os.read(lifeline, 1)
    then()
