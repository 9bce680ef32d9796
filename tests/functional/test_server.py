"""The server over real sockets: large bodies, malformed requests, and connections while it drains."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.functional.conftest import database_url
from tests.processes import Http, Process, Service, wait_for
from tests.support import API, HOST, command, multipart

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
MEBIBYTE = 2**20
LIMIT = 16 * MEBIBYTE
ALLOWED = LIMIT - MEBIBYTE
END = b"\r\n\r\n"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: Any, tmp_path_factory: Any) -> Any:
    """A service without a scheduler."""
    folder = tmp_path_factory.mktemp(f"server-{request.param}")
    service = Service(folder, database_url(request, folder), upload_limit=LIMIT, module_limit=MEBIBYTE, threads=4)
    try:
        service.prepare()
        yield service
    finally:
        service.close()


class Answer:
    """A response on a raw socket."""

    def __init__(self, connection: "Connection", method: str = "GET") -> None:
        self.status = int(connection.file.readline().split()[1])
        self.headers = http.client.parse_headers(connection.file)
        assert method == "HEAD" or "Content-Length" in self.headers, (self.status, self.headers.items())
        size = 0 if method == "HEAD" else int(self.headers["Content-Length"])
        self.content = connection.file.read(size)

    def is_problem(self, status: int, closes: bool = True) -> str:
        """Assert that this is a problem document with the default headers; returns its detail."""
        assert (self.status, self.headers["Content-Type"]) == (status, "application/problem+json"), self.content
        problem = json.loads(self.content)
        assert problem["status"] == status
        assert self.headers["X-Content-Type-Options"] == "nosniff"
        assert (self.headers["Connection"] == "close") == closes
        return str(problem["detail"])


class Connection:
    """A raw connection to a server."""

    def __init__(self, server: Service) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        self.file = self.socket.makefile("rb")
        self.sendall, self.recv = self.socket.sendall, self.socket.recv

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.file.close()
        self.socket.close()


def head(server: Service, method: str, path: str, *headers: str, known: bool = False) -> bytes:
    """The head of a request, with or without the token of ada."""
    token = [f"Authorization: {server.api.headers['Authorization']}"] if known else []
    path = path if path.startswith("/") else f"{API}/{path}"
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {HOST}", *token, *headers]).encode() + END


def ask(server: Service, sent: bytes, method: str = "GET") -> Answer:
    """Send bytes on a new connection; returns the response."""
    with Connection(server) as connection:
        connection.sendall(sent)
        return Answer(connection, method)


def written(server: Service) -> int:
    """The number of bytes that the server has written, to sockets, files and pipes."""
    assert server.server is not None
    lines = Path(f"/proc/{server.server.pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))


LARGE = f"Content-Length: {ALLOWED}"
JSON = "Content-Type: application/json"
FORM = "Content-Type: multipart/form-data; boundary=x"

REFUSED = {
    "an upload by nobody": (False, "PUT", "users/ada/files?name=x", (LARGE,), 401),
    "a form by nobody": (False, "POST", "users/ada/files", (LARGE, FORM), 401),
    "a module by nobody": (False, "POST", "modules", (LARGE, FORM), 401),
    "an output by nobody": (False, "POST", "attempts/1/outputs", (LARGE,), 401),
    "a GET by nobody": (False, "GET", "files", (LARGE,), 401),
    "credentials": (False, "POST", "auth/token", (LARGE, JSON), 413),
    "no resource": (False, "POST", "nowhere", (LARGE,), 404),
    "another method": (False, "DELETE", "auth/token", (LARGE,), 405),
    "a body of any size by nobody": (False, "POST", "modules", (f"Content-Length: {2**62}", FORM), 401),
    "another host": (False, "POST", "auth/token", (LARGE, "Host: evil.example"), 400),
    "chunks with a wish to continue": (
        False,
        "POST",
        "users/ada/files",
        (FORM, "Transfer-Encoding: chunked", "Expect: 100-continue"),
        401,
    ),
    "JSON by a user": (True, "POST", "users/ada/pipelines", (LARGE, JSON), 413),
    "a view without a body": (True, "GET", "files", (LARGE,), 413),
    "a module by a user": (True, "POST", "modules", ("Content-Length: 1000000", FORM), 403),
    "another user's files": (True, "PUT", "users/bob/files?name=x", ("Content-Length: 1000000",), 404),
    "an upload without a name": (True, "PUT", "users/ada/files", ("Content-Length: 1000000",), 422),
    "a form of another type": (True, "POST", "users/ada/files", ("Content-Length: 1000000", JSON), 415),
    "an upload beyond the limit": (True, "PUT", "users/ada/files?name=x", (f"Content-Length: {LIMIT + 1}",), 413),
    "a form beyond the limit": (
        True,
        "POST",
        "users/ada/files",
        (f"Content-Length: {2 * LIMIT}", FORM),
        413,
    ),
    "a wish to continue": (True, "PUT", "users/ada/files", ("Content-Length: 1000000", "Expect: 100-continue"), 422),
}
"""Requests with a large body that are refused: whether the caller is ada, method, path, headers, and status."""


@pytest.mark.parametrize(("known", "method", "path", "headers", "status"), REFUSED.values(), ids=REFUSED)
def test_a_large_body_is_refused_before_it_is_sent(
    server: Service, known: bool, method: str, path: str, headers: tuple[str, ...], status: int
) -> None:
    ask(server, head(server, method, path, *headers, known=known), method).is_problem(status)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_refused_body_is_not_stored_and_its_client_gets_the_response(server: Service, chunked: bool) -> None:
    content = bytes(8 * MEBIBYTE)
    length = "Transfer-Encoding: chunked" if chunked else LARGE
    before = written(server)
    with Connection(server) as connection:
        connection.sendall(head(server, "PUT", "users/ada/files?name=x", length))
        connection.sendall((b"%x\r\n" % len(content) if chunked else b"") + content)
        Answer(connection).is_problem(401)
        assert connection.recv(1) == b""
    assert written(server) - before < MEBIBYTE


def test_large_bodies_are_accepted_on_a_persistent_connection(server: Service) -> None:
    content = os.urandom(3 * MEBIBYTE)
    form, content_type = multipart({}, "file", "form", content)
    plain = head(server, "PUT", "users/ada/files?name=plain", f"Content-Length: {len(content)}", known=True) + content
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(content[at : at + MEBIBYTE]), content[at : at + MEBIBYTE])
        for at in range(0, len(content), MEBIBYTE)
    )
    chunked = head(server, "PUT", "users/ada/files?name=chunked", "Transfer-Encoding: chunked", known=True)
    kind = f"Content-Type: {content_type}"
    posted = head(server, "POST", "users/ada/files", f"Content-Length: {len(form)}", kind, known=True) + form
    with Connection(server) as connection:
        for sent in (plain, chunked + chunks + b"0\r\n\r\n", posted):
            connection.sendall(sent)
            answer = Answer(connection)
            assert answer.status == 201, answer.content
            assert server.api("GET", json.loads(answer.content)["content"]).content == content


def test_requests_in_a_row_are_answered_in_order(server: Service) -> None:
    content = os.urandom(MEBIBYTE)
    first = head(server, "GET", "modules", known=True)
    second = head(server, "PUT", "users/ada/files?name=x", f"Content-Length: {len(content)}", known=True) + content
    third = head(server, "PUT", "users/ada/files?name=x", LARGE)
    with Connection(server) as connection:
        connection.sendall(first + second + first + third)
        assert [Answer(connection).status for _ in range(4)] == [200, 201, 200, 401]


def test_a_chunked_body_may_have_the_size_of_the_limit(server: Service) -> None:
    sent = head(server, "PUT", "users/ada/files?name=x", "Transfer-Encoding: chunked", known=True)
    chunk = b"%x\r\n%s\r\n" % (LIMIT // 256, bytes(LIMIT // 256))
    assert ask(server, sent + chunk * 256 + b"0\r\n\r\n").status == 201
    assert ask(server, sent + chunk * 256 + b"1\r\nx\r\n0\r\n\r\n").status == 413


def test_a_chunked_body_is_limited(server: Service) -> None:
    with Connection(server) as connection:
        connection.sendall(
            head(server, "PUT", "users/ada/files?name=x", "Transfer-Encoding: chunked", known=True)
            + b"%x\r\n" % (2 * LIMIT)
            + bytes(LIMIT + MEBIBYTE)
        )
        assert Answer(connection).is_problem(413) == f"The body must have at most {LIMIT} bytes."


@pytest.mark.parametrize("after", [b"", b"1\r\nx\r\n0\r\n"], ids=["chunk", "trailer"])
def test_the_head_of_a_chunk_is_limited(server: Service, after: bytes) -> None:
    sent = head(server, "PUT", "users/ada/files?name=x", "Transfer-Encoding: chunked", known=True) + after
    answer = ask(server, sent + b"1" * 20_000)
    assert answer.is_problem(400) == "Malformed request: The head of a chunk is too long."


def test_100_continue_comes_after_the_decision(server: Service) -> None:
    content = os.urandom(MEBIBYTE)
    expect = ("Expect: 100-continue", f"Content-Length: {len(content)}")
    for path in ("users/ada/files?name=x", "users/ada/files?name=y"):
        with Connection(server) as connection:
            connection.sendall(head(server, "PUT", path, *expect, known=True))
            assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(content)
            assert Answer(connection).status == 201
    small = json.dumps({"name": "ada", "password": "x"}).encode()
    with Connection(server) as connection:
        connection.sendall(
            head(server, "POST", "auth/token", "Expect: 100-continue", JSON, f"Content-Length: {len(small)}")
        )
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(small)
        Answer(connection).is_problem(401, closes=False)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_100_continue_without_a_body_is_answered(server: Service, method: str) -> None:
    sent = head(server, method, "modules", "Expect: 100-continue", known=True)
    with Connection(server) as connection:
        for _ in range(2):
            connection.sendall(sent)
            assert Answer(connection).status == {"GET": 200, "DELETE": 405}[method]


MALFORMED = {
    "a large head": (b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000 + END, 431),
    "a bad method": (b"G(T / HTTP/1.1" + END, 400),
    "a method in lower case": (b"get / HTTP/1.1" + END, 400),
    "no request line": (b"nonsense" + END, 400),
    "a bad header": (b"GET / HTTP/1.1\r\nno header" + END, 400),
    "a bare CR": (b"GET / HTTP/1.1\r\nA: x\ry" + END, 400),
    "a negative length": (b"POST / HTTP/1.1\r\nContent-Length: -1" + END, 400),
    "two lengths": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2" + END, 400),
    "a length of 5,000 digits": (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + END, 400),
    "a bad address": (b"GET http://[/ HTTP/1.1" + END, 400),
    "another coding": (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip" + END, 501),
    "a bad chunk": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked" + END + b"xyz\r\n", 400),
    "an unfinished chunk": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked" + END + b"1\r\nxy\r\n0" + END, 400),
}
"""Requests that the server refuses itself."""


@pytest.mark.parametrize(("sent", "status"), MALFORMED.values(), ids=MALFORMED)
def test_an_error_of_the_server_is_a_problem(server: Service, sent: bytes, status: int) -> None:
    detail = ask(server, sent).is_problem(status)
    assert detail.endswith(".")
    assert len(detail) < 300


def test_the_body_of_a_refused_head_request_is_empty(server: Service) -> None:
    assert ask(server, head(server, "HEAD", "files", LARGE), "HEAD").status == 401


@pytest.mark.parametrize(
    "lines",
    [
        ["Host: localhost:x@evil.example"],
        ["Host: localhost", "Host: evil.example"],
        ["Host: localhost, evil.example"],
        ["Host: localhost", "Host: localhost"],
        ["X: y"],
    ],
)
def test_links_lead_to_allowed_hosts_only(server: Service, lines: list[str]) -> None:
    sent = "\r\n".join([f"GET {API} HTTP/1.1", *lines]).encode() + END
    assert ask(server, sent).is_problem(400, closes=False) == "Host not allowed."
    absolute = ask(server, f"GET http://evil.example{API} HTTP/1.1\r\nHost: {HOST}".encode() + END)
    assert json.loads(absolute.content)["files"] == f"http://{HOST}{API}/files"


class Traffic:
    """Clients that make requests all the time, some on new connections and some on persistent ones."""

    def __init__(self, port: int, clients: int = 8) -> None:
        self.port, self.answered = port, 0
        self.failed: list[str] = []
        self.refused = 0
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number % 2 == 0,)) for number in range(clients)]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, persistent: bool) -> None:
        while not self._stopping.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            with closing(connection):
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    self.refused += 1
                    self._stopping.wait(0.05)
                    continue
                try:
                    self._ask_on(connection, persistent)
                except Exception as error:  # noqa: BLE001 - every kind of failure counts
                    self.failed.append(repr(error))

    def _ask_on(self, connection: http.client.HTTPConnection, persistent: bool) -> None:
        while not self._stopping.is_set():
            connection.request("GET", f"{API}", headers={"Host": HOST})
            response = connection.getresponse()
            response.read()
            assert response.status == 200
            self.answered += 1
            if not persistent or response.will_close:
                return


@pytest.fixture
def several(server: Service) -> Iterator[Service]:
    """The service with two processes and a scheduler; afterwards it has one and none."""
    assert server.server is not None
    ini = server.ini.read_text()
    server.ini.write_text(ini.replace("[server:main]\n", "[server:main]\nprocesses = 2\n"))
    try:
        server.end(server.server)
        server.serve(MLAPI_SCHEDULER="true")
        yield server
    finally:
        server.ini.write_text(ini)
        if server.server is not None:
            server.end(server.server)
        server.serve()


def members(service: Service, word: str) -> list[Process]:
    """The children of the server whose command contains a word, once they are as many as there should be."""
    assert service.server is not None
    pid = service.server.pid
    return [each for each in service.family(service.server) if word in each.command and each.parent.pid == pid]


def complete(service: Service) -> bool:
    """Whether two servers and one scheduler are running; a server ignores SIGTERM, which its parent handles."""
    servers = [each for each in members(service, "pserve") if ignores(each.pid, signal.SIGTERM)]
    return len(servers) == 2 and len(members(service, "mlapi.cli.scheduler")) == 1


def test_processes_that_are_killed_are_replaced_and_the_others_answer(several: Service) -> None:
    wait_for(lambda: complete(several), "two servers and one scheduler", 60)
    for word in ("pserve", "mlapi.cli.scheduler"):
        victim = members(several, word)[0]
        victim.send(signal.SIGKILL)
        for _ in range(10):
            several.api("GET", "files")
        wait_for(lambda victim=victim: complete(several) and not victim.lives, "the replacement", 60)


def test_all_processes_end_with_a_parent_that_is_killed(several: Service) -> None:
    wait_for(lambda: complete(several), "two servers and one scheduler", 60)
    assert several.server is not None
    processes = several.family(several.server)
    several.server.kill()
    several.server.wait()
    several.server = None
    wait_for(lambda: not any(each.lives for each in processes), "the end of all processes", 60)


def test_several_processes_complete_what_they_have_accepted_whoever_gets_the_signal(several: Service) -> None:
    wait_for(lambda: complete(several), "two servers and one scheduler", 60)
    assert several.server is not None
    processes = several.family(several.server)
    drain(several, lambda: os.killpg(several.server.pid, signal.SIGTERM))
    wait_for(lambda: not any(each.lives for each in processes), "the end of all processes", 60)


def test_a_second_signal_ends_several_processes_at_once(several: Service) -> None:
    wait_for(lambda: complete(several), "two servers and one scheduler", 60)
    server = several.server
    assert server is not None
    processes = several.family(server)
    with Connection(several) as unfinished:
        unfinished.sendall(b"GET / HTTP/1.1\r\n")
        several.api("GET", "modules")
        server.send_signal(signal.SIGTERM)
        wait_for(lambda: refuses(several), "the end of the acceptance of connections", 60)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0
    several.server = None
    wait_for(lambda: not any(each.lives for each in processes), "the end of all processes", 60)


def test_the_number_of_processes_is_checked(server: Service) -> None:
    ini = server.folder / "wrong.ini"
    ini.write_text(server.ini.read_text().replace("[server:main]\n", "[server:main]\nprocesses = two\n"))
    done = subprocess.run([command("pserve"), ini], env=server.environ, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "[server:main] processes: 'two'" in done.stderr


def refuses(server: Service) -> bool:
    """Whether new connections are refused."""
    try:
        Connection(server).close()
    except ConnectionRefusedError:
        return True
    return False


def drain(server: Service, stop: Callable[[], None]) -> None:
    """Stop a server under traffic, and assert that every request that it has accepted is completed."""
    content = os.urandom(MEBIBYTE)
    assert server.server is not None
    with Traffic(server.port) as traffic, Connection(server) as slow:
        slow.sendall(
            head(server, "PUT", "users/ada/files?name=slow", f"Content-Length: {len(content)}", known=True)
            + content[:-1]
        )
        wait_for(lambda: traffic.answered > 100, "some traffic", 60)
        stop()
        wait_for(lambda: traffic.refused, "the end of the acceptance of connections", 60)
        assert server.server.poll() is None
        slow.sendall(content[-1:])
        assert Answer(slow).status == 201
        assert server.server.wait(timeout=60) == 0
    assert traffic.failed == []
    server.server = None


def test_a_server_that_ends_completes_what_it_has_accepted(server: Service) -> None:
    for _ in range(3):
        assert server.server is not None
        drain(server, server.server.terminate)
        server.serve()


@contextmanager
def unfinished_request(server: Service) -> Iterator[Connection]:
    """A connection on which the server has received a part of a request."""
    with Connection(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        server.api("GET", "modules")  # Received later, and so after the part.
        yield connection


def test_a_second_signal_ends_a_server_at_once(server: Service) -> None:
    server.serve(MLAPI_DRAIN_TIMEOUT="3600")
    assert server.server is not None
    with unfinished_request(server):
        server.server.send_signal(signal.SIGTERM)
        wait_for(lambda: refuses(server), "the end of the acceptance of connections", 60)
        server.server.send_signal(signal.SIGTERM)
        assert server.server.wait(timeout=60) == 0
    server.server = None
    server.serve()


def test_the_drain_is_limited(server: Service) -> None:
    server.serve(MLAPI_DRAIN_TIMEOUT="1")
    assert server.server is not None
    with unfinished_request(server) as unfinished:
        assert server.end(server.server, signal.SIGTERM) == 0
        assert unfinished.recv(1) == b""
    server.serve()


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of a signal; a server that listens has some."""
    return handling(pid, "SigCgt", number)


def ignores(pid: int, number: signal.Signals) -> bool:
    """Whether a process ignores a signal."""
    return handling(pid, "SigIgn", number)


def handling(pid: int, kind: str, number: signal.Signals) -> bool:
    """Whether a signal is in a set of signals of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    signals = next(int(line.split()[1], 16) for line in lines if line.startswith(f"{kind}:"))
    return bool(signals & (1 << (number - 1)))


def test_two_processes_share_a_port_and_a_restart_is_not_noticed(server: Service) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        port = listening.getsockname()[1]

        def start() -> subprocess.Popen[bytes]:
            passing = f"exec env LISTEN_FDS=1 LISTEN_PID=$$ {command('pserve')} {server.ini} 3<&{listening.fileno()}"
            with (server.folder / "pserve.log").open("ab") as log:
                return subprocess.Popen(
                    ["bash", "-c", passing],
                    env=server.environ,
                    pass_fds=[listening.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

        processes = [start(), start()]
        try:
            for each in processes:
                wait_for(lambda pid=each.pid: catches(pid, signal.SIGTERM), "a process to serve", 60)
            with Traffic(port) as traffic:
                for round_ in range(1, 4):
                    wait_for(lambda seen=traffic.answered: traffic.answered > seen + 100, "some traffic", 60)
                    oldest = processes.pop(0)
                    oldest.send_signal(signal.SIGTERM)
                    assert oldest.wait(timeout=60) == 0, round_
                    processes.append(start())
                    newest = processes[-1].pid
                    wait_for(lambda pid=newest: catches(pid, signal.SIGTERM), "a process to serve", 60)
            assert (traffic.failed, traffic.refused) == ([], 0)
        finally:
            for each in processes:
                each.kill()
                each.wait()


def test_requests_are_answered_while_all_slots_of_slow_work_are_used(server: Service) -> None:
    server.serve(MLAPI_PASSWORD_ROUNDS="200", MLAPI_PASSWORD_MEMORY="8192")
    answers: list[Any] = []

    def log_in() -> None:
        said = json.dumps({"name": "nobody", "password": "x"}).encode()
        sent = head(server, "POST", "auth/token", JSON, f"Content-Length: {len(said)}") + said
        answers.append(ask(server, sent))

    threads = [threading.Thread(target=log_in) for _ in range(30)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        Http(server.port, server.api.headers["Authorization"].split()[1])("GET", "files")
    for thread in threads:
        thread.join()
    statuses = {answer.status for answer in answers}
    assert statuses <= {401, 503}
    assert 401 in statuses
    for answer in answers:
        answer.is_problem(answer.status, closes=False)
        assert answer.headers["Retry-After"] == ("1" if answer.status == 503 else None)
    # waitress would warn of each request that waits for a thread.
    assert "Task queue depth" not in server.log("pserve")
    server.serve()
