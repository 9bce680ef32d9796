"""The revision of the database, as the start of every command checks it."""

import datetime
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from pyramid.paster import get_appsettings

from mlapi import revision
from mlapi.database import make_engine
from mlapi.models.metrics import Metric
from mlapi.settings import Settings
from tests.support import new_database, write_ini


@pytest.fixture(params=["sqlite", "postgresql"])
def ini(request: Any, tmp_path: Path) -> Path:
    """An ini file with an empty database."""
    of_server = request.param == "postgresql" and new_database(request.getfixturevalue("postgresql"))
    return write_ini(tmp_path, of_server or f"sqlite:///{tmp_path}/test.db")


@pytest.fixture
def settings(ini: Path) -> Settings:
    """The settings of the ini file."""
    return Settings.read(get_appsettings(str(ini)), {})


def refusal(settings: Settings, ini: Path, *, migrate: bool = False) -> str:
    """The message with which the database is refused."""
    with pytest.raises(revision.UnusableDatabase) as caught:
        revision.prepare(settings, str(ini), migrate=migrate)
    return str(caught.value)


def at(settings: Settings, number: str) -> None:
    """Set the revision of the database, whatever its tables are."""
    engine = make_engine(settings.database_url)
    with engine.begin() as db:
        db.execute(sa.update(revision.VERSIONS).values(version_num=number))
    engine.dispose()


def test_the_revisions_are_those_of_alembic() -> None:
    known = ScriptDirectory(str(revision.MIGRATIONS)).walk_revisions()
    assert revision.revisions() == tuple(script.revision for script in known)


def test_the_command_of_the_refusal_migrates_the_database(settings: Settings, ini: Path) -> None:
    message, _, remedy = refusal(settings, ini).rpartition(" run: ")
    assert message == "The database has no tables. To create them,"
    assert remedy.endswith(f"/alembic -c {ini} upgrade head")
    subprocess.run(shlex.split(remedy), check=True, capture_output=True)
    revision.prepare(settings, str(ini), migrate=False)


def test_a_database_of_another_revision_is_refused(settings: Settings, ini: Path) -> None:
    revision.prepare(settings, str(ini), migrate=True)
    newest, *_, oldest = revision.revisions()
    at(settings, oldest)
    assert f"The database is at revision {oldest} instead of {newest}." in refusal(settings, ini)
    at(settings, "9999")
    for migrate in (False, True):
        assert "A newer version of mlapi has migrated the database to revision 9999." in refusal(
            settings, ini, migrate=migrate
        )


def test_an_old_database_is_migrated_if_that_is_wanted(settings: Settings, ini: Path) -> None:
    revision.upgrade(settings.database_url, revision.revisions()[-1])
    revision.prepare(settings, str(ini), migrate=True)
    revision.prepare(settings, str(ini), migrate=False)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:////no/such/folder/test.db", "unable to open database file"),
        ("postgresql+psycopg://ada:secret@127.0.0.1:1/x", "Connection refused"),
        ("no URL", "Could not parse"),
        ("nothing://x", "Can't load plugin"),
    ],
)
def test_a_database_that_is_not_available_is_named_without_its_password(url: str, words: str, tmp_path: Path) -> None:
    ini = write_ini(tmp_path, url)
    message = refusal(Settings.read(get_appsettings(str(ini)), {}), ini)
    assert words in message
    assert "secret" not in message
    assert f"correct mlapi.database_url, then run: {revision.command_line('alembic')} -c {ini}" in message
    assert "\n" not in message


def test_a_program_that_is_not_installed_here_is_found_on_the_path() -> None:
    assert revision.command_line("no-such-program", "a b") == "no-such-program 'a b'"


OLDER: dict[str, dict[str, Any]] = {
    "users": {"id": 1},
    "pipelines": {"id": 7, "owner_id": 1},
    "runs": {"id": 3, "pipeline_id": 7, "owner_id": 1},
    "modules": {"id": 1},
    "module_versions": {"id": 1, "module_id": 1},
    "functions": {"id": 1, "version_id": 1},
    "jobs": {"id": 5, "run_id": 3, "owner_id": 1, "function_id": 1, "status": "FINISHED"},
}
"""Rows before jobs had pipelines; their other columns have any value."""

ANY: dict[type, object] = {str: "", int: 0, bool: False, object: {}, datetime.datetime: datetime.datetime(2026, 1, 1)}  # noqa: DTZ001


@pytest.fixture
def older(settings: Settings) -> Iterator[Callable[[str, dict[str, Any]], sa.Engine]]:
    """Creates a database at an older revision with the older rows, with changed values."""
    engine = make_engine(settings.database_url)

    def create(number: str, changed: dict[str, Any]) -> sa.Engine:
        revision.upgrade(settings.database_url, number)
        tables = sa.MetaData()
        tables.reflect(engine)
        with engine.begin() as db:
            for name in {**OLDER, **changed}:
                columns = tables.tables[name].c
                others = {column.name: ANY[column.type.python_type] for column in columns if not column.nullable}
                values = OLDER.get(name, {}) | changed.get(name, {})
                db.execute(tables.tables[name].insert().values(others | values))
        return engine

    yield create
    engine.dispose()


def test_older_jobs_get_the_pipelines_of_their_runs(settings: Settings, older: Any) -> None:
    engine = older("0002", {})
    revision.upgrade(settings.database_url)
    with engine.connect() as db:
        assert db.execute(sa.text("SELECT id, pipeline_id FROM jobs")).all() == [(5, 7)]


METRICS = {
    "accuracy": 0.75,
    "robust": {"at": {"0.1": 7, "why": "x"}, "loss": -1e-300},
    "deep": [1],
    "good": True,
    "none": None,
    "text": "1",
    "x" * 201: 1,
}


@pytest.mark.parametrize(
    ("status", "points"),
    [("FINISHED", [("accuracy", 0.75), ("robust.at.0.1", 7.0), ("robust.loss", -1e-300)]), ("FAILED", [])],
)
def test_the_metrics_of_older_jobs_become_points(status: str, points: Any, settings: Settings, older: Any) -> None:
    ended = datetime.datetime(2026, 2, 3)  # noqa: DTZ001
    job = {"pipeline_id": 7, "attempt": 2, "status": status, "metrics": METRICS, "ended": ended}
    engine = older("0003", {"jobs": job, "attempts": {"id": 4, "job_id": 5, "number": 2}})
    revision.upgrade(settings.database_url)
    with engine.connect() as db:
        found = db.execute(sa.select(Metric).order_by(Metric.name)).all()
    assert [(point.name, point.value) for point in found] == points
    assert sorted(point.number for point in found) == list(range(1, len(points) + 1))
    assert all((point.attempt_id, point.step, point.time) == (4, None, ended) for point in found)


NOTE = """
CREATE TABLE limits (value text);
CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO limits VALUES (current_setting('statement_timeout')); END $$;
CREATE EVENT TRIGGER noted ON ddl_command_end EXECUTE FUNCTION note();
"""


def test_the_statements_of_migrations_have_no_time_limit(postgresql: str) -> None:
    url = new_database(postgresql)
    engine = make_engine(url)
    with engine.begin() as db:
        db.exec_driver_sql(NOTE)
    revision.upgrade(url)
    with engine.connect() as db:
        assert set(db.scalars(sa.text("SELECT value FROM limits"))) == {"0"}
    engine.dispose()
