"""The log of an attempt on its way to the server."""

from __future__ import annotations

import re
import threading
import time

from mlapi.execution.errors import AttemptOver, JobCancelled, JobFailed, JobReturned, Refused, Rejected

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlapi.execution.client import Client

INTERVAL = 0.2
"""Seconds between two uploads of the log."""

LAST_LINES, LAST_CHARACTERS = 5, 500
"""The maximum number of lines and of characters of the end of the log in the reason of a failure."""

TAIL = 4096
"""Bytes of the end of the log that are kept for this."""

ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
"""A control sequence of a terminal, such as a color."""

NOTES = 4096
"""Bytes for the lines of the runner at the end of a log that is over its limit."""

CHUNK = 256 * 1024
"""The maximum size of an upload in bytes, unless the service has a lower limit."""


class Log:
    """A buffer of the log, which a background thread uploads.

    Bytes over the limit are dropped. The last lines, which are within the limit, are the notes for which there was no
    room before, and the number of dropped bytes. `piece` is the maximum size of an upload. `problem` is the reason why
    a part of the log is not at the server, or None.
    """

    def __init__(self, client: Client, limit: int, piece: int) -> None:
        self._client, self._limit, self._piece = client, limit, min(CHUNK, piece)
        self.problem: Refused | Rejected | None = None
        self._pending, self._tail, self._notes = bytearray(), bytearray(), bytearray()
        self._written = self._sent = self._offset = 0
        # Until the end, enough bytes are held back for the longest notice.
        self._sendable = limit - NOTES - len(self._notice(10**15))
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def start(self) -> None:
        """Upload in the background from now on."""
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Append to the log. This never waits for the network."""
        with self._changed:
            self._pending += data[: max(0, self._limit - self._written)]
            self._written += len(data)
            self._tail += data[-TAIL:]
            del self._tail[:-TAIL]
            self._changed.notify()

    def note(self, message: str) -> None:
        """Append a line of the runner, at the end if the function leaves no room for it here."""
        line = f"[mlapi] {message[:LAST_CHARACTERS]}\n".encode(errors="replace")
        with self._changed:
            if self._written + len(line) <= self._sendable:
                self.write(line)
            elif len(self._notes) + len(line) <= NOTES:
                self._notes += line

    def last_lines(self) -> str:
        """The last lines of all that was written, without control characters."""
        text = ESCAPE.sub("", self._tail.decode(errors="replace")).replace("\t", " ")
        lines = ["".join(filter(str.isprintable, line)).rstrip() for line in text.splitlines()]
        end = "\n".join([line for line in lines if line][-LAST_LINES:])
        return end if len(end) <= LAST_CHARACTERS else f"…{end[1 - LAST_CHARACTERS :]}"

    def close(self) -> None:
        """Wait until the log is uploaded, or cannot be, which is then the `problem`."""
        with self._changed:
            if not self._closing:
                self._append_notes()
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _notice(self, dropped: int) -> bytes:
        limit = f"[mlapi] Log limit of {self._limit} bytes reached: {dropped} bytes dropped.\n"
        return b"\n" + self._notes + limit.encode()

    def _append_notes(self) -> None:
        """Append the notes; if the limit is exceeded, they replace the last bytes, which were held back for them."""
        if self._written + len(self._notes) <= self._limit:
            self._pending += self._notes
            return
        kept = self._limit - len(self._notice(self._written))
        self._pending = self._pending[: max(0, kept - self._sent)]
        self._pending += self._notice(self._written - self._sent - len(self._pending))[: self._limit - self._sent]

    def _run(self) -> None:
        try:
            while data := self._next():
                self._try(data)
        except (Rejected, Refused) as error:
            self.problem = error
        except (AttemptOver, JobCancelled, JobFailed, JobReturned):
            # The attempt ends, as its bounds show the other threads.
            return

    def _try(self, data: bytes) -> None:
        """Upload data, or raise what prevents it. Until the log is closed, that may pass."""
        try:
            self._upload(data)
        except (Refused, JobCancelled, JobFailed, JobReturned):
            # A function that is being stopped may still write, and its log is uploaded before the report.
            if self._closing:
                raise
            time.sleep(INTERVAL)

    def _next(self) -> bytes:
        """Wait for data and return it, or no data at the end of the log."""
        with self._changed:
            if not self._closing and self._sent:
                self._changed.wait_for(lambda: self._closing, INTERVAL)
            self._changed.wait_for(lambda: self._closing or (self._pending and self._sent < self._sendable))
            size = self._piece if self._closing else min(self._piece, self._sendable - self._sent)
            return bytes(self._pending[:size])

    def _upload(self, data: bytes) -> None:
        """Upload data, and continue where the server's log ends."""
        end = self._client.append_log(self._offset, data)
        if end == self._offset:
            raise Rejected("the server accepts no more of the log")
        accepted = min(max(0, end - self._offset), len(data))
        with self._changed:
            del self._pending[:accepted]
            self._sent += accepted
        self._offset = end
