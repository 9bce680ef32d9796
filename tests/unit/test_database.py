"""The database: configuration of SQLite and PostgreSQL, transactions, and a busy database."""

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pyramid.paster import get_appsettings
from webtest import TestApp

from mlapi import database
from mlapi.application import make_app
from mlapi.database import Database, make_engine, sqlite_driver, wal_is_safe
from mlapi.execution import scheduler
from mlapi.models import Base, User, users
from mlapi.models.base import clock
from mlapi.settings import Settings
from mlapi.storage.local import LocalStore
from tests.processes import wait_for
from tests.support import PASSWORD, Client, is_problem, write_ini

needs_wal = pytest.mark.skipif(
    not wal_is_safe(sqlite_driver().sqlite_version_info), reason="no SQLite here is safe in WAL mode"
)
COUNT = sa.select(sa.func.count()).select_from(User)


def add(db: Any, name: str) -> None:
    """Add a user."""
    db.execute(sa.insert(User).values(name=name, password_hash="", role="user"))


@pytest.fixture
def url(tmp_path: Path) -> str:
    """URL of a SQLite file."""
    return f"sqlite:///{tmp_path}/test.db"


@pytest.fixture
def sqlite(url: str) -> Iterator[Database]:
    """A SQLite database with the tables in it."""
    made = Database(url)
    Base.metadata.create_all(made.engine)
    yield made
    made.engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: Any) -> Iterator[sa.Engine]:
    """An engine of SQLite or PostgreSQL."""
    engine = make_engine(request.getfixturevalue("url" if request.param == "sqlite" else "postgresql"))
    yield engine
    engine.dispose()


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 6, 23), False),
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 44, 99), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 0), False),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 53, 4), True),
        ((4, 0, 0), True),
    ],
)
def test_wal_is_safe_where_the_reset_bug_is_fixed(version: tuple[int, ...], safe: bool) -> None:
    assert wal_is_safe(version) is safe


def test_pythons_own_sqlite_is_used_where_it_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "wal_is_safe", lambda version: True)
    assert sqlite_driver() is sqlite3


def test_the_wheels_sqlite_is_used_where_pythons_own_is_not_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = pytest.importorskip("pysqlite3")
    monkeypatch.setattr(database, "wal_is_safe", lambda version: False)
    assert sqlite_driver() is wheel


def test_an_unsafe_sqlite_is_used_without_wal_and_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "wal_is_safe", lambda version: False)
    monkeypatch.setitem(sys.modules, "pysqlite3", None)  # As if the wheel were not installed.
    engine = make_engine(url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "truncate"
        assert isinstance(connection.connection.dbapi_connection, sqlite3.Connection)
    engine.dispose()
    assert "not safe in WAL mode" in caplog.text


@pytest.mark.parametrize(
    ("pragma", "value"),
    [
        pytest.param("journal_mode", "wal", marks=needs_wal),
        ("synchronous", 2),
        ("foreign_keys", 1),
        ("busy_timeout", 30_000),
        ("journal_size_limit", 64 * 2**20),
    ],
)
def test_every_connection_to_sqlite_is_configured(sqlite: Database, pragma: str, value: Any) -> None:
    with sqlite.engine.connect() as writer, sqlite.reading() as reader:
        for each in (writer, reader):
            assert each.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TimeZone", "UTC"),
        ("statement_timeout", "30s"),
        ("lock_timeout", "15s"),
        ("idle_in_transaction_session_timeout", "1min"),
    ],
)
def test_every_connection_to_postgresql_is_configured(postgresql: str, name: str, value: str) -> None:
    engine = make_engine(postgresql)
    with engine.connect() as connection:
        assert connection.exec_driver_sql(f"SHOW {name}").scalar() == value
    engine.dispose()


def test_every_connection_to_postgresql_detects_a_lost_server(postgresql: str) -> None:
    engine = make_engine(postgresql, timeout=7)
    with engine.connect() as connection:
        driver_connection = connection.connection.driver_connection
        assert driver_connection is not None
        parameters = driver_connection.info.get_parameters()
    expected = {"connect_timeout": "7", "keepalives_idle": "7", "keepalives_count": "3", "tcp_user_timeout": "7000"}
    assert expected.items() <= parameters.items()
    engine.dispose()


def test_a_connection_that_postgresql_dropped_is_replaced(postgresql: str) -> None:
    engine, other = make_engine(postgresql, pool_size=1), make_engine(postgresql)
    with engine.connect() as connection:
        dropped = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
    with other.connect() as connection:
        connection.exec_driver_sql(f"SELECT pg_terminate_backend({dropped}, 5000)")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar() != dropped
    engine.dispose()
    other.dispose()


@needs_wal
def test_only_the_owner_can_read_a_new_sqlite_database(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = Database(f"sqlite:///{tmp_path}/new.db")
        with made.writing.begin() as db:
            db.execute(sa.text("CREATE TABLE some (id INTEGER)"))
            modes = {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()}
        made.engine.dispose()
    finally:
        os.umask(before)
    assert set(modes.values()) == {"0o600"}, modes
    assert len(modes) > 1  # The journal, or the log, is beside it.


def test_a_writer_does_not_block_readers(sqlite: Database) -> None:
    with sqlite.writing() as writer:
        add(writer, "ada")
        began = time.monotonic()
        with sqlite.reading() as reader:
            assert reader.scalar(COUNT) == 0
        assert time.monotonic() - began < 1.0
        writer.commit()
    with sqlite.reading() as reader:
        assert reader.scalar(COUNT) == 1


@needs_wal
def test_a_reader_does_not_block_writers_and_has_a_snapshot(sqlite: Database) -> None:
    with sqlite.reading() as reader:
        assert reader.scalar(COUNT) == 0
        with sqlite.writing.begin() as writer:
            add(writer, "ada")
        assert reader.scalar(COUNT) == 0
    with sqlite.reading() as reader:
        assert reader.scalar(COUNT) == 1


def test_writers_wait_for_each_other_and_lose_nothing(sqlite: Database) -> None:
    """The transactions read before they write: if they began DEFERRED, most would fail immediately."""

    def write(writer: int) -> None:
        for _ in range(10):
            with sqlite.writing.begin() as db:
                count = db.scalar(COUNT)
                add(db, f"user-{count}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    with sqlite.reading() as reader:
        assert set(reader.scalars(sa.select(User.name))) == {f"user-{number}" for number in range(40)}


def test_an_error_in_a_transaction_rolls_it_back(sqlite: Database) -> None:
    def add_twice() -> None:
        with sqlite.writing.begin() as db:
            add(db, "ada")
            add(db, "ada")

    with pytest.raises(sa.exc.IntegrityError):
        add_twice()
    with sqlite.reading() as reader:
        assert reader.scalar(COUNT) == 0


def test_an_update_and_a_delete_are_one_statement_and_leave_loaded_rows_alone(sqlite: Database) -> None:
    with sqlite.writing() as db:
        add(db, "ada")
        user = db.scalars(sa.select(User)).one()
        seen: list[str] = []
        sa.event.listen(sqlite.engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
        db.execute(sa.update(User).where(sa.func.lower(User.name) == "ada").values(role="admin"))
        assert user.role == "user"
        db.refresh(user)
        assert user.role == "admin"
        db.execute(sa.delete(User).where(sa.func.lower(User.name) == "ada"))
        assert [statement.split()[0] for statement in seen] == ["UPDATE", "SELECT", "DELETE"]


def test_the_clock_of_the_database_is_in_utc(either: sa.Engine) -> None:
    with either.connect() as connection:
        present = connection.scalar(sa.select(clock()))
        assert isinstance(present, datetime)
        assert present.tzinfo is None
        assert abs(present - datetime.now(UTC).replace(tzinfo=None)) < timedelta(seconds=2)


@pytest.mark.parametrize("seconds", [60.0, -60.0, 0.25, 604800.0])
def test_the_clock_of_the_database_adds_seconds(either: sa.Engine, seconds: float) -> None:
    with either.connect() as connection:
        present, then = connection.execute(sa.select(clock(), clock(seconds).label("then"))).one()
        assert abs(then - present - timedelta(seconds=seconds)) < timedelta(seconds=0.1)


def test_times_from_python_compare_with_the_clock_of_the_database(either: sa.Engine) -> None:
    kept = sa.Table("kept", sa.MetaData(), sa.Column("at", sa.DateTime), prefixes=["TEMPORARY"])
    with either.connect() as connection:
        kept.create(connection)
        present = connection.scalar(sa.select(clock()))
        whole = present.replace(microsecond=0)  # Without a fraction, the text would be shorter and sort differently.
        connection.execute(kept.insert(), [{"at": whole}, {"at": present}])
        between = sa.select(sa.func.count()).where(kept.c.at > clock(-5), kept.c.at < clock(5))
        assert connection.scalar(between) == 2
        assert connection.scalar(between.where(kept.c.at > clock(1))) == 0


@pytest.mark.parametrize(("rows", "kept"), [(100, False), (20_000, True)])
def test_the_statistics_of_the_planner_are_those_of_large_tables(either: sa.Engine, rows: int, kept: bool) -> None:
    table = sa.Table("rows", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer))
    sa.Index("ix_rows_n", table.c.n)
    table.create(either)
    with either.begin() as db:
        db.execute(table.insert(), [{"n": number % 7} for number in range(rows)])
    database.analyze(either)
    counted = {"sqlite": "SELECT stat FROM sqlite_stat1 WHERE idx = 'ix_rows_n'"}
    other = "SELECT reltuples::integer FROM pg_class WHERE relname = 'rows'"
    with either.connect() as db:
        found = db.exec_driver_sql(counted.get(either.dialect.name, other)).scalar()
        kept = kept or either.dialect.name != "sqlite"
        assert (int(str(found).split()[0]) if found else None) == (rows if kept else None)
    table.drop(either)


ENDLESS = sa.text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")


def test_a_query_beyond_its_time_limit_is_stopped(either: sa.Engine) -> None:
    with either.execution_options(sqlite_begin="DEFERRED").connect() as connection:
        with pytest.raises(database.TooSlow), database.time_limit(connection, 0.01):
            connection.execute(ENDLESS)
        connection.rollback()
        with database.time_limit(connection, 60):
            assert connection.scalar(sa.select(1)) == 1
        with pytest.raises(sa.exc.DBAPIError), database.time_limit(connection, 60):
            connection.execute(sa.text("SELECT nothing"))


def test_the_end_of_a_reader_keeps_prepared_statements(postgresql: str) -> None:
    """Psycopg prepares a statement when it is executed for the sixth time, and forgets it at a rollback."""
    engine = make_engine(postgresql, pool_size=1)
    for _ in range(7):
        connection = engine.connect()
        connection.execute(sa.select(sa.literal(1)))
        database.end(connection)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar()
    engine.dispose()


def test_a_reader_whose_connection_is_lost_is_closed(postgresql: str) -> None:
    engine, other = make_engine(postgresql, pool_size=1), make_engine(postgresql)
    connection = engine.connect()
    lost = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
    with other.connect() as killer:
        killer.exec_driver_sql(f"SELECT pg_terminate_backend({lost}, 5000)")
    database.end(connection)
    assert connection.closed
    with engine.connect() as again:
        assert again.scalar(sa.select(1)) == 1
    engine.dispose()
    other.dispose()


@pytest.fixture
def impatient(sqlite: Database, url: str, tmp_path: Path) -> Iterator[Client]:
    """Ada's client of an application that waits only briefly for SQLite's lock."""
    app = make_app(get_appsettings(str(write_ini(tmp_path, url, database_timeout=0.05))))
    with sqlite.writing.begin() as db:
        users.create(db, "ada", app.registry.passwords.hash(PASSWORD))
    yield Client(TestApp(app, extra_environ={"HTTP_HOST": "localhost:6543"}), "ada")
    app.registry.database.engine.dispose()


def test_a_busy_database_is_a_503_with_retry_after(impatient: Client, sqlite: Database) -> None:
    with sqlite.writing() as holder:
        add(holder, "grace")
        refused = impatient("POST", "users/ada/pipelines", {"name": "p"})
        is_problem(refused, 503)
        assert int(refused.headers["Retry-After"]) > 0
    impatient("POST", "users/ada/pipelines", {"name": "p"}, status=201)


@needs_wal
def test_a_busy_database_can_be_read(impatient: Client, sqlite: Database) -> None:
    with sqlite.writing() as holder:
        add(holder, "grace")
        assert impatient("GET", "users/ada", status=200).json["name"] == "ada"


class Ended:
    """An executor whose only runner has ended."""

    def __init__(self) -> None:
        self.polls = 0

    def poll(self) -> dict[int, int]:
        self.polls += 1
        return {1: 9}

    def kill(self, attempt_id: int) -> bool:
        return True

    def descriptors(self) -> list[int]:
        return []

    def close(self) -> None:
        pass


def test_a_scheduler_survives_a_busy_database(
    sqlite: Database, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "RECOVERY", 0.01)
    settings, executor, own = Settings.read({"mlapi.data_dir": str(tmp_path)}, {}), Ended(), Database(url, timeout=0.05)
    scheduling = scheduler.Scheduler(settings, own, executor, LocalStore(tmp_path / "files"), str, lambda: True)
    thread = threading.Thread(target=scheduling.run)
    with sqlite.writing() as holder:
        add(holder, "grace")
        thread.start()
        wait_for(lambda: executor.polls >= 3 or not thread.is_alive(), "the third try")
        assert thread.is_alive()
    scheduling.stop()
    thread.join(timeout=5)
    assert not thread.is_alive()
    own.engine.dispose()
