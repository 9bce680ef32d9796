"""The database: engines, and one transaction per request, which is read-only for GET and HEAD.

For SQLite (docs/decisions/0004), an event begins transactions explicitly, so that writers wait for the lock at their
start instead of failing later. WAL mode is used only in versions that do not lose commits.
"""

import functools
import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry
from zope.sqlalchemy.datamanager import STATUS_CHANGED, join_transaction

from mlapi import postgresql, wake
from mlapi.turns import Busy, Turns, TurnTaking, busy_timeout

log = logging.getLogger(__name__)

POOL = 8
"""Number of connections of an engine."""

TIMEOUT = 30.0
"""Seconds for a statement, or for SQLite's lock, unless the setting `database_timeout` applies."""

READERS = 2
"""Number of threads and connections that writers of SQLite leave to readers."""

DISK_FULL = "53100"
"""PostgreSQL's error code for a disk without space."""

WAKES = "mlapi.wakes"
"""The key in `Session.info` of whether the commit wakes schedulers."""

ACTOR = "actor"
"""The key in `Session.info` of who acts, a text or a function that returns it."""

CANCELLED = "57014"
"""PostgreSQL's error code for a statement that exceeded its time limit."""

SMALL = 10_000
"""Number of rows of a table in SQLite up to which its statistics are not used."""

STEPS = 10_000
"""Number of instructions between two looks of SQLite at the clock, about a millisecond."""

WRITING = {"synchronize_session": False}
"""Execution options of sessions: UPDATE and DELETE do not synchronize loaded objects."""


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Whether SQLite of this version never loses a commit in WAL mode.

    3.7.0 to 3.51.2 can lose a commit when two connections checkpoint at once (https://sqlite.org/wal.html#walresetbug);
    3.44.6 and 3.50.7 contain the fix.
    """
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def sqlite_driver() -> ModuleType:
    """The SQLite driver: Python's own if its WAL mode is safe, else that of the pysqlite3 wheel."""
    own = importlib.import_module("sqlite3")
    if wal_is_safe(own.sqlite_version_info):
        return own
    try:
        return importlib.import_module("pysqlite3")
    except ImportError:
        return own


def is_full(error: Exception) -> bool:
    """Whether an error of a statement means that the database has no space left."""
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlite_errorname", "") == "SQLITE_FULL" or getattr(cause, "sqlstate", "") == DISK_FULL


def make_engine(url: str, pool_size: int = POOL, timeout: float = TIMEOUT, turns: Turns | None = None) -> sa.Engine:
    """An engine for a SQLite file or a PostgreSQL server.

    `timeout` is the time limit of a statement in PostgreSQL, and of waiting for the lock in SQLite, in seconds; writers
    of SQLite in this process queue up in `turns`. The execution option ``sqlite_begin`` selects how a transaction
    begins in SQLite: DEFERRED for reading, or IMMEDIATE (the default) for writing.
    """
    common: dict[str, object] = {
        "json_serializer": lambda value: orjson.dumps(value).decode(),
        "json_deserializer": orjson.loads,
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": timeout,
    }
    if not url.startswith("sqlite"):
        limits = postgresql.options(timeout)
        engine = sa.create_engine(url, connect_args=limits, pool_pre_ping=True, pool_recycle=1800, **common)
        _prepare_postgresql(engine, timeout)
        return engine
    driver = sqlite_driver()
    connection = type("Connection", (TurnTaking, driver.Connection), {})
    factory = functools.partial(connection, turns or Turns(pool_size - READERS), timeout)
    engine = sa.create_engine(url, module=driver, connect_args={"factory": factory}, **common)
    _prepare_sqlite(engine, driver, timeout)
    return engine


def _prepare_postgresql(engine: sa.Engine, timeout: float) -> None:
    """Connect by connections that are closed if the server does not answer."""
    outage, patience = postgresql.Outage(), timeout + postgresql.GRACE

    @sa.event.listens_for(engine, "do_connect")
    def connect(
        _dialect: Dialect, _record: ConnectionPoolEntry, arguments: list[Any], parameters: dict[str, Any]
    ) -> postgresql.BoundedConnection:
        return postgresql.connect(outage, patience, *arguments, **parameters)


def _prepare_sqlite(engine: sa.Engine, driver: ModuleType, timeout: float) -> None:
    """Create the file for its owner only, set up every connection of an engine, and begin its transactions."""
    # Never an existing file: closing it would release the locks of this process. SQLite reports other errors.
    with suppress(OSError):
        os.close(os.open(engine.url.database or "", os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o600))
    wal = wal_is_safe(driver.sqlite_version_info)
    if not wal:
        log.warning("SQLite %s is not safe in WAL mode; install pysqlite3 for speed.", driver.sqlite_version)

    @sa.event.listens_for(engine, "connect")
    def connected(connection: DBAPIConnection, _record: object) -> None:
        connection.isolation_level = None  # The driver must not begin transactions of its own.
        cursor = connection.cursor()
        for pragma in (
            busy_timeout(timeout),
            f"PRAGMA journal_mode={'WAL' if wal else 'TRUNCATE'}",
            "PRAGMA synchronous=FULL",
            "PRAGMA foreign_keys=ON",
            "PRAGMA journal_size_limit=67108864",
        ):
            cursor.execute(pragma)
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        mode = connection.get_execution_options().get("sqlite_begin", "IMMEDIATE")
        raw: Any = connection.connection.dbapi_connection
        try:
            raw.begin(mode)
        except (driver.OperationalError, Busy) as error:  # SQLAlchemy does not wrap errors of driver connections.
            raise OperationalError(f"BEGIN {mode}", None, error) from error


Reader = Session | sa.Connection
"""A source of reads; both types execute statements."""


class TooSlow(Exception):
    """A query exceeded its time limit."""


@contextmanager
def time_limit(reader: Reader, seconds: float) -> Iterator[None]:
    """A block that reads, with a time limit. Raises `TooSlow`, after which the transaction can only be ended.

    PostgreSQL keeps the limit for each further statement of the transaction, SQLite for the block only.
    """
    connection = reader if isinstance(reader, sa.Connection) else reader.connection()
    raw: Any = connection.connection.dbapi_connection
    sqlite = connection.dialect.name == "sqlite"
    if sqlite:
        end = monotonic() + seconds
        raw.set_progress_handler(lambda: monotonic() > end, STEPS)
    else:
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {max(1, round(seconds * 1000))}")
    try:
        yield
    except OperationalError as error:
        if (
            getattr(error.orig, "sqlstate", "") != CANCELLED
            and getattr(error.orig, "sqlite_errorname", "") != "SQLITE_INTERRUPT"
        ):
            raise
        raise TooSlow from error
    finally:
        if sqlite:
            raw.set_progress_handler(None, 0)


class Database:
    """An engine; `writing` creates sessions, `reading` creates read-only connections.

    Commits of sessions that have changed jobs wake the schedulers whose sockets are in the folder `bells`.
    """

    def __init__(self, url: str, pool_size: int = POOL, timeout: float = TIMEOUT, bells: Path | None = None) -> None:
        self._turns = Turns(pool_size - READERS)
        self.engine = make_engine(url, pool_size, timeout, self._turns)
        # Sessions never use loaded objects after an UPDATE or DELETE of their rows; they read them again.
        self.writing: sessionmaker[Session] = sessionmaker(self.engine, execution_options=WRITING)
        sa.event.listen(self.writing, "after_begin", join)
        if bells is not None:
            sa.event.listen(self.writing, "after_commit", functools.partial(_ring_if_due, bells))
        self.lateral = self.engine.dialect.name != "sqlite"
        """Whether a subquery in FROM can refer to the tables before it, which SQLite lacks."""
        self.reading = self.engine.execution_options(sqlite_begin="DEFERRED").connect

    @contextmanager
    def acting(self, actor: str) -> Iterator[Session]:
        """A session for writing in a block, which commits at its end; `actor` is who acts in it."""
        with self.writing(info={ACTOR: actor}) as session, session.begin():
            yield session

    def share(self, threads: int) -> None:
        """Leave some of the server's threads to readers: limit the writers of SQLite that wait."""
        self._turns.limit = max(min(threads, self._turns.limit + READERS) - READERS, 1)


def analyze(engine: sa.Engine) -> None:
    """Collect the statistics of tables and indexes by which the planner of the database chooses."""
    with engine.begin() as db:
        if engine.dialect.name != "sqlite":
            db.exec_driver_sql("ANALYZE")
            return
        # 0x10002 is an ANALYZE of all tables that have changed, with a limit of the rows that it reads.
        db.exec_driver_sql("PRAGMA optimize=0x10002")
        # A table that was small then can be large long before the next time: without statistics, it is taken for large.
        db.exec_driver_sql("DELETE FROM sqlite_stat1 WHERE CAST(stat AS INTEGER) < ?", (SMALL,))
        db.exec_driver_sql("ANALYZE sqlite_schema")


def end(reader: sa.Connection) -> None:
    """End a read-only transaction by a commit: psycopg forgets its prepared statements at a rollback."""
    try:
        reader.commit()
    except sa.exc.SQLAlchemyError:
        log.warning("A connection was lost after it was read from.", exc_info=True)
    finally:
        reader.close()


def writes(request: Any) -> bool:
    """Whether pyramid_tm manages the transaction of a request: all methods except GET and HEAD."""
    return request.method not in ("GET", "HEAD")


def join(session: Session, _transaction: object, _connection: object) -> None:
    """Join a session that begins to the transaction of its request, if it has one.

    The session counts as changed from the start, because zope.sqlalchemy would roll back changes by plain statements.
    """
    if (tm := session.info.get("tm")) is not None:
        join_transaction(session, STATUS_CHANGED, tm)


def wake_schedulers(session: Session) -> None:
    """Wake the schedulers of this machine after the commit of a session, which has queued or ended jobs."""
    session.info[WAKES] = True


def _ring_if_due(bells: Path, session: Session) -> None:
    if session.info.pop(WAKES, False):
        wake.ring(bells)


def includeme(config: Any) -> None:
    """Configure pyramid_tm, and register the database."""
    config.add_settings(
        {
            "tm.manager_hook": "pyramid_tm.explicit_manager",
            "tm.commit_veto": "pyramid_tm.default_commit_veto",
            "tm.activate_hook": "mlapi.database.writes",
            "tm.annotate_user": "false",
        }
    )
    config.include("pyramid_tm")
    settings = config.registry.mlapi
    config.registry.database = Database(
        settings.database_url, timeout=settings.database_timeout, bells=settings.data_dir
    )
