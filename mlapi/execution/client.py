"""The REST client of a runner. Requests are repeated until they are accepted, within the bounds of the attempt."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
from urllib.parse import urlsplit

from mlapi.execution.errors import Damaged, JobFailed, NoResponse, Refused, Rejected, TokenRefused
from mlapi.execution.lease import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    from mlapi.execution.bounds import Bounds
    from mlapi.execution.contract import Attempt, Inputs, Point, Report

CHUNK = 256 * 1024
TIMEOUT = 10.0
"""Seconds for one step of a request: to connect, to send a chunk, to wait for the response."""

UPLOAD_TIMEOUT = 60.0
"""The same for uploads and reports."""

STORE_RATE = 2**20
"""Bytes per second that the server stores at least: it responds when all of a large file is safely on its disk."""

PAUSE = 5.0
"""The longest pause in seconds between two repetitions of a request."""

UNAUTHORIZED = 401
"""Status that means that the service does not accept the token."""

ENDED = frozenset({UNAUTHORIZED, 403, 404, 409})
"""Statuses that mean that the attempt has ended, or belongs to another runner."""

JSON, BYTES = "application/json", "application/octet-stream"


class Request:
    """One request to the attempt. A callable body is called again for every repetition."""

    __slots__ = ("body", "content_type", "length", "method", "path", "patience", "timeout")

    def __init__(
        self,
        method: str,
        path: str,
        body: bytes | Callable[[], Iterator[bytes]] = b"",
        *,
        content_type: str = JSON,
        length: int | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.method, self.path, self.body = method, path, body
        self.content_type, self.length, self.timeout = content_type, length, timeout
        # For the response; otherwise a large body would be sent again and again to a server that is storing it.
        self.patience = timeout + (length or 0) / STORE_RATE


class Response:
    """A response: its status, and its body unless that was written elsewhere."""

    __slots__ = ("body", "status")

    def __init__(self, status: int, body: bytes) -> None:
        self.status, self.body = status, body

    @property
    def successful(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    def json(self) -> dict[str, object]:
        """Return the JSON object in the body, or an empty one if there is none."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    def message(self) -> str:
        """Return the message of a problem document, with its field errors."""
        problem = self.json()
        message = str(problem.get("detail") or problem.get("title") or f"status {self.status}")
        errors = problem.get("errors")
        fields = [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
        details = [f"{error.get('name')}: {error.get('description')}" for error in fields]
        return " ".join([message, "; ".join(details)]).strip()


class Download:
    """The file that a response body is written to, with its size and SHA-256."""

    def __init__(self, out: BinaryIO, limit: int, bounds: Bounds) -> None:
        self._out, self._limit, self._bounds = out, limit, bounds
        self.restart()

    def restart(self) -> None:
        """Discard what was written."""
        self.size, self.digest = 0, hashlib.sha256()
        self._out.seek(0)
        self._out.truncate()

    def write(self, chunk: bytes) -> None:
        """Write a chunk, or raise `Damaged` beyond the expected size."""
        self.size += len(chunk)
        if self.size > self._limit:
            raise Damaged
        self.digest.update(chunk)
        # The first write to a disk without space for all of the chunk is short; only the next one fails.
        rest = memoryview(chunk)
        while rest:
            rest = rest[self._out.write(rest) :]
        self._bounds.check()


class Client:
    """One persistent connection, and the requests of the attempt contract over it. Threads must not share a client."""

    def __init__(self, url: str, token: str, bounds: Bounds) -> None:
        parts = urlsplit(url)
        https = parts.scheme == "https"
        connection = http.client.HTTPSConnection if https else http.client.HTTPConnection
        self._connection = connection(parts.hostname or "", parts.port, blocksize=CHUNK)
        self._path = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}", "Accept": f"{JSON}, */*"}
        self._bounds = bounds

    def close(self) -> None:
        """Close the connection. The next request opens another."""
        self._connection.close()

    def interrupt(self) -> None:
        """Make a request that another thread is waiting for fail, without closing anything in this thread."""
        connected = self._connection.sock
        if connected is not None:
            try:
                # Not the method of an SSL socket, which would change the object that the other thread uses.
                socket.socket.shutdown(connected, socket.SHUT_RDWR)
            except OSError:
                return

    def attempt(self) -> Attempt:
        """Return the attempt: what to run, and its limits."""
        attempt: Attempt = json.loads(self.call(Request("GET", "")).body)
        return attempt

    def inputs(self, url: str) -> Inputs:
        """Return a page of the inputs of the attempt, by its URL."""
        query = urlsplit(url).query
        page: Inputs = json.loads(self.call(Request("GET", f"/inputs?{query}")).body)
        return page

    def download(self, path: str, target: str, size: int, sha256: str) -> None:
        """Download `path` to a new file, or raise `Damaged` unless it has this size and SHA-256."""
        with open(target, "xb", buffering=0) as out:
            download = Download(out, size, self._bounds)
            self.call(Request("GET", path), download)
        if download.size != size or download.digest.hexdigest() != sha256:
            raise Damaged

    def append_log(self, offset: int, data: bytes) -> int:
        """Append to the log at `offset`. Returns where the server's log ends, also if that is elsewhere."""
        request = Request("PUT", f"/log?offset={offset}", data, content_type=BYTES)
        return self._append(request, offset + len(data))

    def append_points(self, offset: int, points: Sequence[Point]) -> int:
        """Append points after the `offset` ones of the server. Returns how many it has, also if that is another."""
        body = json.dumps({"points": points}, ensure_ascii=False, allow_nan=False).encode()
        return self._append(Request("PUT", f"/metrics?offset={offset}", body), offset + len(points))

    def _append(self, request: Request, expected: int) -> int:
        """Send a request that appends at an offset. Returns the offset of the end, also if that is elsewhere."""
        response = self._repeat(request, None)
        document = response.json()
        end = document.get("offset")
        if response.status == 409 and isinstance(end, int):
            return end
        if response.status == 409 and "limit" in document:
            raise Rejected(response.message())
        self._check(response)
        return end if isinstance(end, int) else expected

    def upload(self, open_file: Callable[[], BinaryIO], size: int) -> str:
        """Upload a file of `size` bytes and return its SHA-256. Every repetition opens the file again."""
        digest = hashlib.sha256()

        def chunks() -> Iterator[bytes]:
            nonlocal digest
            digest = hashlib.sha256()
            with open_file() as source:
                while chunk := source.read(CHUNK):
                    self._bounds.check()
                    digest.update(chunk)
                    yield chunk

        request = Request("POST", "/outputs", chunks, content_type=BYTES, length=size, timeout=UPLOAD_TIMEOUT)
        if self.call(request).json().get("sha256") != digest.hexdigest():
            raise Rejected("damaged in transfer")
        return digest.hexdigest()

    def report(self, report: Report) -> None:
        """Report the result of the attempt, which ends it. Raises `JobFailed` if the report is rejected."""
        body = json.dumps(report, allow_nan=False).encode()
        self._bounds.reporting = True
        try:
            self.call(Request("POST", "/report", body, timeout=UPLOAD_TIMEOUT))
        except Rejected as error:
            raise JobFailed(f"The report was rejected: {error}") from error

    def call(self, request: Request, download: Download | None = None) -> Response:
        """Repeat a request until it is accepted, and return a successful response.

        Raises `Rejected` for a status that no repetition changes, `Refused` after a time, and what ends the attempt.
        """
        response = self._repeat(request, download)
        self._check(response)
        return response

    def call_once(self, request: Request, download: Download | None = None) -> Response:
        """Send a request once, or raise `NoResponse`. The body of a successful response goes to `download`, if any."""
        headers = dict(self._headers)
        if request.method != "GET":
            headers["Content-Type"] = request.content_type
        if request.length is not None:
            headers["Content-Length"] = str(request.length)
        response = self._send(request, headers)
        if download is None or not 200 <= response.status < 300:
            return Response(response.status, self._read(response, None))
        download.restart()
        while chunk := self._read(response, CHUNK):
            download.write(chunk)
        if response.length:
            # http.client does not report a truncated body that is read in chunks.
            self.close()
            raise NoResponse
        return Response(response.status, b"")

    def _check(self, response: Response) -> None:
        """Raise the error that an unsuccessful response means."""
        if response.status in ENDED:
            self._bounds.lease.end(response.message())
            if response.status == UNAUTHORIZED:
                raise TokenRefused(response.message())
            self._bounds.check()
        if not response.successful:
            raise Rejected(response.message())

    def _repeat(self, request: Request, download: Download | None) -> Response:
        """Repeat a request until there is a response that is no refusal, or raise `Refused`."""
        pause, first, bounds = 0.05, None, self._bounds
        while True:
            bounds.check()
            try:
                response = self.call_once(request, download)
                if response.status < 500 and response.status != 429:
                    bounds.refusal = ""
                    return response
                bounds.refusal = response.message()
            except NoResponse:
                bounds.refusal = bounds.refusal or "There was no response."
            first = first or now()
            if now() - first >= bounds.patience:
                raise Refused(bounds.refusal)
            bounds.sleep(pause)
            pause = min(pause * 2, PAUSE)

    def _send(self, request: Request, headers: dict[str, str]) -> http.client.HTTPResponse:
        """Send a request and return the start of its response."""
        connection = self._connection
        connection.timeout = self._limited(request.timeout)
        if connection.sock is not None:
            connection.sock.settimeout(connection.timeout)
        try:
            try:
                body = request.body() if callable(request.body) else request.body or None
                connection.request(request.method, self._path + request.path, body, headers)
            except ConnectionError:
                # A server that rejects a body may respond and close the connection before it has read all of it.
                if connection.sock is None:
                    raise
            if connection.sock is not None:
                connection.sock.settimeout(self._limited(request.patience))
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise NoResponse from error
        except BaseException:
            self.close()
            raise

    def _limited(self, timeout: float) -> float:
        """Return a timeout that does not outlast the attempt."""
        return max(0.5, min(timeout, self._bounds.remaining()))

    def _read(self, response: http.client.HTTPResponse, size: int | None) -> bytes:
        """Read a chunk of a response body, or the rest of it."""
        try:
            return response.read(size)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise NoResponse from error
