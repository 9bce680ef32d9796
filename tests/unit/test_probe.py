"""The probe of `mlapi.url` at the start of a scheduler: it waits for an mlapi service, and accepts nothing else."""

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from pyramid.paster import get_appsettings

from mlapi.application import make_app
from mlapi.execution import probe
from tests.processes import free_port, wait_for
from tests.support import command, write_ini

HURRY = """
import sys
from mlapi.cli.scheduler import main
from mlapi.execution import probe
probe.START = 0.2
sys.exit(main())
"""
"""A scheduler with a short time to wait."""


class Quiet(WSGIRequestHandler):
    """A request handler without a log."""

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def port() -> int:
    """A free port."""
    return free_port()


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Any]:
    """A real application; its entry point needs no database."""
    made = make_app(get_appsettings(str(write_ini(tmp_path, f"sqlite:///{tmp_path}/test.db"))))
    yield made
    made.registry.database.engine.dispose()


@contextmanager
def serving(server: Any) -> Iterator[None]:
    """Serve in another thread."""
    thread = threading.Thread(target=lambda: server.serve_forever(0.01))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def other_server(port: int, status: int, content: bytes) -> tuple[Any, list[str]]:
    """Another server; returns it and the requested paths."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    return http.server.HTTPServer(("127.0.0.1", port), Handler), asked


def refusal(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The message of a failed probe."""
    monkeypatch.setattr(probe, "START", 0.1)
    with pytest.raises(probe.NoService) as caught:
        probe.wait_for_service(url, threading.Event())
    return str(caught.value)


def test_an_mlapi_service_has_no_problem(app: Any, port: int) -> None:
    with serving(make_server("127.0.0.1", port, app, handler_class=Quiet)):
        assert probe.problem_with(f"http://127.0.0.1:{port}") is None
        probe.wait_for_service(f"http://127.0.0.1:{port}", threading.Event())
        assert str(probe.problem_with(f"http://127.0.0.1:{port}/elsewhere")).startswith("status 404, ")


def test_a_port_without_a_server_is_reported(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(f"http://127.0.0.1:{port}", monkeypatch) == (
        f"No mlapi service answers at http://127.0.0.1:{port}: connection refused. "
        "Set mlapi.url to the address at which this machine reaches it."
    )


@pytest.mark.parametrize(
    ("status", "content", "words"),
    [
        (404, b"<html>", "status 404 from another server"),
        (200, b'{"service": "another"}', "status 200, from another server"),
        (200, b"[]", "status 200 from another server"),
        (400, b'{"detail": "Host not allowed."}', "status 400, Host not allowed. Set"),
    ],
)
def test_another_server_is_reported(
    port: int, monkeypatch: pytest.MonkeyPatch, status: int, content: bytes, words: str
) -> None:
    server, asked = other_server(port, status, content)
    with serving(server):
        assert words in refusal(f"http://127.0.0.1:{port}", monkeypatch)
    assert len(asked) > 1
    assert set(asked) == {"/api/v1"}


def test_a_response_that_is_not_http_is_reported(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", port)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert "the response is not valid HTTP" in refusal(f"http://127.0.0.1:{port}", monkeypatch)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_host_without_an_address_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "http://no-such-host.invalid: " in refusal("http://no-such-host.invalid", monkeypatch)


def test_a_service_that_starts_later_is_awaited(app: Any, port: int) -> None:
    probing = threading.Thread(target=lambda: probe.wait_for_service(f"http://127.0.0.1:{port}", threading.Event()))
    server, asked = other_server(port, 503, b"")
    probing.start()
    with serving(server):
        wait_for(lambda: len(asked) >= 3, "three requests")
    assert probing.is_alive()
    with serving(make_server("127.0.0.1", port, app, handler_class=Quiet)):
        probing.join(10)
    assert not probing.is_alive()


def test_the_service_is_asked_once_per_second_however_often_the_scheduler_claims(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = probe.ServiceCheck(f"http://127.0.0.1:{port}")
    server, asked = other_server(port, 200, b'{"service": "mlapi"}')
    with serving(server):
        began = time.monotonic()
        assert all(check.answers() for _ in range(5000))
        assert 1 <= len(asked) <= 2 + time.monotonic() - began


def test_a_service_that_does_not_answer_is_asked_less_often_until_it_answers_again(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(probe, "FRESH", 0.01)
    monkeypatch.setattr(probe, "LONGEST_PAUSE", 0.05)
    check = probe.ServiceCheck(f"http://127.0.0.1:{port}")
    assert not check.answers()
    server, asked = other_server(port, 503, b"")
    with serving(server):
        wait_for(lambda: check.answers() or len(asked) >= 5, "five requests")
        assert check._pause == 0.05
    server, asked = other_server(port, 200, b'{"service": "mlapi"}')
    with serving(server):
        wait_for(check.answers, "the answer")
    told = [record.getMessage() for record in caplog.records if "answers" in record.getMessage()]
    url = f"http://127.0.0.1:{port}"
    assert told == [
        f"No mlapi service answers at {url}: connection refused. No job is claimed until one does.",
        f"The service at {url} answers again.",
    ]


def test_a_scheduler_without_a_service_exits_with_status_2(tmp_path: Path, port: int) -> None:
    ini = write_ini(tmp_path, f"sqlite:///{tmp_path}/test.db", port, migrate="true")
    words = [sys.executable, "-c", HURRY, str(ini)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"No mlapi service answers at http://127.0.0.1:{port}: connection refused.")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, "eof"])
def test_a_scheduler_that_waits_for_its_service_can_be_stopped(tmp_path: Path, port: int, how: Any) -> None:
    ini = write_ini(tmp_path, f"sqlite:///{tmp_path}/test.db", port, migrate="true")
    server, asked = other_server(port, 503, b"")
    words = [command("mlapi-scheduler"), "--until-eof", str(ini)]
    with serving(server), subprocess.Popen(words, stdin=subprocess.PIPE, env=dict(os.environ)) as scheduler:
        wait_for(lambda: asked, "the first request")
        if how == "eof":
            assert scheduler.stdin is not None
            scheduler.stdin.close()
        else:
            scheduler.send_signal(how)
        assert scheduler.wait(10) == 0
