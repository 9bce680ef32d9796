"""The application behind a real socket, and a real PostgreSQL whose connections are cut or whose processes stop."""

import http.client
import random
import signal
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from waitress.server import create_server

from tests.processes import Answer, family, process

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of a socket that is closed with a reset."""


@contextmanager
def serving(wsgi: Any, threads: int = 4) -> Iterator[int]:
    """Serve an application in this process with waitress; yields the port."""
    sockets: dict[int, Any] = {}
    server = create_server(wsgi, map=sockets, host="127.0.0.1", port=0, threads=threads)
    thread = threading.Thread(target=server.run, name="server", daemon=True)
    thread.start()
    try:
        yield int(server.effective_port)
    finally:
        server.trigger.pull_trigger(lambda: server.close())
        server.task_dispatcher.shutdown()
        thread.join(timeout=30)


def ask(port: int, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    """Make a request over a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Length": str(len(body)), **(headers or {})})
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def is_unavailable(answer: Answer) -> bool:
    """Whether a response is the problem document of a database that is not available."""
    return (
        answer.status == 503
        and answer.headers["Content-Type"] == "application/problem+json"
        and int(answer.headers["Retry-After"]) > 0
        and (not answer.content or answer.json["status"] == 503)
    )


class Proxy:
    """A TCP proxy before PostgreSQL that cuts a connection, with the probability `odds`, whenever it carries data."""

    def __init__(self, url: str, seed: int = 0) -> None:
        place = sa.make_url(url)
        self._folder = str(place.query["host"])
        self._random, self.odds, self.cuts = random.Random(seed), 0.0, 0
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = place.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.socket(socket.AF_UNIX)
                server.connect(f"{self._folder}/.s.PGSQL.5432")
                pair = client, server
                with self._lock:
                    self._pairs.add(pair)
                for source, target in (pair, pair[::-1]):
                    threading.Thread(target=self._carry, args=(source, target, pair), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                with self._lock:
                    fate = self._random.random() < self.odds
                    lost = self._random.random() < 0.5
                    self.cuts += fate
                if not (fate and lost):
                    target.sendall(data)
                if fate:
                    break
        self._cut(pair)

    def _cut(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for each in pair:
            with suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # Wakes the thread that receives.
            each.close()

    def cut(self) -> None:
        """Cut all connections."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._cut(pair)

    def close(self) -> None:
        """Stop listening, and cut all connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


@contextmanager
def frozen(url: str) -> Iterator[None]:
    """Stop all processes of a PostgreSQL server for the time of the block."""
    place = sa.make_url(url)
    lock = Path(str(place.query["host"])) / f".s.PGSQL.{place.port or 5432}.lock"
    server = process(int(lock.read_text().split()[0]))
    server.send(signal.SIGSTOP)  # First, so that it starts no process that is not stopped.
    stopped = [server, *family(server.pid)]
    try:
        for each in stopped:
            each.send(signal.SIGSTOP)
        yield
    finally:
        for each in stopped:
            each.send(signal.SIGCONT)
