"""Shared parts of tests of the application: ini files, databases, and an HTTP client."""

import io
import os
import resource
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pyramid.paster import get_app
from webtest import TestApp

from mlapi.models import attempts, queues, workers
from mlapi.models.queues import DEFAULT, DEFAULT_ID

ROOT = Path(__file__).parent.parent
API = "/api/v1"
HOST = "localhost:6543"
PASSWORD = "correct horse battery staple"

PAIRS = [("status", other) for other in ("owner", "module", "function", "pipeline")]
PAIRS += [("kind", "owner"), ("name", "owner"), ("kind", "name")]
"""The pairs of filters that are common in lists."""

INI = """\
[app:main]
use = egg:mlapi
{settings}

[server:main]
use = egg:mlapi

[pshell]
setup = mlapi.pshell.setup

[alembic]
script_location = {root}/alembic

[loggers]
keys = root

[handlers]
keys = console

[formatters]
keys = line

[logger_root]
level = WARNING
handlers = console

[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = line

[formatter_line]
format = %(levelname)s %(name)s %(message)s
"""


def write_ini(folder: Path, url: str, port: int = 6543, **settings: Any) -> Path:
    """An ini file for the database at `url`, with cheap argon2id parameters."""
    values = {
        "database_url": url,
        "data_dir": folder / "data",
        "port": port,
        "password_memory": 64,
        "password_rounds": 1,
        **settings,
    }
    lines = "\n".join(f"mlapi.{name} = {str(value).replace('%', '%%')}" for name, value in values.items())
    ini = folder / "testing.ini"
    ini.write_text(INI.format(settings=lines, root=ROOT))
    return ini


def command(name: str) -> str:
    """The path of a command of this virtual environment."""
    return os.path.join(os.path.dirname(sys.executable), name)


def migrate(ini: Path) -> None:
    """Migrate the database of an ini file to the newest revision."""
    subprocess.run([command("alembic"), "-c", ini, "upgrade", "head"], check=True, capture_output=True)


def admin(ini: Path, *words: str, check: bool = True, **kw: Any) -> subprocess.CompletedProcess[str]:
    """Run mlapi-admin."""
    return subprocess.run(
        [command("mlapi-admin"), "-c", str(ini), *words], check=check, capture_output=True, text=True, **kw
    )


def new_database(postgresql: str) -> str:
    """The URL of a new, empty database of a PostgreSQL server."""
    engine = sa.create_engine(postgresql, isolation_level="AUTOCOMMIT")
    name = f"t{uuid.uuid4().hex}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return sa.make_url(postgresql).set(database=name).render_as_string(hide_password=False)


def empty(engine: sa.Engine, metadata: sa.MetaData) -> None:
    """Delete every row of every table, except the default queue."""
    with engine.begin() as connection:
        connection.execute(sa.update(metadata.tables["files"]).values(parent_id=None))
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
        connection.execute(sa.insert(metadata.tables["queues"]).values(id=DEFAULT_ID, name=DEFAULT))


class Client:
    """An HTTP client of the application, with or without a token."""

    def __init__(self, app: TestApp, name: str | None = None, token: str | None = None) -> None:
        self.app, self.name = app, name
        if name is not None and token is None:
            credentials = {"name": name, "password": PASSWORD}
            token = app.post_json(f"{API}/auth/token", credentials).json["access_token"]
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def __call__(self, method: str, url: str, json: Any = None, status: int | None = None, **kw: Any) -> Any:
        """Make a request to a URL, or to a path below the API; asserts the status if there is one."""
        headers = {"Host": HOST, **self.headers, **kw.pop("headers", {})}
        url = url if url.startswith(("http", "/")) else f"{API}/{url}"
        if json is not None:
            call = getattr(self.app, f"{method.lower()}_json")
            return call(url, json, headers=headers, status=status or "*", **kw)
        return self.app.request(url, method=method.upper(), headers=headers, status=status or "*", **kw)

    def form(self, url: str, fields: dict[str, str], name: str, filename: str, content: bytes, **kw: Any) -> Any:
        """Post a form of text fields and one file."""
        body, content_type = multipart(fields, name, filename, content)
        return self("POST", url, body=body, headers={"Content-Type": content_type}, **kw)

    def upload(self, name: str, content: bytes, **kw: Any) -> Any:
        """Upload a file of the caller as a raw body."""
        headers = {"Content-Type": "application/octet-stream", **kw.pop("headers", {})}
        url = f"users/{self.name}/files?name={name}"
        return self("PUT", url, body=content, headers=headers, **kw)


def multipart(fields: dict[str, str], name: str, filename: str, content: bytes) -> tuple[bytes, str]:
    """A form of text fields and one file, and its content type."""
    parts = [(f'name="{field}"', value.encode()) for field, value in fields.items()]
    parts.append((f'name="{name}"; filename="{filename}"\r\nContent-Type: application/octet-stream', content))
    boundary = uuid.uuid4().hex
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + value + b"\r\n"
        for head, value in parts
    )
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def is_problem(response: Any, status: int, *fields: str) -> dict[str, Any]:
    """Assert that a response is a problem document with this status and these fields; returns it."""
    assert response.status_int == status, (response.status, response.text)
    assert response.content_type == "application/problem+json"
    problem = response.json
    assert problem.keys() >= {"type", "title", "status", "detail"}
    assert problem["status"] == status
    named = [error["name"] for error in problem.get("errors", [])]
    assert sorted(named) == sorted(fields) if fields else True, named
    for error in problem.get("errors", []):
        assert error.keys() == {"location", "name", "description"}
    return problem


def services(wsgi: Any, *methods: str) -> list[tuple[str, str, Any]]:
    """Method, URL template and schema of all views of these methods in the registry."""
    found = {
        (method, service.path): args.get("schema")
        for service in wsgi.registry.cornice_services.values()
        for method, _, args in service.definitions
        if method in methods
    }
    return [(*place, schema) for place, schema in found.items()]


class World:
    """One resource of every kind of one user, and the runner of its job, so that every URL template exists."""

    def __init__(self, root: Client, helloworld: str, wsgi: Any) -> None:
        file = root.upload("a.txt", b"Ada", status=201).json
        pipelines = f"users/{root.name}/pipelines"
        pipeline = root("POST", pipelines, {"name": "p", "enabled": True}, status=201).json
        task = root("POST", pipeline["tasks"], {"function": helloworld}, status=201).json
        grid = [{"tasks": [task["url"]], "option": "greeting", "values": ["Hello"]}]
        grid = root("POST", pipeline["runs"], {"files": [file["url"]], "grid": grid}, status=201).json
        [run] = root("GET", grid["runs"], status=200).json["items"]
        with wsgi.registry.database.writing.begin() as session:
            claim = attempts.claim(session, "tests", 1, 60)[0]
            workers.beat(session, "tests", "here", "1")
            if "gpu" not in queues.ids(session, ["gpu"]):
                queues.create(session, "gpu", {})
        self.keys = {
            "queue": "gpu",
            "worker": "tests",
            "user": root.name,
            "file": file["id"],
            "pipeline": pipeline["id"],
            "task": task["id"],
            "grid": grid["id"],
            "run": run["id"],
            "job": claim.job_id,
            "attempt": claim.attempt_id,
            "number": claim.number,
            "input": 1,
            "module": "helloworld",
            "function": "say_hello",
            "version": task["function"].split("/")[-3],
        }
        self.root = root
        self.runner = Client(root.app, token=wsgi.registry.tokens.make(claim.attempt_id, "job", 60))

    def ask(self, method: str, template: str, /, query: str = "", keys: Any = None, **kw: Any) -> Any:
        """Make a request to a URL template, as a caller with access."""
        if method == "PUT" and template.endswith("/metrics"):
            query = query or "?offset=0"
        client = self.runner if "{attempt}" in template else self.root
        return client(method, template.format(**{**self.keys, **(keys or {})}) + query, **kw)


class Runner(Client):
    """The runner of a claimed job, as an HTTP client without a process."""

    def __init__(self, app: TestApp, wsgi: Any, claim: attempts.Claim) -> None:
        super().__init__(app, token=wsgi.registry.tokens.make(claim.attempt_id, "job", 60))
        self.claim, self.url = claim, f"{API}/attempts/{claim.attempt_id}"

    def put(self, content: bytes) -> str:
        """Upload an output; returns its SHA-256."""
        return str(self("POST", f"{self.url}/outputs", body=content, status=201).json["sha256"])

    def report(self, status: str = "FINISHED", **more: Any) -> Any:
        """Report the result of the attempt."""
        return self("POST", f"{self.url}/report", {"status": status, **more})

    def finish(self, *names: str, **more: Any) -> None:
        """Report FINISHED, with outputs of these names."""
        made = [{"name": each, "sha256": self.put(each.encode()), "tags": {}, "origin": "created"} for each in names]
        assert self.report(outputs=made, **more).status_int == 200


def claimed(app: TestApp, wsgi: Any, most: int = 1, lease: float = 60) -> list[Runner]:
    """Claim queued jobs, oldest first, as a scheduler does; returns their runners."""
    with wsgi.registry.database.writing.begin() as session:
        claims = attempts.claim(session, "tests", most, lease)
    return [Runner(app, wsgi, claim) for claim in claims]


def pipeline_of(client: Client, *tasks: dict[str, Any]) -> Any:
    """Create an enabled pipeline with these tasks; returns the documents of the pipeline and the tasks."""
    made = {"name": "p", "enabled": True}
    pipeline = client("POST", f"users/{client.name}/pipelines", made, status=201).json
    return pipeline, [client("POST", pipeline["tasks"], task, status=201).json for task in tasks]


@contextmanager
def another_app(wsgi: Any, folder: Path, **settings: Any) -> Iterator[TestApp]:
    """Another application with the same database and key, but other settings."""
    same = wsgi.registry.mlapi
    app = get_app(str(write_ini(folder, same.database_url, secret_key=same.secret_key, **settings)))
    try:
        yield TestApp(app)
    finally:
        app.registry.database.engine.dispose()


@contextmanager
def little_room(kind: str, folder: Path) -> Iterator[Path]:
    """A folder with space for 16 MiB: a small disk, or a limit of the file size."""
    if kind == "disk":
        mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small disk needs root")
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**24, hard))
        try:
            yield folder
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


PICKY = """\
display_name: Picky
tagline: Takes two files, leaves a model
doctxt: For tests.
functions:
  - name: train
    doctxt: Trains.
    options: []
    creates_new_files: true
    modifies_input_files: false
    expected_filetype: txt
    optional_filetypes: null
    output_tags: []
    input_files: {minimum: 2, maximum: 2}
    output_files: ["model.*"]
"""


def picky(root: Client) -> str:
    """Register a module whose function accepts two files and must output a model; returns its URL."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in (("mlapi.yaml", PICKY), ("main.py", "")):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    made = root.form("modules", {"name": "picky"}, "archive", "picky.tar", packed.getvalue(), status=201)
    return f"{made.json['functions']}/train"
