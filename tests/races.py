"""Races: two services of the registry on the same resources.

The first request is paused before each of its statements and before its commits; meanwhile, the second runs until it
has responded or waits for a lock of the first. So every point at which another request can come between is tried, and
no time is measured. On SQLite, where a writer excludes all others, the points are the beginnings of transactions.
"""

import io
import itertools
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import sqlalchemy as sa
from webtest import TestApp

from mlapi.models import attempts, workers
from tests.support import API, PASSWORD, Client, multipart

MANIFEST = """\
display_name: Racer
tagline: For tests
doctxt: For tests
command: ["true"]
functions:
  - {name: first, doctxt: "", options: [N], creates_new_files: true, modifies_input_files: false, TYPE}
  - {name: second, doctxt: "", options: [N], creates_new_files: true, modifies_input_files: false, TYPE}
""".replace("[N]", '[{name: n, type: int, doctxt: "", required: false, default: 0}]').replace(
    "TYPE", 'expected_filetype: ""'
)

STAGES = ("bare", "planned", "active", "ended")
"""What exists: files, a module and a pipeline; also tasks; also a run with a running job; also a run that has ended."""

FIRST_STAGE = {
    "task": "planned",
    "grid": "active",
    "run": "active",
    "job": "active",
    "attempt": "active",
    "input": "active",
}
"""The first stage in which the key of a URL template exists."""

RESPONSE = 60.0
"""Seconds within which a request must respond."""


class Place(NamedTuple):
    """A service: a method at a URL template."""

    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path.removeprefix(API)}"

    @property
    def stages(self) -> list[str]:
        """The stages in which the resource exists; attempts exist only while they are running."""
        first = max([STAGES.index(stage) for key, stage in FIRST_STAGE.items() if f"{{{key}}}" in self.path], default=0)
        return ["active"] if "{attempt}" in self.path else list(STAGES[first:])


class Case(NamedTuple):
    """A request that is interrupted by another, in a stage."""

    interrupted: Place
    other: Place
    stage: str


def places(wsgi: Any) -> list[Place]:
    """All services of the registry, each at the place of its class only, without aliases."""
    return sorted(
        Place(method, service.path)
        for service in wsgi.registry.cornice_services.values()
        for method, _, _ in service.definitions
        if method != "HEAD" and service.path == service.tree.places[service.context].path
    )


def cases(wsgi: Any) -> list[Case]:
    """All pairs of services, in all stages in which both exist. A GET changes nothing, so it interrupts none."""
    found = places(wsgi)
    return [
        Case(first, second, stage)
        for first, second in itertools.product(found, found)
        if second.method != "GET"
        for stage in STAGES
        if stage in first.stages and stage in second.stages
    ]


def archive(text: str) -> bytes:
    """A module archive; another text is another version."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as file:
        for name, content in (("mlapi.yaml", MANIFEST), ("text", text)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content.encode()))
    return packed.getvalue()


class Scene:
    """New resources of an administrator for one race, as far as the stage goes."""

    numbers = itertools.count(1)

    def __init__(self, root: Client, wsgi: Any, stage: str) -> None:
        self.number, self.root, self.wsgi = next(self.numbers), root, wsgi
        self.module = f"m{self.number}"
        self.runner = root
        with wsgi.registry.database.writing.begin() as session:
            workers.beat(session, "tests", "here", "1")
        form = {"name": self.module}, "archive", "m.tar", archive("")
        version = root.form("modules", *form, status=201).json["registered"].split("/")[-1]
        self.file, output = (root.upload(name, b"", status=201).json for name in ("a.txt", "b.txt"))
        fields = {"parent": self.file["url"]}
        self.child = root.form(f"users/{root.name}/files", fields, "file", "c.txt", b"", status=201).json
        made = {"name": "p", "enabled": True}
        self.pipeline = root("POST", f"users/{root.name}/pipelines", made, status=201).json
        self.function = f"{API}/modules/{self.module}/functions/first"
        self.keys: dict[str, object] = {
            "user": root.name,
            "file": self.file["id"],
            "pipeline": self.pipeline["id"],
            "module": self.module,
            "version": version,
            "function": "first",
            "input": 1,
            "queue": f"q{self.number}",
            "worker": "tests",
            "number": 1,
        }
        root("POST", "queues", {"name": self.keys["queue"]}, status=201)
        self.output = output
        if stage != "bare":
            self._plan()
        if stage in ("active", "ended"):
            self._start()
        if stage == "ended":
            self._end()

    def _plan(self) -> None:
        first, _ = (
            self.root("POST", self.pipeline["tasks"], {"function": self.function, "after": []}, status=201).json
            for _ in range(2)
        )
        self.keys["task"] = first["id"]

    def _start(self) -> None:
        grid = self.root("POST", self.pipeline["runs"], self._grid(), status=201).json
        [run] = self.root("GET", grid["runs"], status=200).json["items"]
        with self.wsgi.registry.database.writing.begin() as session:
            claims = attempts.claim(session, "tests", 1000, 3600)
        jobs = {job["id"] for job in self.root("GET", run["jobs"], status=200).json["items"]}
        self.claims = [claim for claim in claims if claim.job_id in jobs]
        self.keys |= {
            "grid": grid["id"],
            "run": run["id"],
            "job": self.claims[0].job_id,
            "attempt": self.claims[0].attempt_id,
        }
        self.runner = self._runner(self.claims[0])

    def _grid(self) -> dict[str, Any]:
        """The body of the start of a grid of one run."""
        task = f"{self.pipeline['tasks']}/{self.keys['task']}"
        return {"files": [self.file["url"]], "grid": [{"tasks": [task], "option": "n", "values": [1]}]}

    def _runner(self, claim: attempts.Claim) -> Client:
        return Client(self.root.app, token=self.wsgi.registry.tokens.make(claim.attempt_id, "job", 3600))

    def _end(self) -> None:
        """Finish the jobs; from now on, the file of the scene is an output of the run."""
        for claim in self.claims:
            runner, url = self._runner(claim), f"{API}/attempts/{claim.attempt_id}"
            sha256 = runner("POST", f"{url}/outputs", body=b"out", status=201).json["sha256"]
            made = [{"name": "o", "sha256": sha256, "tags": {}, "origin": "created"}]
            runner("POST", f"{url}/report", {"status": "FINISHED", "outputs": made}, status=200)
        self.file = self.root("GET", f"files?job={self.claims[0].job_id}", status=200).json["items"][0]
        self.keys["file"] = self.file["id"]

    def ask(self, place: Place) -> Any:
        """Make a request to a place; can be called in any thread."""
        client = self.runner if "{attempt}" in place.path else self.root
        arguments = self._arguments(place)
        return Client(TestApp(self.wsgi), client.name, client.headers["Authorization"].split()[1])(
            place.method, place.path.format(**self.keys) + arguments.pop("query", ""), **arguments
        )

    def _arguments(self, place: Place) -> dict[str, Any]:
        """The query string, headers and body of a valid request to a place."""
        if place.method in ("GET", "DELETE"):
            return {}
        return {
            "POST /auth/token": lambda: {"json": {"name": self.root.name, "password": PASSWORD}},
            "POST /auth/token/refresh": lambda: {"json": {"refresh_token": "x"}},
            "POST /users": lambda: {
                "json": {"name": f"u{self.number}", "password": PASSWORD},
            },
            "POST /users/{user}/files": lambda: form({"parent": self.file["url"]}, "file", b"new"),
            "PUT /users/{user}/files": lambda: {**raw(b"new"), "query": "?name=n.txt"},
            "PATCH /users/{user}/files/{file}": lambda: {"json": {"tags": {"new": True}}},
            "POST /users/{user}/pipelines": lambda: {"json": {"name": "q"}},
            "PATCH /users/{user}/pipelines/{pipeline}": lambda: {"json": {"name": "q", "enabled": True}},
            "POST /users/{user}/pipelines/{pipeline}/tasks": lambda: {
                "json": {"function": self.function, "position": 1}
            },
            "PATCH /users/{user}/pipelines/{pipeline}/tasks/{task}": lambda: {
                "json": {"function": self.function.replace("first", "second"), "position": 2}
            },
            "POST /users/{user}/pipelines/{pipeline}/runs": lambda: {
                "json": {"files": [self.file["url"], self.output["url"]]},
                "headers": {"Idempotency-Key": f"k{self.number}"},
            },
            "POST /users/{user}/pipelines/{pipeline}/grids/{grid}/cancel": dict,
            "POST /users/{user}/pipelines/{pipeline}/runs/{run}/cancel": dict,
            "POST /users/{user}/pipelines/{pipeline}/runs/{run}/retry": dict,
            "POST /users/{user}/pipelines/{pipeline}/runs/{run}/rerun": lambda: {"json": {"reuse": True}},
            "POST /users/{user}/pipelines/{pipeline}/runs/{run}/jobs/{job}/retry": dict,
            "POST /users/{user}/pipelines/{pipeline}/runs/{run}/jobs/{job}/cancel": dict,
            "POST /modules": lambda: form({"name": self.module}, "archive", archive(f"{threading.get_ident()}")),
            "POST /queues": lambda: {"json": {"name": f"n{self.number}"}},
            "PATCH /queues/{queue}": lambda: {"json": {"limit": 1, "resources": {"cpus": 1}}},
            "PUT /queues/{queue}/lock": dict,
            "POST /attempts/{attempt}/heartbeat": lambda: {"json": {}},
            "PUT /attempts/{attempt}/log": lambda: {**raw(b"text"), "query": "?offset=0"},
            "PUT /attempts/{attempt}/metrics": lambda: {
                "json": {"points": [{"name": "loss", "value": 1, "step": 1, "time": 1}]},
                "query": "?offset=0",
            },
            "POST /attempts/{attempt}/outputs": lambda: raw(b"out"),
            "POST /attempts/{attempt}/report": lambda: {"json": {"status": "FINISHED", "outputs": []}},
        }[str(place)]()


def raw(body: bytes) -> dict[str, Any]:
    """The body of bytes, and its headers."""
    return {"body": body, "headers": {"Content-Type": "application/octet-stream"}}


def form(fields: dict[str, str], name: str, content: bytes) -> dict[str, Any]:
    """The body of a form with one file, and its headers."""
    body, content_type = multipart(fields, name, "f.tar", content)
    return {"body": body, "headers": {"Content-Type": content_type}}


@contextmanager
def paused(engine: sa.Engine, number: int, meanwhile: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Call `meanwhile` at the `number`th point of this thread's requests; yields whether it was reached."""
    thread, points = threading.get_ident(), itertools.count(1)
    seen: list[int] = []

    def reached(*_: object) -> None:
        if threading.get_ident() == thread:
            seen.append(next(points))
            if seen[-1] == number:
                meanwhile()

    names = ["checkout"] if engine.dialect.name == "sqlite" else ["before_cursor_execute", "commit"]
    for name in names:
        sa.event.listen(engine, name, reached)
    try:
        yield lambda: number in seen
    finally:
        for name in names:
            sa.event.remove(engine, name, reached)


class Races:
    """Races in one application."""

    def __init__(self, root: Client, wsgi: Any) -> None:
        self.root, self.wsgi = root, wsgi
        self.engine: sa.Engine = wsgi.registry.database.engine
        self._monitor = sa.create_engine(self.engine.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def run(self, case: Case, points: Sequence[int] | None = None) -> list[str]:
        """Interrupt the first request at all points, or at these; returns the responses that are server errors."""
        wrong = []
        for point in points or itertools.count(1):
            scene = Scene(self.root, self.wsgi, case.stage)
            answers = self._interrupt(scene, case, point)
            wrong += [
                f"{case.interrupted} interrupted at {point} by {case.other} ({case.stage}): {name} responded"
                f" {answer.status} {answer.json['detail']}"
                for name, answer in answers.items()
                if answer.status_int >= 500
            ]
            if points is None and "the other" not in answers:
                break
        return wrong

    def _interrupt(self, scene: Scene, case: Case, point: int) -> dict[str, Any]:
        """The responses to both requests; that of the other is missing if the first did not reach the point."""
        with ThreadPoolExecutor(1) as pool, self._monitor.connect() as monitor:
            others: list[Any] = []

            def meanwhile() -> None:
                others.append(pool.submit(scene.ask, case.other))
                end = time.monotonic() + RESPONSE
                while not others[0].done() and not self._waits(monitor):
                    assert time.monotonic() < end, f"{case.other} neither responds nor waits for a lock"
                    time.sleep(0.002)

            with paused(self.engine, point, meanwhile):
                first = scene.ask(case.interrupted)
            answers = {"the first": first}
            if others:
                answers["the other"] = others[0].result(RESPONSE)
            return answers

    def _waits(self, monitor: sa.Connection) -> bool:
        """Whether a session of the database waits for a lock."""
        if monitor.dialect.name == "sqlite":
            return False
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(monitor.scalar(sa.text(waiting)))


def at_once(requests: Sequence[Callable[[], Any]], threads: int = 8) -> list[Any]:
    """The responses to requests that are made at the same time, each in a thread."""
    barrier = threading.Barrier(threads)

    def ask(request: Callable[[], Any], first: bool) -> Any:
        if first:
            barrier.wait(RESPONSE)
        return request()

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(ask, request, index < threads) for index, request in enumerate(requests)]
        return [future.result(RESPONSE) for future in futures]
