"""The health of the service: whether it answers, and whether each of its parts is ready."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from webtest import TestApp

from mlapi import revision
from mlapi.application import make_app
from mlapi.models import Worker, workers
from mlapi.models.base import clock
from mlapi.models.workers import WORKER_LIVES
from tests.functional.test_statements import statements
from tests.sockets import ask, frozen, is_unavailable, serving
from tests.support import HOST, Client, another_app, is_problem, little_room

LIVE, READY = "/health/live", "/health/ready"
ALL = {"database": "ready", "schema": "ready", "scheduler": "ready", "store": "ready"}


@pytest.fixture
def scheduler(db: Any) -> None:
    """A scheduler that has sent a heartbeat."""
    workers.beat(db, "one", "here", "1")
    db.commit()


def not_ready(response: Any, **parts: str) -> None:
    """Assert that a response is the problem of these parts and of no others."""
    problem = is_problem(response, 503)
    assert problem["detail"] == f"Not ready: {', '.join(parts)}."
    assert problem["parts"] == {**ALL, **parts}
    assert int(response.headers["Retry-After"]) > 0


def test_a_scheduler_is_heard_of_until_its_heartbeats_end(db: Any) -> None:
    assert not workers.heard(db)
    workers.beat(db, "one", "here", "1")
    assert workers.heard(db)
    db.execute(sa.update(Worker).values(heartbeat=clock(-WORKER_LIVES - 1)))
    assert not workers.heard(db)


def test_a_service_with_all_its_parts_is_ready(scheduler: None, nobody: Client, wsgi: Any) -> None:
    with statements(wsgi) as seen:
        assert nobody("GET", LIVE, status=200).json == {"status": "live"}
        assert seen == []
        assert nobody("GET", READY, status=200).json == {"status": "ready", "parts": ALL}
    assert 0 < len(seen) <= 4


def test_health_needs_no_slot_for_slow_work(scheduler: None, nobody: Client, wsgi: Any) -> None:
    with wsgi.registry.slow_work.slot(), wsgi.registry.slow_work.slot():
        for url in (LIVE, READY):
            nobody("GET", url, status=200)
            nobody("HEAD", url, status=200)


def test_a_service_without_a_scheduler_is_not_ready(nobody: Client) -> None:
    not_ready(nobody("GET", READY), scheduler="No scheduler is running.")


@pytest.mark.parametrize("number", ["0001", None])
def test_a_service_whose_schema_is_not_the_newest_is_not_ready(
    number: str | None, scheduler: None, nobody: Client, db: Any
) -> None:
    newest = revision.revisions()[0]
    table = revision.VERSIONS
    db.execute(sa.delete(table) if number is None else sa.update(table).values(version_num=number))
    db.commit()
    try:
        not_ready(nobody("GET", READY), schema="Not at the newest revision.", scheduler="Unknown.")
    finally:
        db.execute(sa.delete(table))
        db.execute(sa.insert(table).values(version_num=newest))
        db.commit()


def test_a_service_that_cannot_write_to_its_store_is_not_ready(scheduler: None, wsgi: Any, tmp_path: Path) -> None:
    with another_app(wsgi, tmp_path, media_dir=tmp_path / "files") as app:
        other = Client(app)
        other("GET", READY, status=200)
        (tmp_path / "files" / "tmp").rename(tmp_path / "gone")
        not_ready(other("GET", READY), store="Not writable.")


@pytest.mark.parametrize("filled", [False, True])
def test_a_service_without_room_in_its_store_is_not_ready(
    filled: bool, scheduler: None, wsgi: Any, tmp_path: Path
) -> None:
    (tmp_path / "small").mkdir()
    small = little_room("disk", tmp_path / "small")
    with small as folder, another_app(wsgi, tmp_path, media_dir=folder / "files") as app:
        if filled:
            (folder / "filler").write_bytes(bytes(shutil.disk_usage(folder).free))
        not_ready(Client(app)("GET", READY), store="No room.")


def test_a_service_whose_database_does_not_answer_is_not_ready_but_lives(
    postgresql: str, ini: Path, scheduler: None, wsgi: Any, tmp_path: Path
) -> None:
    if wsgi.registry.database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite is not a server")
    with another_app(wsgi, tmp_path, database_timeout=1) as app, serving(app.app) as port:
        assert ask(port, "GET", READY, headers={"Host": HOST}).status == 200
        with frozen(postgresql):
            for _ in range(8):
                answer = ask(port, "GET", READY, headers={"Host": HOST})
                assert is_unavailable(answer)
                assert answer.json["detail"] == "Not ready: database, schema, scheduler."
                assert answer.json["parts"] == {
                    "database": "Not available.",
                    "schema": "Unknown.",
                    "scheduler": "Unknown.",
                    "store": "ready",
                }
                assert ask(port, "GET", LIVE, headers={"Host": HOST}).status == 200


def test_a_service_without_its_database_is_not_ready(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/absent/test.db"
    made = make_app({"mlapi.data_dir": str(tmp_path), "mlapi.database_url": url})
    unknown = {"schema": "Unknown.", "scheduler": "Unknown."}
    not_ready(Client(TestApp(made))("GET", READY), database="Not available.", **unknown)
    Client(TestApp(made))("GET", LIVE, status=200)
    made.registry.database.engine.dispose()


def test_nothing_about_the_machine_is_in_the_answers(nobody: Client, wsgi: Any) -> None:
    settings = wsgi.registry.mlapi
    text = nobody("GET", READY).text + nobody("GET", LIVE).text
    for secret in (str(settings.data_dir), settings.secret_key, settings.database_url, revision.revisions()[0]):
        assert secret not in text
