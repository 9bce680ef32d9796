"""A cheap HTTP client: one persistent connection and prepared requests."""

import json
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

PIECE = 256 * 1024
"""Number of bytes to receive at once."""

TIMEOUT = 300.0
"""Timeout in seconds; syncing a large file can take long."""


class Refused(Exception):
    """The server returned an error."""


def path_of(url: str) -> str:
    """The path of a URL."""
    return urlsplit(url).path


class Connection:
    """A connection to a server on this machine, with the token of the caller."""

    def __init__(self, port: int, token: str = "") -> None:
        self.port, self.token = port, token
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._left = b""

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    def request(self, method: str, path: str, body: Any = None) -> bytes:
        """The bytes of a request, optionally with a JSON body."""
        if body is None:
            return self._head(method, path)
        content = json.dumps(body).encode()
        return self._head(method, path, "application/json", len(content)) + content

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Make a request; returns the JSON document of the response."""
        return json.loads(self.send(self.request(method, path, body)))

    def send(self, request: bytes) -> bytes:
        """Send a request; returns the body of the response. Raises `Refused` for an error."""
        self._socket.sendall(request)
        return self._answer()

    def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; returns the status and the body of the response, whatever it is."""
        self._socket.sendall(request)
        return self._read_answer()

    def upload(self, method: str, path: str, content_type: str, length: int, pieces: Iterable[bytes]) -> dict[str, Any]:
        """Send a body of `length` bytes in chunks; returns the JSON document of the response."""
        self._socket.sendall(self._head(method, path, content_type, length))
        for piece in pieces:
            self._socket.sendall(piece)
        return json.loads(self._answer())  # type: ignore[no-any-return]

    def download(self, path: str) -> int:
        """Download and discard a path; returns the number of bytes."""
        self._socket.sendall(self._head("GET", path))
        status, length = self._read_head()
        if status != 200:
            raise Refused(f"{path}: {status}")
        buffer = memoryview(bytearray(PIECE))
        missing = length - len(self._left)
        while missing:
            received = self._socket.recv_into(buffer, min(missing, PIECE))
            if not received:
                raise Refused(f"The server hung up {missing} bytes before the end.")
            missing -= received
        self._left = b""
        return length

    def _head(self, method: str, path: str, content_type: str = "", length: int = 0) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        if self.token:
            lines.append(f"Authorization: Bearer {self.token}")
        if content_type:
            lines += [f"Content-Type: {content_type}", f"Content-Length: {length}"]
        return "\r\n".join([*lines, "", ""]).encode()

    def _read_answer(self) -> tuple[int, bytes]:
        status, length = self._read_head()
        while len(self._left) < length:
            self._receive()
        body, self._left = self._left[:length], self._left[length:]
        return status, body

    def _answer(self) -> bytes:
        status, body = self._read_answer()
        if not 200 <= status < 300:
            raise Refused(f"{status} {body[:500].decode(errors='replace')}")
        return body

    def _read_head(self) -> tuple[int, int]:
        """Read the head of a response; returns the status and the length of the body."""
        while (end := self._left.find(b"\r\n\r\n")) < 0:
            self._receive()
        head, self._left = self._left[: end + 2].lower(), self._left[end + 4 :]
        _, found, length = head.partition(b"\r\ncontent-length:")
        if not found:
            raise Refused("The answer does not say how long it is.")
        return int(head[9:12]), int(length.partition(b"\r\n")[0])

    def _receive(self) -> None:
        piece = self._socket.recv(PIECE)
        if not piece:
            raise Refused("The server hung up.")
        self._left += piece
