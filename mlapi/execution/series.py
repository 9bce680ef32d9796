"""The metrics that a function records while it runs: the lines of output/metrics.jsonl on their way to the server."""

from __future__ import annotations

import math
import threading
import time

from mlapi import strict_json
from mlapi.execution.errors import AttemptOver, JobCancelled, JobFailed, JobReturned, Refused, Rejected
from mlapi.execution.outputs import SERIES, BadOutput, open_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from mlapi.execution.bounds import Bounds
    from mlapi.execution.client import Client
    from mlapi.execution.contract import Point
    from mlapi.execution.log import Log

INTERVAL = 0.5
"""Seconds between two looks at the file."""

BATCH = 500
"""Maximum number of points in a request."""

LINE = 4096
"""Maximum length of a line in bytes."""

CHUNK = 65536
"""Bytes that are read at once."""

NAME = 200
"""Maximum length of the name of a metric in characters."""

INT64 = 2**63

END_OF_TIME = 253_402_300_800
"""The first second after the year 9999, since 1970."""

BROKEN = 1000
"""Number of broken lines after which the file is not read any more."""

FILE_LIMIT = 64 * 2**20
"""Maximum size of the file in bytes; what follows is not read."""


class Series:
    """The points of metrics.jsonl in a folder, which a background thread sends.

    At most `points` points of `names` names are sent. What is not sent is said in the log, once for each cause.
    """

    def __init__(self, client: Client, bounds: Bounds, log: Log, folder: str, points: int, names: int) -> None:
        self._client, self._bounds, self._log, self._folder = client, bounds, log, folder
        self._limit, self._names_limit = points, names
        self._file: BinaryIO | None = None
        self._rest, self._line = b"", 0
        self._overlong = False
        self._names: set[str] = set()
        self._pending: list[Point] = []
        self._read = self._sent = self._broken = 0
        self._over = False
        self._said: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Send in the background from now on."""
        self._thread.start()

    def close(self) -> None:
        """Wait until all points are sent, or cannot be, which is then said in the log."""
        self._closing.set()
        self._thread.join()
        if self._file is not None:
            self._file.close()

    def _run(self) -> None:
        try:
            while not self._closing.wait(INTERVAL):
                try:
                    self._forward()
                except (Refused, JobCancelled, JobFailed, JobReturned):
                    # A function that is being stopped may still write. What is not sent now is sent at the end.
                    continue
            self._forward(b"\n")
        except (Rejected, Refused) as error:
            self._say("refused", f"The points from number {self._sent + 1} on are not recorded: {error}")
        except (AttemptOver, JobCancelled, JobFailed, JobReturned):
            # The attempt ends, as its bounds show the other threads.
            return
        finally:
            self._client.close()

    def _forward(self, end: bytes = b"") -> None:
        """Send what the file has got since the last look; `end` completes the last line."""
        for chunk in self._chunks():
            self._parse(chunk)
            self._send()
        self._parse(end)
        self._send()

    def _chunks(self) -> Iterator[bytes]:
        """Yield what the file has got since the last look."""
        try:
            if self._file is None:
                self._file = open_output(self._folder, SERIES)
            while not self._over:
                self._bounds.check()
                chunk = self._file.read(CHUNK)
                if self._file.tell() > FILE_LIMIT:
                    self._finish(f"{SERIES} is larger than {FILE_LIMIT} bytes; the rest is ignored.")
                elif chunk:
                    yield chunk
                else:
                    return
        except (BadOutput, OSError):
            return  # There is no such file yet, or it is not a file.

    def _parse(self, chunk: bytes) -> None:
        """Take the points of the complete lines; the rest waits for the next chunk."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if self._over:
                return
            self._line += 1
            if self._overlong:
                self._overlong = False
            elif line.strip():
                self._take(line)
        if len(self._rest) > LINE:
            if not self._overlong:
                self._skip(f"it has more than {LINE} bytes", self._line + 1)
            self._rest, self._overlong = b"", True

    def _take(self, line: bytes) -> None:
        """Take the point of a line, within the limits."""
        try:
            if len(line) > LINE:
                raise ValueError(f"it has more than {LINE} bytes")
            point = parse(line)
        except ValueError as error:
            self._skip(str(error), self._line)
            return
        if point["name"] not in self._names and len(self._names) >= self._names_limit:
            self._say("names", f"Metrics have more than {self._names_limit} names; the others are ignored.")
        else:
            self._names.add(point["name"])
            self._pending.append(point)
            self._read += 1
            if self._read == self._limit:
                self._finish(f"Metrics have the maximum of {self._limit} points; further ones are ignored.")

    def _send(self) -> None:
        """Send the pending points in batches, and continue where the server's points end."""
        while self._pending:
            batch = self._pending[:BATCH]
            end = self._client.append_points(self._sent, batch)
            if not self._sent < end <= self._sent + len(batch):
                raise Rejected(f"the server has {end} points")
            del self._pending[: end - self._sent]
            self._sent = end

    def _skip(self, problem: str, line: int) -> None:
        """Ignore a broken line."""
        self._say("broken", f"Line {line} of {SERIES} is ignored, and so are further ones that are wrong: {problem}.")
        self._broken += 1
        if self._broken == BROKEN:
            self._finish(f"{SERIES} has {BROKEN} lines that are wrong; the rest is ignored.")

    def _finish(self, message: str) -> None:
        """Read no further."""
        self._over = True
        self._log.note(message)

    def _say(self, cause: str, message: str) -> None:
        if cause not in self._said:
            self._said.add(cause)
            self._log.note(message)


def parse(line: bytes) -> Point:
    """Return the point in a line, or raise `ValueError`. Without a time, it is now."""
    document = strict_json.loads(line)
    if not isinstance(document, dict) or not document.keys() <= {"name", "value", "step", "time"}:
        raise ValueError("it is not an object with name, value, and perhaps step and time")
    name, value, step = (document.get(key) for key in ("name", "value", "step"))
    moment = document.get("time", time.time())
    if not isinstance(name, str) or not 0 < len(name) <= NAME or not name.isprintable():
        raise ValueError(f"the name is not a text of 1 to {NAME} characters")
    if step is not None and (isinstance(step, bool) or not isinstance(step, int) or not -INT64 <= step < INT64):
        raise ValueError("the step is not an integer")
    if not 0 <= _number("time", moment) < END_OF_TIME:
        raise ValueError("the time is not in seconds since 1970")
    return {"name": name, "value": _number("value", value), "step": step, "time": _number("time", moment)}


def _number(what: str, value: object) -> float:
    """Return a finite number, or raise `ValueError`."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"the {what} is not a number")
    return value
