"""A client that costs little: one connection that is kept, and requests that are made beforehand."""

import json
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

PIECE = 256 * 1024
"""Bytes that are received at a time."""

TIMEOUT = 300.0
"""Seconds without a byte after which a server counts as stuck; syncing a large file may take long."""


class Refused(Exception):
    """The server did not do what it was asked."""


def path_of(url: str) -> str:
    """The path of a URL that the service gave."""
    return urlsplit(url).path


class Connection:
    """One connection to a server on this machine, and the token of who speaks."""

    def __init__(self, port: int, token: str = "") -> None:
        self.token = token
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._left = b""

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    def request(self, method: str, path: str, body: Any = None) -> bytes:
        """The bytes of a request, with a JSON body unless there is none."""
        if body is None:
            return self._head(method, path)
        content = json.dumps(body).encode()
        return self._head(method, path, "application/json", len(content)) + content

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Make a request; returns the JSON of the answer."""
        return json.loads(self.send(self.request(method, path, body)))

    def send(self, request: bytes) -> bytes:
        """Send a request; returns the body of a good answer, raises `Refused` on any other."""
        self._socket.sendall(request)
        return self._answer()

    def upload(self, method: str, path: str, content_type: str, length: int, pieces: Iterable[bytes]) -> dict[str, Any]:
        """Send a body of `length` bytes piece by piece; returns the JSON of the answer."""
        self._socket.sendall(self._head(method, path, content_type, length))
        for piece in pieces:
            self._socket.sendall(piece)
        return json.loads(self._answer())  # type: ignore[no-any-return]

    def download(self, path: str) -> int:
        """Receive what is at a path and forget it; returns the number of its bytes."""
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

    def _answer(self) -> bytes:
        status, length = self._read_head()
        while len(self._left) < length:
            self._receive()
        body, self._left = self._left[:length], self._left[length:]
        if not 200 <= status < 300:
            raise Refused(f"{status} {body[:500].decode(errors='replace')}")
        return body

    def _read_head(self) -> tuple[int, int]:
        """Read to the end of an answer's head; returns its status and the length of its body."""
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
