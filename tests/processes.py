"""The service as processes: pserve and schedulers, which tests kill and restart."""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from pyramid.paster import get_appsettings

from mlapi.check import violations
from mlapi.database import make_engine
from mlapi.settings import Settings
from tests.support import API, PASSWORD, ROOT, admin, command, migrate, write_ini

OVER = {"FINISHED", "FAILED", "CANCELLED"}
HASTY = "3"
"""A lease in seconds that is short enough for tests to wait, but too short under load."""

TROUBLE = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

folder = Path(os.environ["MLAPI_JOB_DIR"])
job = json.loads((folder / "input" / "input.json").read_text())
options = job["options"]
report = {"name": job["name"], "files": ["out.json"], "files_created": ["out.json"], "tags": [{}]}
made = {}
first = not os.path.exists(options["note"])


def note(pid):
    with open(options["note"], "a") as file:
        file.write(f"{pid}\\n")


def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(subprocess.Popen(["sleep", "60"], start_new_session=True).pid)
    note(os.getpid())
    time.sleep(60)


def look_around():
    made["own"] = dict(os.environ)
    made["open"] = sorted(os.listdir("/proc/self/fd"))
    for place in ("environ", "cmdline"):
        try:
            made[place] = Path(f"/proc/{os.getppid()}/{place}").read_text()
        except OSError as error:
            made[place] = str(error)


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def lonely():
    # Print what is still running of earlier executions, then start a process in another session.
    earlier = Path(options["note"]).read_text().split() if not first else []
    for pid in filter(lives, map(int, earlier)):
        print(f"beside {pid}", flush=True)
    note(subprocess.Popen(["sleep", "60"], start_new_session=True).pid)


if job["name"] == "stubborn":
    stubborn()
if job["name"] == "lonely":
    lonely()
if job["name"] == "nap":
    point = {"name": "loss", "value": 0.5, "step": 1}
    (folder / "output" / "metrics.jsonl").write_text(json.dumps(point) + "\\n")
note(os.getpid())
print("begins", flush=True)
if first or job["name"] == "nap":
    time.sleep(options["seconds"])
if job["name"] == "fail":
    sys.exit("I fail.")
if job["name"] == "look":
    look_around()
(folder / "output" / "out.json").write_text(json.dumps(made))
if job["name"] == "absent":
    report["files"] = report["files_created"] = ["absent.txt"]
text = "{not JSON" if job["name"] == "nonsense" else json.dumps(report)
(folder / "output" / "output.json").write_text(text)
print("ends", flush=True)
"""
"""A module whose functions write the ids of their processes and fail in different ways."""

FUNCTIONS = ("wait", "nap", "stubborn", "lonely", "fail", "look", "absent", "nonsense")


def trouble(folder: Path) -> Path:
    """Write the module of `TROUBLE` into a new folder."""
    described = {
        "doctxt": "",
        "expected_filetype": "",
        "creates_new_files": True,
        "modifies_input_files": False,
    }
    options = [
        {"name": "note", "type": "str", "doctxt": "A file.", "required": True},
        {
            "name": "seconds",
            "type": "float",
            "doctxt": "To wait the first time.",
            "required": False,
            "default": 0.0,
        },
    ]
    manifest = {
        "display_name": "Trouble",
        "tagline": "",
        "doctxt": "",
        "functions": [
            {"name": name, "options": options, "input_files": {"minimum": 0}, **described} for name in FUNCTIONS
        ],
    }
    folder.mkdir()
    (folder / "main.py").write_text(TROUBLE)
    (folder / "mlapi.yaml").write_text(json.dumps(manifest))
    return folder


def wait_for(condition: Callable[[], Any], what: str = "a condition", seconds: float = 20.0) -> Any:
    """Wait until `condition` returns a true value, and return it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what}"
        time.sleep(0.02)
    return found


class Process(NamedTuple):
    """A process, identified by its id and its start time, because ids are reused."""

    pid: int
    began: str

    @property
    def lives(self) -> bool:
        """Whether the process is running; a zombie is not."""
        state = _stat(self.pid)
        return state is not None and state[19] == self.began and state[0] != "Z"

    @property
    def parent(self) -> "Process":
        """The parent process."""
        state = _stat(self.pid)
        assert state is not None
        return process(int(state[1]))

    @property
    def command(self) -> str:
        """The command line of the process."""
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_text().replace("\0", " ")
        except OSError:
            return ""

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it is running."""
        if self.lives:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat, starting with the state."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def process(pid: int) -> Process:
    """The process with this id."""
    state = _stat(pid)
    return Process(pid, state[19] if state else "")


def alive(pid: int) -> bool:
    """Whether a process with this number runs."""
    return process(pid).lives


def family(pid: int) -> list[Process]:
    """The running descendants of a process."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and (state := _stat(int(folder.name))):
            parents.setdefault(int(state[1]), []).append(int(folder.name))

    def below(above: int) -> Iterator[Process]:
        for each in parents.get(above, []):
            yield process(each)
            yield from below(each)

    return list(below(pid))


def memory(pid: int, kind: str = "VmRSS") -> int:
    """The memory of a process in bytes: current, or peak (VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


class Answer(NamedTuple):
    """A response of the service."""

    status: int
    headers: Any
    content: bytes

    @property
    def json(self) -> Any:
        """The JSON content."""
        return json.loads(self.content)


class Http:
    """A client over real sockets, a new connection for each request."""

    def __init__(self, port: int, token: str = "") -> None:
        self.port = port
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def __call__(
        self,
        method: str,
        url: str,
        json_body: Any = None,
        body: bytes = b"",
        status: int | tuple[int, ...] = 200,
        **headers: str,
    ) -> Answer:
        """Make a request to a URL, or to a path below the API's root, and expect a status, or one of several."""
        url = url if url.startswith(("http", "/")) else f"{API}/{url}"
        kind = "application/octet-stream" if json_body is None else "application/json"
        body = body if json_body is None else json.dumps(json_body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            path = url.removeprefix(f"http://127.0.0.1:{self.port}")
            sent = {"Content-Type": kind, "Content-Length": str(len(body)), **self.headers, **headers}
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            result = Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()
        expected = status if isinstance(status, tuple) else (status,)
        assert result.status in expected, (method, url, result.status, result.content[:2000])
        return result


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """pserve and any number of schedulers over one database, with a user `ada` and the modules of the tests.

    At the end, it kills its processes and their descendants, which are recorded before a process is stopped.
    """

    def __init__(self, folder: Path, url: str, **settings: Any) -> None:
        self.folder, self.url, self.port = folder, url, free_port()
        all_settings = {"job_heartbeat": 0.2, "slots": 4, **settings}
        self.ini = write_ini(folder, url, self.port, **all_settings)
        # Also in the environment, so that a test can see whether functions inherit it.
        self.environ = {
            **os.environ,
            "MLAPI_DATABASE_URL": url,
            "MLAPI_SECRET_KEY": os.urandom(24).hex(),
        }
        self.server: subprocess.Popen[bytes] | None = None
        self._served_with: dict[str, str] = {}
        self.schedulers: list[subprocess.Popen[bytes]] = []
        self._noted: set[Process] = set()
        self.api = Http(self.port)

    def prepare(self) -> None:
        """Migrate the database, create `ada`, register the modules, serve, and log in."""
        migrate(self.ini)
        password = self.folder / "password"
        password.write_text(PASSWORD)
        self.admin("createuser", "ada", "--password-file", str(password))
        self.admin("createmodule", "helloworld", str(ROOT / "modules" / "helloworld"))
        self.admin("createmodule", "trouble", str(trouble(self.folder / "trouble")))
        self.serve()
        token = self.api("POST", "auth/token", {"name": "ada", "password": PASSWORD}).json["access_token"]
        self.api = Http(self.port, token)

    def admin(self, *words: str, check: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run mlapi-admin."""
        return admin(self.ini, *words, check=check, env={**self.environ, **environ})

    def _start(self, *words: str, **environ: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{words[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [command(words[0]), *words[1:]],
                env={**self.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self, name: str) -> str:
        """The output of pserve or of the schedulers."""
        return (self.folder / f"{name}.log").read_text()

    def serve(self, **environ: str) -> None:
        """Start the server, unless it is running with these settings; waits until it responds."""
        if self.server is not None and self._served_with != environ:
            self.end(self.server)
        if self.server is None:
            self.server, self._served_with = self._start("pserve", str(self.ini), **environ), environ
            wait_for(self._answers, "the server")

    def _answers(self) -> bool:
        assert self.server is not None
        assert self.server.poll() is None, self.log("pserve")
        with suppress(OSError):
            return bool(Http(self.port)("GET", "modules", status=401))
        return False

    def move(self, port: int) -> None:
        """Use another port of the server from now on."""
        self.port = self.api.port = port

    def schedule(self, worker: str = "one", **environ: str) -> subprocess.Popen[bytes]:
        """Start a scheduler."""
        self.schedulers.append(self._start("mlapi-scheduler", str(self.ini), MLAPI_WORKER=worker, **environ))
        return self.schedulers[-1]

    def family(self, started: subprocess.Popen[bytes]) -> list[Process]:
        """The descendants of a process of the service; they are killed with the service at the latest."""
        found = family(started.pid)
        self._noted.update(found)
        return found

    def end(self, started: subprocess.Popen[bytes], number: signal.Signals = signal.SIGKILL) -> int:
        """Stop a process of the service with a signal; returns its exit status."""
        if number == signal.SIGKILL:
            started.send_signal(signal.SIGSTOP)  # So that it starts no process that is not recorded.
        self.family(started)
        started.send_signal(number)
        status = started.wait(timeout=15)
        if started is self.server:
            self.server = None
        else:
            self.schedulers.remove(started)
        return status

    def end_schedulers(self) -> None:
        """Kill every scheduler."""
        for each in list(self.schedulers):
            self.end(each)

    def close(self) -> None:
        """Stop all processes and their descendants."""
        self.end_schedulers()
        if self.server is not None:
            self.end(self.server)
        for each in self._noted:
            each.send(signal.SIGKILL)
        wait_for(lambda: not any(each.lives for each in self._noted), "the end of all that was started", 5)

    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        """Upload a file of ada."""
        return self.api("PUT", f"users/ada/files?name={name}", body=content, status=201).json

    def start(self, *tasks: dict[str, Any], files: list[str] | None = None, **options: Any) -> dict[str, Any]:
        """Start a run of a new pipeline of these tasks."""
        pipeline = self.api("POST", "users/ada/pipelines", {"name": "p", "enabled": True}, status=201).json
        for task in tasks:
            self.api("POST", pipeline["tasks"], task, status=201)
        return self.api("POST", pipeline["runs"], {"files": files or [], **options}, status=201).json

    def jobs(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        """The documents of the jobs of a run."""
        listed = self.api("GET", f"{run['jobs']}?limit=100").json["items"]
        return [self.api("GET", job["url"]).json for job in listed]

    def over(self, run: dict[str, Any], seconds: float = 30.0) -> list[dict[str, Any]]:
        """Wait for a run to end; returns its jobs."""
        ended = wait_for(
            lambda: (seen := self.api("GET", run["url"]).json)["progress"]["over"] == seen["progress"]["jobs"] and seen,
            f"the end of {run['url']}",
            seconds,
        )
        assert ended["status"] in OVER
        return self.jobs(run)

    def outputs(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        """The output files of a job."""
        return [self.api("GET", url).json for url in job["outputs"]]

    def text(self, url: str) -> str:
        """The text at a URL."""
        return self.api("GET", url).content.decode()

    def rows(self, query: str) -> list[Any]:
        """Execute a query without the API."""
        engine = make_engine(self.url)
        with engine.connect() as connection:
            found = list(connection.execute(sa.text(query)))
        engine.dispose()
        return found

    def violations(self) -> list[str]:
        """The violations of invariants."""
        return list(violations(Settings.read(get_appsettings(str(self.ini)), self.environ)))
