"""SELECTs that the driver executes itself: the same rows and errors as those of SQLAlchemy."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from mlapi.database import Database
from mlapi.models import Base, File, Job, Pipeline, runs
from mlapi.prepared import fetch
from tests.rows import furnish
from tests.support import new_database


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: Any, tmp_path: Any) -> Iterator[Database]:
    """A database with a run."""
    url = (
        f"sqlite:///{tmp_path}/test.db"
        if request.param == "sqlite"
        else new_database(request.getfixturevalue("postgresql"))
    )
    database = Database(url)
    Base.metadata.create_all(database.engine)
    with database.writing.begin() as db:
        pipeline, file = furnish(db, [None])
        runs.start(db, pipeline, [file])
    yield database
    database.engine.dispose()


@pytest.mark.parametrize("kind", [Job, File, Pipeline])
def test_rows_are_those_of_sqlalchemy(kind: Any, database: Database) -> None:
    """Times, JSON objects and booleans are converted, as by SQLAlchemy."""
    table = kind.__table__
    statement = sa.select(*table.c, sa.literal("x").label("x")).where(table.c.id == sa.bindparam("id"))
    with database.reading() as db, database.writing() as session:
        expected = [tuple(row) for row in db.execute(statement, {"id": 1})]
        assert len(expected) == 1
        for reader in (db, session, db):
            assert fetch(reader, statement, {"id": 1, "unused": 2}) == expected
        assert fetch(db, statement, {"id": 2}) == []


def test_rows_of_a_transaction_do_not_change(database: Database) -> None:
    statement = sa.select(Pipeline.name).where(Pipeline.id == sa.bindparam("id"))
    with database.reading() as db:
        assert fetch(db, statement, {"id": 1}) == [("p",)]
        assert db.in_transaction()
        with database.writing.begin() as other:
            other.execute(sa.update(Pipeline).values(name="q"))
        committed = "q" if database.engine.dialect.name == "postgresql" else "p"  # READ COMMITTED, and a snapshot.
        assert fetch(db, statement, {"id": 1}) == [(committed,)]
    with database.reading() as db:
        assert fetch(db, statement, {"id": 1}) == [("q",)]


def test_errors_are_those_of_sqlalchemy(database: Database) -> None:
    statement = sa.select(sa.column("nothing")).select_from(Pipeline.__table__)
    with database.reading() as db:
        with pytest.raises(sa.exc.DBAPIError) as expected:
            db.execute(statement)
        db.rollback()
        with pytest.raises(type(expected.value)) as caught:
            fetch(db, statement, {})
        assert caught.value.orig.args == expected.value.orig.args  # type: ignore[union-attr]
        assert not caught.value.connection_invalidated


def test_a_lost_connection_is_replaced(postgresql: str) -> None:
    database = Database(postgresql)
    statement = sa.select(sa.func.pg_backend_pid())
    with database.reading() as db, database.reading() as other:
        [(lost,)] = fetch(db, statement, {})
        other.exec_driver_sql(f"SELECT pg_terminate_backend({lost}, 5000)")
        with pytest.raises(sa.exc.OperationalError) as caught:
            fetch(db, statement, {})
        assert caught.value.connection_invalidated
        assert db.invalidated
    with database.reading() as db:
        assert fetch(db, statement, {}) != [(lost,)]
    database.engine.dispose()
