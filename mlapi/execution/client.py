"""The runner's way to its attempt over REST: calls that are repeated while the lease lasts, and the lease.

Nothing here knows of processes or files of a job. Two threads never share a `Link`.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
import time
from urllib.parse import urlsplit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO

CHUNK = 256 * 1024
TIMEOUT = 10.0
"""Seconds that one step of a call may take: to connect, to send a chunk, to wait for the answer."""

UPLOAD_TIMEOUT = 60.0
"""The same for uploads: the server answers when a large file is safe on its disk."""

FIRST_LEASE = 60.0
"""Seconds to reach the server at all, before it has said how long the lease is."""

OVER = frozenset({401, 403, 404, 409})
"""Statuses that mean: this attempt is no longer ours."""

JSON, BYTES = "application/json", "application/octet-stream"

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Return seconds that only go forward, on Linux also while the machine sleeps, as leases do."""
    return time.clock_gettime(_CLOCK)


class AttemptOver(Exception):
    """The attempt is another's or no one's now: nothing more may be done or said for it."""


class Refused(Exception):
    """The server will never take what was sent; the message says why."""


class Damaged(Exception):
    """What was downloaded is not what was promised."""


class Broken(Exception):
    """There was no whole answer; the call may have had its effect."""


class Lease:
    """The time that is left to act for the attempt; each heartbeat that was answered renews it."""

    def __init__(self) -> None:
        self.cancelled = False
        self.ended: str | None = None
        self._lasts = FIRST_LEASE
        self._until = now() + FIRST_LEASE

    def set_length(self, seconds: float) -> None:
        """Learn how long the server's lease is; ours ends earlier, so that there is time to kill."""
        self._lasts = seconds - min(5.0, seconds / 4)

    def renew(self, sent: float) -> None:
        """Count anew from when the answered heartbeat was sent: the server's lease began no earlier."""
        self._until = sent + self._lasts

    def end(self, why: str) -> None:
        """Let nothing more happen. A signal handler may call this: it takes no lock."""
        if self.ended is None:
            self.ended = why

    def left(self) -> float:
        """Seconds until the lease ends by itself, or none if it has ended."""
        return 0.0 if self.ended else max(0.0, self._until - now())

    @property
    def over(self) -> bool:
        """Whether it has ended, by the server's word or by time."""
        if self.left() <= 0:
            self.end("No heartbeat was answered in time.")
        return self.ended is not None

    def check(self) -> None:
        """Raise `AttemptOver` when it has ended."""
        if self.over:
            raise AttemptOver(self.ended)


class Answer:
    """What the server said: a status and, unless it went elsewhere, the body."""

    __slots__ = ("body", "status")

    def __init__(self, status: int, body: bytes) -> None:
        self.status, self.body = status, body

    @property
    def good(self) -> bool:
        """Whether the server did what it was asked."""
        return 200 <= self.status < 300

    def json(self) -> dict[str, Any]:
        """Return the body as an object, an empty one where it is none."""
        try:
            said = json.loads(self.body)
        except ValueError:
            return {}
        return said if isinstance(said, dict) else {}

    def words(self) -> str:
        """Say what a problem document says, with the fields it names."""
        problem = self.json()
        words = str(problem.get("detail") or problem.get("title") or f"status {self.status}")
        errors = problem.get("errors")
        fields = [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
        named = [f"{error.get('name')}: {error.get('description')}" for error in fields]
        return " ".join([words, "; ".join(named)]).strip()


class Link:
    """One connection that is kept open, and the calls of the attempt's contract over it."""

    def __init__(self, url: str, token: str, lease: Lease) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, blocksize=CHUNK)
        self._path = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}", "Accept": f"{JSON}, */*"}
        self._lease = lease

    def close(self) -> None:
        """Let go of the connection; the next call opens another."""
        self._connection.close()

    def attempt(self) -> dict[str, Any]:
        """Fetch what the attempt is to do."""
        return self.call("GET", "").json()

    def download(self, path: str, target: str, promised: dict[str, Any], alive: Callable[[], None]) -> None:
        """Write what is at `path` to a new file, and raise `Damaged` unless it is what was promised.

        `alive` is called with each chunk: a long download must not cost the lease.
        """
        with open(target, "xb", buffering=0) as out:
            seen = hashlib.sha256()
            size = 0

            def begin() -> None:
                nonlocal seen, size
                seen, size = hashlib.sha256(), 0
                out.seek(0)
                out.truncate()

            def take(chunk: bytes) -> None:
                nonlocal size
                size += len(chunk)
                if size > promised["size"]:
                    raise Damaged
                seen.update(chunk)
                out.write(chunk)
                alive()

            self.call("GET", path, begin=begin, take=take)
        if size != promised["size"] or seen.hexdigest() != promised["sha256"]:
            raise Damaged

    def append_log(self, offset: int, piece: bytes) -> int:
        """Append to the log at `offset`; return where the server's log ends now, which may be elsewhere."""
        answer = self._repeat("PUT", f"/log?offset={offset}", piece, BYTES)
        said = answer.json().get("offset")
        if answer.status == 409 and isinstance(said, int):
            return said
        self._judge(answer)
        return said if isinstance(said, int) else offset + len(piece)

    def upload(self, opened: Callable[[], BinaryIO], size: int) -> str:
        """Send a file of `size` bytes and return its sha256; each try opens it anew."""
        digest = hashlib.sha256()

        def chunks() -> Iterator[bytes]:
            nonlocal digest
            digest = hashlib.sha256()
            with opened() as source:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    yield chunk

        said = self.call("POST", "/outputs", chunks, BYTES, length=size, timeout=UPLOAD_TIMEOUT).json()
        if said.get("sha256") != digest.hexdigest():
            raise Refused("it arrived damaged")
        return digest.hexdigest()

    def report(self, report: dict[str, Any]) -> None:
        """Say how it ended; after this the attempt is over."""
        self.call("POST", "/report", json.dumps(report, allow_nan=False).encode(), timeout=UPLOAD_TIMEOUT)

    def heartbeat(self, timeout: float) -> Answer:
        """Say once that the runner lives; nothing is repeated."""
        return self._once("POST", "/heartbeat", b"{}", JSON, timeout=timeout)

    def call(self, method: str, path: str, body: Any = b"", kind: str = JSON, **options: Any) -> Answer:
        """Repeat a call until it is answered, while the lease holds; return a good answer or raise."""
        answer = self._repeat(method, path, body, kind, **options)
        self._judge(answer)
        return answer

    def _judge(self, answer: Answer) -> None:
        """Raise what an answer that is not good means."""
        if answer.status in OVER:
            self._lease.end(answer.words())
            self._lease.check()
        if not answer.good:
            raise Refused(answer.words())

    def _repeat(self, method: str, path: str, body: Any, kind: str, **options: Any) -> Answer:
        """Make a call until there is an answer that is not the server's own trouble."""
        pause = 0.05
        while True:
            self._lease.check()
            try:
                answer = self._once(method, path, body, kind, **options)
                if answer.status < 500 and answer.status != 429:
                    return answer
            except Broken:
                pass
            time.sleep(min(pause, self._lease.left()))
            pause = min(pause * 2, 2.0)

    def _once(
        self,
        method: str,
        path: str,
        body: bytes | Callable[[], Iterator[bytes]],
        kind: str,
        *,
        length: int | None = None,
        timeout: float = TIMEOUT,
        begin: Callable[[], None] | None = None,
        take: Callable[[bytes], None] | None = None,
    ) -> Answer:
        """Make a call once. The body of a good answer goes to `take`, after `begin`, where they are given."""
        headers = dict(self._headers)
        if method != "GET":
            headers["Content-Type"] = kind
        if length is not None:
            headers["Content-Length"] = str(length)
        response = self._send(method, self._path + path, body, headers, timeout)
        if take is None or begin is None or not 200 <= response.status < 300:
            return Answer(response.status, self._read(response, None))
        begin()
        while chunk := self._read(response, CHUNK):
            take(chunk)
        if response.length:
            # http.client takes an early end for the end when it reads in pieces.
            self.close()
            raise Broken
        return Answer(response.status, b"")

    def _send(
        self, method: str, path: str, body: Any, headers: dict[str, str], timeout: float
    ) -> http.client.HTTPResponse:
        """Send a request and return the beginning of its answer."""
        connection = self._connection
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        try:
            try:
                connection.request(method, path, body() if callable(body) else body or None, headers)
            except ConnectionError:
                # A server that refuses a body may say so and hang up before it has all of it.
                if connection.sock is None:
                    raise
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Broken from error
        except BaseException:
            self.close()
            raise

    def _read(self, response: http.client.HTTPResponse, size: int | None) -> bytes:
        """Read a part of an answer, or all that is left of it."""
        try:
            return response.read(size)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Broken from error


class Heart:
    """What keeps the lease: a heartbeat at each interval, from its own thread while a function runs."""

    def __init__(self, link: Link, lease: Lease, every: float) -> None:
        self._link, self._lease, self._every = link, lease, every
        self._due = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def first(self, link: Link) -> None:
        """Have the first heartbeat answered: before that, nobody knows whether the attempt is ours."""
        sent = now()
        answer = link.call("POST", "/heartbeat", b"{}")
        self._heard(answer, sent)

    def beat_if_due(self) -> None:
        """Send a heartbeat if it is time, and raise `AttemptOver` if it is too late."""
        if now() >= self._due:
            self._beat()
        self._lease.check()

    def start(self) -> None:
        """Beat in the background from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more; what is on its way may still be answered."""
        self._stop.set()

    def _run(self) -> None:
        while not self._lease.over and not self._stop.wait(max(0.0, self._due - now())):
            self._beat()
        self._link.close()

    def _beat(self) -> None:
        sent = now()
        try:
            answer = self._link.heartbeat(max(0.5, min(TIMEOUT, self._lease.left())))
        except Broken:
            self._due = now() + min(self._every, 0.5)
            return
        self._heard(answer, sent)

    def _heard(self, answer: Answer, sent: float) -> None:
        """Take in the answer to the heartbeat that was sent at `sent`."""
        if answer.good:
            self._lease.renew(sent)
            self._due = sent + self._every
            if answer.json().get("cancel") is True:
                self._lease.cancelled = True
        elif answer.status in OVER:
            self._lease.end(answer.words())
        else:
            self._due = now() + min(self._every, 0.5)
