"""A database that fails: its connections are cut, it does not answer, it is locked, or it has no space left.

Every response is a result or a problem.
"""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from pyramid.paster import get_app
from pyramid.request import Request
from webtest import TestApp

from mlapi.database import Database, make_engine
from mlapi.http.problems import problem_of
from mlapi.models import users
from tests.conftest import archive_of
from tests.processes import Answer, Service, wait_for
from tests.sockets import Proxy, ask, frozen, is_unavailable, serving
from tests.support import (
    API,
    HOST,
    PASSWORD,
    ROOT,
    Client,
    World,
    is_problem,
    little_room,
    migrate,
    multipart,
    new_database,
    services,
    write_ini,
)

THREADS = 4
"""waitress' default."""

ROUNDS = 3
ENDS = ("DELETE", "report")
"""Requests that others depend on, so that they are made last."""


class Caller:
    """A user with one resource of every kind, who makes a valid request to any service of the registry."""

    def __init__(self, port: int, world: World, number: int) -> None:
        self.port, self.world, self.number = port, world, number
        self._archive = archive_of(ROOT / "modules" / "helloworld")
        self._count = 0

    def __call__(self, method: str, path: str) -> Answer:
        """Make a request over a new connection."""
        client = self.world.runner if "{attempt}" in path else self.world.root
        query, body, content_type = self._parts(method, path)
        headers = {"Host": HOST, "Content-Type": content_type, **client.headers}
        return ask(self.port, method, path.format(**self.world.keys) + query, body, headers)

    def _parts(self, method: str, path: str) -> tuple[str, bytes, str]:
        """The query string, the body and the content type of a request."""
        self._count += 1
        name = f"n{self.number}-{self._count}"
        if method in ("POST", "PATCH") and path.endswith(("/modules", "/files")):
            of_module = path.endswith("/modules")
            field, content = ("archive", self._archive) if of_module else ("file", b"content")
            fields = {"name": name} if of_module else {}
            return "", *multipart(fields, field, f"{field}.tar.gz", content)
        if method in ("POST", "PATCH"):
            return "", self._document(path, name), "application/json"
        query = {"log": "?offset=0", "files": f"?name={name}"}.get(path.rpartition("/")[2], "")
        return query if method == "PUT" else "", b"content" if method == "PUT" else b"", "application/octet-stream"

    def _document(self, path: str, name: str) -> bytes:
        """The JSON body of a request."""
        version = "modules/{module}/versions/{version}/functions/{function}".format(**self.world.keys)
        documents: dict[str, Any] = {
            "users": {"name": name, "password": PASSWORD},
            "token": {"name": "root", "password": PASSWORD},
            "refresh": {"refresh_token": "none"},
            "pipelines": {"name": name},
            "{pipeline}": {"name": name},
            "tasks": {"function": f"{API}/{version}", "after": []},
            "{task}": {"timeout": 60.5},
            "{file}": {"tags": {"name": name}},
            "runs": {"files": [self.world.keys["file"]]},
            "report": {"status": "FINISHED"},
        }
        return orjson.dumps(documents.get(path.rpartition("/")[2], {}))


def requests_of(wsgi: Any) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Method and URL template of all services of the registry: of those that others do not depend on, and the rest."""
    found = {(method, path) for method, path, _ in services(wsgi, "GET", "POST", "PUT", "PATCH", "DELETE")}
    found |= {("HEAD", path) for method, path in found if method == "GET"}
    last = {(method, path) for method, path in found if method in ENDS or path.endswith(ENDS)}
    return sorted(found - last), sorted(last)


@pytest.fixture
def proxy(postgresql: str) -> Iterator[Proxy]:
    """A proxy before a new database."""
    made = Proxy(new_database(postgresql), seed=6)
    yield made
    made.close()


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A function that creates the application for the database at a URL."""
    made: list[Any] = []

    def create(url: str, **settings: Any) -> Any:
        ini = write_ini(tmp_path, url, **settings)
        migrate(ini)
        made.append(get_app(str(ini)))
        with made[-1].registry.database.writing.begin() as db:
            users.create(db, "root", made[-1].registry.passwords.hash(PASSWORD), "admin")
        return made[-1]

    yield create
    for app in made:
        app.registry.database.engine.dispose()


def callers(app: Any, port: int) -> list[Caller]:
    """A caller for every thread."""
    root = Client(TestApp(app, extra_environ={"HTTP_HOST": HOST}), "root")
    archive = archive_of(ROOT / "modules" / "helloworld")
    made = root.form("modules", {"name": "helloworld"}, "archive", "helloworld.tar.gz", archive, status=201)
    function = f"{made.json['functions']}/say_hello"
    return [Caller(port, World(root, function, app), number) for number in range(THREADS)]


def test_cut_connections_are_503_problems(proxy: Proxy, application: Callable[..., Any]) -> None:
    app = application(proxy.url)
    statuses: list[int] = []
    wrong: list[object] = []

    def storm(caller: Caller) -> None:
        order = random.Random(caller.number)
        first, last = requests_of(app)
        for request in [*order.sample(first * ROUNDS, len(first) * ROUNDS), *order.sample(last, len(last))]:
            answer = caller(*request)
            statuses.append(answer.status)
            if answer.status >= 500 and not is_unavailable(answer):
                wrong.append((*request, answer.status, answer.headers["Content-Type"], answer.content[:200]))

    with serving(app, THREADS) as port, ThreadPoolExecutor() as pool:
        ready = callers(app, port)
        proxy.odds = 0.02
        list(pool.map(storm, ready))
        proxy.odds = 0.0
        assert wrong == []
        assert proxy.cuts > 20
        assert 10 < statuses.count(503) < len(statuses) / 2
        wait_for(lambda: ready[0]("GET", f"{API}/users").status == 200, "the recovery")
    assert app.registry.database.engine.pool.checkedout() == 0


def test_a_frozen_database_is_a_503_problem(postgresql: str, application: Callable[..., Any]) -> None:
    """PostgreSQL is stopped until all requests have their responses, many more than there are threads."""
    app = application(new_database(postgresql), database_timeout=2)
    with serving(app, THREADS) as port, ThreadPoolExecutor() as pool:
        ready = callers(app, port)
        user = f"{API}/users/{{user}}"
        reads = [("GET", f"{API}/users"), ("HEAD", f"{API}/files"), ("GET", f"{user}/pipelines/{{pipeline}}")]
        writes = [("POST", f"{user}/pipelines"), ("PATCH", f"{user}/files/{{file}}")]
        entry = ("GET", API)
        with frozen(postgresql):
            kinds = [*reads, *writes, entry] * 5
            answers = list(pool.map(lambda caller: [(kind, caller(*kind)) for kind in kinds], ready))
        for kind, answer in (pair for pairs in answers for pair in pairs):
            assert answer.status == 200 if kind == entry else is_unavailable(answer), (kind, answer)
        wait_for(lambda: ready[0](*reads[0]).status == 200, "the recovery")
        statuses = [[caller(*kind).status for kind in (*reads, *writes)] for caller in ready]
        assert statuses == [[200, 200, 200, 201, 200]] * THREADS
    assert app.registry.database.engine.pool.checkedout() == 0


def test_a_statement_to_a_database_that_freezes_fails(postgresql: str) -> None:
    database = Database(postgresql, timeout=1)
    with database.reading() as connection:
        connection.execute(sa.select(1))
        with frozen(postgresql), pytest.raises(sa.exc.OperationalError, match="No answer"):
            connection.execute(sa.select(1))
        assert connection.invalidated
    assert wait_for(lambda: answers(database), "the recovery")
    database.engine.dispose()


def test_the_end_of_an_idle_transaction_is_a_503_problem(postgresql: str) -> None:
    """PostgreSQL reports it as an internal error."""
    database = Database(postgresql)
    with database.reading() as connection:
        connection.exec_driver_sql("SET idle_in_transaction_session_timeout = 10")
        [backend] = connection.exec_driver_sql("SELECT pg_backend_pid()").one()

        def has_ended() -> bool:
            with database.reading() as other:
                query = f"SELECT 1 FROM pg_stat_activity WHERE pid = {backend}"
                return other.exec_driver_sql(query).first() is None

        wait_for(has_ended, "the end of the transaction")
        with pytest.raises(sa.exc.InternalError) as caught:
            connection.execute(sa.select(1))
    assert problem_of(caught.value, Request.blank("/")).status == 503
    database.engine.dispose()


def answers(database: Database) -> bool:
    """Whether a database answers."""
    try:
        with database.reading() as connection:
            return connection.scalar(sa.select(1)) == 1
    except sa.exc.OperationalError:
        return False


def test_readers_do_not_wait_behind_writers_of_a_locked_sqlite(tmp_path: Path) -> None:
    """Twice as many writers as threads; the lock is held until readers have their responses."""
    service, engine = Service(tmp_path, f"sqlite:///{tmp_path}/test.db", database_timeout=60), None
    try:
        service.prepare()
        engine = make_engine(service.url)
        pipelines, headers = f"{API}/users/ada/pipelines", {"Content-Type": "application/json", **service.api.headers}
        answers: list[Answer] = []

        def write(_number: int) -> None:
            answers.append(ask(service.port, "POST", pipelines, b'{"name": "p"}', headers))

        with ThreadPoolExecutor(2 * THREADS) as pool, engine.connect() as outside:
            outside.execute(sa.select(1))  # Begins a transaction, which takes the lock.
            for number in range(2 * THREADS):
                pool.submit(write, number)
            wait_for(lambda: len(answers) == 2 * THREADS - 2, "the refusals", 30)
            for _ in range(20):
                assert ask(service.port, "GET", pipelines, b"", headers).status == 200
            assert all(is_unavailable(answer) for answer in answers)
            assert len(answers) == 2 * THREADS - 2  # The others wait, on half of the threads.
        assert [answer.status for answer in answers[-2:]] == [201, 201]
    finally:
        service.close()
        if engine is not None:
            engine.dispose()


@pytest.mark.parametrize("kind", ["disk", "limit"])
def test_a_sqlite_without_space_left_is_a_problem(kind: str, application: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    with little_room(kind, tmp_path / "small") as folder:
        app = application(f"sqlite:///{folder}/test.db", media_dir=tmp_path / "files")
        try:
            root = Client(TestApp(app, extra_environ={"HTTP_HOST": HOST}), "root")
            if kind == "disk":
                (folder / "filler").write_bytes(bytes(14 * 2**20))
            else:
                with app.registry.database.engine.begin() as connection:
                    connection.exec_driver_sql(f"CREATE TABLE filler AS SELECT zeroblob({14 * 2**20}) AS content")
            fields = {"tags": orjson.dumps({"a": "x" * 50_000}).decode()}
            answers = (root.form("users/root/files", fields, "file", "a.txt", b"a") for _ in range(1000))
            is_problem(next(answer for answer in answers if answer.status_int != 201), 507 if kind == "disk" else 503)
            is_problem(next(answers), 507 if kind == "disk" else 503)  # Not a writer that waits in vain for its turn.
            assert root("GET", "files", status=200).json["items"]
        finally:
            app.registry.database.engine.dispose()  # Before the disk is unmounted.
