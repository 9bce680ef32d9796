"""The zygote: a process that has loaded the runner, and forks one for every ticket, which takes no start of Python.

It has one thread, so that a fork is safe. It receives descriptors of tickets from the executor over a socket, its
standard input, and reports the starts and ends of its runners. It never reads a ticket. It exits when the executor has
closed the socket; its runners continue.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import struct
from contextlib import suppress

from mlapi.execution.process import PR_SET_DUMPABLE, open_pidfd, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

REQUEST = struct.Struct("!q")
"""A request: the id of the attempt. A descriptor comes with it, from which the runner reads its ticket."""

MESSAGE = struct.Struct("!qqq")
"""A message to the executor: its kind, the id of the attempt, and a value."""

STARTED, ENDED, FAILED = 1, 2, 3
"""The kinds of messages. The values are the process id, the exit status (negative for a signal), and the error number.

On Linux, a pidfd of the runner comes with STARTED.
"""


class Zygote:
    """The runners that have been forked and have not ended, and the connection with the executor."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._attempts: dict[int, int] = {}

    def fork(self) -> bool:
        """Fork a runner for every request. Returns True in a runner, and False at the end of the requests."""
        signal.signal(signal.SIGCHLD, self._reap)
        while True:
            try:
                request, descriptors, _, _ = socket.recv_fds(self._control, REQUEST.size, 1)
            except ConnectionResetError:  # The executor has ended and left messages; its requests come next.
                continue
            if not request:
                return False
            if descriptors and self._fork(REQUEST.unpack(request)[0], descriptors[0]):
                return True

    def _fork(self, attempt: int, ticket: int) -> bool:
        """Fork a runner, and report that. Returns True in the runner, whose standard input is its ticket."""
        # A runner that ends at once is reported after its start, and its id is not reused before.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        try:
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.setsid()
                self._control.detach()
                os.dup2(ticket, 0)
                return True
            self._attempts[pid] = attempt
            self._report_start(attempt, pid)
        except OSError as error:
            self._report(FAILED, attempt, error.errno or 0)
        finally:
            os.close(ticket)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return False

    def _report_start(self, attempt: int, pid: int) -> None:
        pidfd = open_pidfd(pid)
        try:
            self._report(STARTED, attempt, pid, pidfd)
        finally:
            if pidfd is not None:
                os.close(pidfd)

    def _reap(self, *_signal: object) -> None:
        """Report the runners that have ended; the handler of SIGCHLD."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                self._report(ENDED, self._attempts.pop(pid, 0), os.waitstatus_to_exitcode(status))

    def _report(self, kind: int, attempt: int, value: int, descriptor: int | None = None) -> None:
        """Send a message. An executor that has ended needs none."""
        descriptors = [] if descriptor is None else [descriptor]
        with suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._control, [MESSAGE.pack(kind, attempt, value)], descriptors)


def fork_runners(main: Callable[[], int]) -> int:
    """Fork runners, whose program is `main`, until the executor ends. Returns the exit status, also of a runner."""
    # As for a runner: other processes of the same user could read the tickets of all runners.
    prctl(PR_SET_DUMPABLE, 0)
    # The objects that exist now are shared with the runners; a collection would copy them.
    gc.collect()
    gc.freeze()
    return main() if Zygote(socket.socket(fileno=0)).fork() else 0
