"""The worst requests: what a single request, or few clients, can cost the others."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.client import Connection, path_of
from benchmarks.service import FUNCTION, HOME, Service, temporary_folder
from benchmarks.table import MIB, Row, at_most, grows
from mlapi.database import sqlite_driver

REPEATED = 20
"""Number of repetitions of a quick request."""

TAGGED, LISTERS = 100, 6
TASKS, FILES = 100, 1000
HASHERS, WRITERS = 30, 8
QUICK = 0.05
"""Limit of the time of a request that is refused at once, in seconds."""

MEANWHILE = 0.5
"""Limit of the time of the slowest GET while others keep the server busy, in seconds."""


def requests(_seconds: float) -> list[Row]:
    """Measure all of them against one service."""
    rows = []
    with temporary_folder() as folder:
        service = Service(folder)
        with service.serve() as pid, service.log_in() as api:
            for measure in (parameters, errors, refused_bodies, statuses):
                rows += measure(service, api)
            rows += tags(service, api, pid) + long_run(service, api)
            rows += [logins(service, api), waiting_writers(service, api, folder)]
    return rows


def timed(service: Service, request: bytes) -> float:
    """The time of a request on a new connection, whatever its response."""
    with Connection(service.port) as connection:
        began = time.perf_counter()
        connection.exchange(request)
        return time.perf_counter() - began


def head(api: Connection, path: str, *lines: str, method: str = "GET", host: str = "localhost") -> bytes:
    """The head of a request, with the token of the user unless it is empty."""
    token = [f"Authorization: Bearer {api.token}"] if api.token else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *token, *lines, "", ""]).encode()


def parameters(service: Service, api: Connection) -> list[Row]:
    """A query string with 15,000 parameters."""
    request = head(api, f"{HOME}/files?" + "&".join("a" * 15_000))
    return [at_most("GET with 15,000 parameters", [timed(service, request) for _ in range(REPEATED)], 0.005)]


def errors(_service: Service, api: Connection) -> list[Row]:
    """A body with 4,990 unknown arguments."""
    pipeline = api.call("POST", f"{HOME}/pipelines", {"name": "errors"})
    body = {"function": FUNCTION, "arguments": {f"a{number}": 1 for number in range(4990)}}
    _, content = api.exchange(api.request("POST", path_of(pipeline["tasks"]), body))
    size, met = f"{len(content) / 1024:.0f} KiB", "yes" if len(content) <= 64 * 1024 else "no"
    return [Row("POST with 4,990 errors: size of the response", size, goal="<= 64 KiB", met=met)]


def refused_bodies(service: Service, api: Connection) -> list[Row]:
    """Heads that announce a body that is never sent."""
    nobody = Connection(service.port)
    with nobody:
        large = head(nobody, f"{HOME}/files?name=x", "Content-Length: 4290000000", method="PUT")
    expecting = head(api, HOME, "Expect: 100-continue")
    return [
        at_most("PUT 4 GB by nobody, until it is refused", [timed(service, large) for _ in range(REPEATED)], QUICK),
        at_most("GET with Expect: 100-continue", [timed(service, expecting) for _ in range(REPEATED)], QUICK),
    ]


def statuses(service: Service, api: Connection) -> list[Row]:
    """Requests whose response has a status that is not an internal error."""
    file = api.upload("PUT", f"{HOME}/files?name=x", "application/octet-stream", 1, [b"x"])
    year = ("Range: bytes=0-0", "If-Range: Fri, 31 Dec 10000 23:59:59 GMT")
    cases = {
        "If-Range in the year 10000": (head(api, path_of(file["content"]), *year), 200),
        "Host: localhost:x@evil.example": (head(api, HOME, host="localhost:x@evil.example"), 400),
        "two Host headers": (head(api, HOME, "Host: evil.example"), 400),
        "a head of 40 KB": (head(api, HOME, "X: " + "x" * 40_000), 431),
        "a bad method": (head(api, HOME, method="G(T"), 400),
    }
    rows = []
    for what, (request, expected) in cases.items():
        with Connection(service.port) as connection:
            status, _ = connection.exchange(request)
        rows.append(Row(f"{what}: status", str(status), goal=str(expected), met="yes" if status == expected else "no"))
    return rows


def long_run(_service: Service, api: Connection) -> list[Row]:
    """A run of 100 tasks, each of which takes 1,000 files."""
    kind = "application/octet-stream"
    made = (api.upload("PUT", f"{HOME}/files?name=f{each}.txt", kind, 1, [b"x"]) for each in range(FILES))
    files = [path_of(file["url"]) for file in made]
    pipeline = api.call("POST", f"{HOME}/pipelines", {"name": "long", "enabled": True})
    for _ in range(TASKS):
        api.call("POST", path_of(pipeline["tasks"]), {"function": FUNCTION, "after": []})
    began = time.perf_counter()
    api.call("POST", path_of(pipeline["runs"]), {"files": files})
    return [at_most(f"POST a run of {TASKS} tasks over {FILES} files", [time.perf_counter() - began], 1.0)]


def tags(service: Service, api: Connection, pid: int) -> list[Row]:
    """Lists of files with the largest tags, six at once."""
    for number in range(TAGGED):
        file = api.upload("PUT", f"{HOME}/files?name=t{number}", "application/octet-stream", 1, [b"x"])
        api.call("PATCH", path_of(file["url"]), {"tags": {"a": "x" * 65_000}})
    before = _peak(pid)

    def listing() -> None:
        with Connection(service.port, api.token) as connection:
            for _ in range(5):
                connection.call("GET", f"{HOME}/files?limit=200")

    with _threads(LISTERS, listing):
        pass
    return [grows(f"{LISTERS} lists of files with 64 KB of tags: memory", _peak(pid) - before, 64 * MIB)]


def logins(service: Service, api: Connection) -> Row:
    """GETs of a user while 30 clients log in all the time, with a wrong password."""
    ending = threading.Event()

    def log_in() -> None:
        with Connection(service.port) as connection:
            request = connection.request("POST", "/api/v1/auth/token", {"name": "nobody", "password": "x"})
            while not ending.is_set():
                connection.exchange(request)

    with _threads(HASHERS, log_in, ending.set):
        return at_most(f"GET while {HASHERS} clients log in: slowest", _gets(service, api), MEANWHILE)


def waiting_writers(service: Service, api: Connection, folder: Path) -> Row:
    """GETs of a user while 8 writers wait for a lock on the database that another process holds."""
    path = next((folder / "data").glob("*.db"))

    def write() -> None:
        with Connection(service.port, api.token) as connection:
            connection.exchange(connection.request("POST", f"{HOME}/pipelines", {"name": "waiting"}))

    lock = sqlite_driver().connect(str(path), isolation_level=None)
    with contextlib.closing(lock):
        lock.execute("BEGIN IMMEDIATE")
        with _threads(WRITERS, write, lambda: lock.execute("ROLLBACK")):
            time.sleep(0.5)  # Until all of them wait.
            return at_most(f"GET while {WRITERS} writers wait for SQLite: slowest", _gets(service, api), MEANWHILE)


def _gets(service: Service, api: Connection) -> list[float]:
    """The time of the slowest of some GETs on new connections."""
    return [max(timed(service, head(api, HOME)) for _ in range(REPEATED))]


@contextlib.contextmanager
def _threads(count: int, target: Callable[[], None], end: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Run a function in threads during the block, after which `end` is called; waits for their end."""
    threads = [threading.Thread(target=target) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end()
        for thread in threads:
            thread.join()


def _peak(pid: int) -> int:
    """The peak memory of a process in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
