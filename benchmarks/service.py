"""The processes that are measured: the service as `pserve` serves it, and the yardstick."""

import configparser
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.client import Connection, Refused

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
USER = "ada"
HOME = f"/api/v1/users/{USER}"
FUNCTION = "/api/v1/modules/nothing/functions/nothing"

CHEAP = {"MLAPI_PASSWORD_MEMORY": "64", "MLAPI_PASSWORD_ROUNDS": "1"}
"""What makes a password cheap to hash, where none is worth guarding; only the making of the user is told."""

LOOK = 0.005
"""Seconds between two looks whether a server answers yet."""

PATIENCE = 30.0
"""Seconds that a server has to start, and to stop."""

LINGER = 5.0
"""Seconds that a stopped server's scheduler has to notice and leave."""


class NotStarted(Exception):
    """A process that is to be measured did not start; the message ends with what it printed."""


class Service:
    """mlapi as development.ini sets it, over an SQLite database of its own, with a user and a module."""

    def __init__(self, folder: Path, scheduler: bool = False) -> None:
        self.port = free_port()
        self._log = folder / "service.log"
        self._ini = folder / "benchmark.ini"
        self._environ = {key: each for key, each in os.environ.items() if not key.startswith("MLAPI_")}
        self._environ["TMPDIR"] = str(folder)  # Where waitress puts bodies that are too large for memory.
        self._password = secrets.token_urlsafe(18)
        self._write_ini(folder, scheduler)
        self._prepare(folder)

    def _write_ini(self, folder: Path, scheduler: bool) -> None:
        """Copy development.ini; only what this run needs to be its own is changed."""
        ini = development()
        ini["app:main"]["mlapi.port"] = str(self.port)
        ini["app:main"]["mlapi.data_dir"] = _literal(folder / "data")
        ini["app:main"]["mlapi.scheduler"] = str(scheduler).lower()
        ini["alembic"]["script_location"] = _literal(ROOT / "alembic")
        with self._ini.open("w") as file:
            ini.write(file)

    def _prepare(self, folder: Path) -> None:
        """Make the database, the user and the module, as an operator does."""
        password = folder / "password"
        password.write_text(self._password)
        self._run("alembic", "-c", self._ini, "upgrade", "head")
        self._run("mlapi-admin", "-c", self._ini, "createuser", USER, "--password-file", password)
        module = Path(__file__).parent / "nothing"
        self._run("mlapi-admin", "-c", self._ini, "createmodule", module.name, module)

    def _run(self, *command: str | Path) -> None:
        done = subprocess.run(
            [BIN / command[0], *command[1:]],
            env=self._environ | CHEAP,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NotStarted(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")

    @contextlib.contextmanager
    def serve(self) -> Iterator[int]:
        """Serve until the end of the block, which begins with the first answer; gives the server's pid."""
        command = [BIN / "pserve", self._ini]
        with serving(command, self.port, "/api/v1/modules", self._log, self._environ) as pid:
            yield pid

    def log_in(self) -> Connection:
        """Connect as the user."""
        api = Connection(self.port)
        said = {"name": USER, "password": self._password}
        api.token = api.call("POST", "/api/v1/auth/token", said)["access_token"]
        return api


@contextlib.contextmanager
def yardstick(folder: Path) -> Iterator[Connection]:
    """Serve the bare view, with as many threads as the service, until the end of the block."""
    port, threads = free_port(), development()["server:main"]["threads"]
    command = [sys.executable, "-m", "benchmarks.yardstick", str(port), threads]
    with (
        serving(command, port, "/bare", folder / "yardstick.log", os.environ),
        Connection(port) as bare,
    ):
        yield bare


@contextlib.contextmanager
def service_and_yardstick(scheduler: bool = False) -> Iterator[tuple[Connection, Connection]]:
    """Serve both until the end of the block; gives a connection to each, the first of them logged in."""
    with temporary_folder() as folder:
        service = Service(folder, scheduler)
        with service.serve(), yardstick(folder) as bare, service.log_in() as api:
            yield api, bare


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="mlapi-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def development() -> configparser.ConfigParser:
    """The settings of development.ini, as they are written."""
    ini = configparser.ConfigParser(interpolation=None)
    ini.optionxform = str  # type: ignore[assignment, method-assign]
    ini.read_string((ROOT / "development.ini").read_text())
    return ini


def _literal(path: Path) -> str:
    """A path as an ini file holds it."""
    return str(path).replace("%", "%%")


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(
    command: Sequence[str | Path], port: int, path: str, log: Path, environ: Mapping[str, str]
) -> Iterator[int]:
    """Run a server; the block begins when it has answered at `path`, and at its end the server is stopped."""
    with log.open("ab") as output:
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _await_answer(server, port, path, log)
        yield server.pid
    finally:
        _stop(server)


def _await_answer(server: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    """Wait for a server's first answer, whichever it is."""
    end = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < end:
        with contextlib.suppress(ConnectionError), Connection(port) as probe:
            with contextlib.suppress(Refused):
                probe.send(probe.request("GET", path))
            return
        time.sleep(LOOK)
    raise NotStarted(f"{server.args!r}\n{log.read_text(errors='replace')[-2000:]}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Stop a server, and wait for what it started in its own group: the scheduler ends by itself."""
    server.terminate()
    try:
        server.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    end = time.monotonic() + LINGER
    with contextlib.suppress(ProcessLookupError, PermissionError):  # What is gone cannot be asked.
        while time.monotonic() < end:
            os.killpg(server.pid, 0)
            time.sleep(LOOK)
        os.killpg(server.pid, signal.SIGKILL)
