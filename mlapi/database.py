"""The engine, and the session of a request: one transaction, read-only for GET and HEAD.

SQLite needs care (docs/decisions/0004): transactions are begun by ourselves, so that writers queue for the
lock at their start instead of failing in the middle, and WAL is used only where SQLite has no known way of
losing a commit in it.
"""

import importlib
import logging
from types import ModuleType
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker
from zope.sqlalchemy.datamanager import STATUS_CHANGED, join_transaction

log = logging.getLogger(__name__)

BUSY_TIMEOUT = 10_000
"""Milliseconds for which a writer waits for SQLite's lock."""

WRITING = {"synchronize_session": False}
"""Execution options of sessions: UPDATE and DELETE are statements and nothing more."""

POSTGRESQL_OPTIONS = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "timezone": "UTC",
        "statement_timeout": "30s",
        "lock_timeout": "10s",
        "idle_in_transaction_session_timeout": "60s",
    }.items()
)


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Whether SQLite of this version keeps every commit in WAL mode.

    3.7.0 to 3.51.2 can lose one when two connections checkpoint at once (https://sqlite.org/wal.html#walresetbug);
    3.44.6 and 3.50.7 have the fix as well.
    """
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def sqlite_driver() -> ModuleType:
    """The SQLite to use: Python's own where its WAL is safe, else the newer one of the pysqlite3 wheel."""
    own = importlib.import_module("sqlite3")
    if wal_is_safe(own.sqlite_version_info):
        return own
    try:
        return importlib.import_module("pysqlite3")
    except ImportError:
        return own


def make_engine(url: str, pool_size: int = 8) -> sa.Engine:
    """An engine for a SQLite file or a PostgreSQL server.

    Sessions say by the execution option ``sqlite_begin`` whether a transaction begins DEFERRED, for reading, or
    IMMEDIATE, the default.
    """
    common: dict[str, object] = {
        "json_serializer": lambda value: orjson.dumps(value).decode(),
        "json_deserializer": orjson.loads,
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": 10,
    }
    if not url.startswith("sqlite"):
        connect = {"options": POSTGRESQL_OPTIONS, "connect_timeout": 5}
        return sa.create_engine(url, connect_args=connect, pool_pre_ping=True, pool_recycle=1800, **common)
    driver = sqlite_driver()
    engine = sa.create_engine(url, module=driver, **common)
    _prepare_sqlite(engine, driver)
    return engine


def _prepare_sqlite(engine: sa.Engine, driver: ModuleType) -> None:
    """Set up every connection of an engine, and begin its transactions."""
    wal = wal_is_safe(driver.sqlite_version_info)
    if not wal:
        log.warning("SQLite %s is not safe in WAL mode; install pysqlite3 for speed.", driver.sqlite_version)

    @sa.event.listens_for(engine, "connect")
    def connected(connection: DBAPIConnection, _record: object) -> None:
        connection.isolation_level = None  # The driver must not begin transactions of its own.
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT}",
            f"journal_mode={'WAL' if wal else 'TRUNCATE'}",
            "synchronous=FULL",
            "foreign_keys=ON",
            "journal_size_limit=67108864",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        mode = connection.get_execution_options().get("sqlite_begin", "IMMEDIATE")
        try:
            connection.connection.cursor().execute(f"BEGIN {mode}")
        except driver.OperationalError as error:  # What goes past SQLAlchemy is not wrapped by it.
            raise OperationalError(f"BEGIN {mode}", None, error) from error


class Database:
    """An engine; `writing` makes sessions on it, `reading` makes connections that only read."""

    def __init__(self, url: str, pool_size: int = 8) -> None:
        self.engine = make_engine(url, pool_size)
        # No session keeps rows that an UPDATE or DELETE of its own has changed: where it needs one, it reads it again.
        self.writing: sessionmaker[Session] = sessionmaker(self.engine, execution_options=WRITING)
        sa.event.listen(self.writing, "after_begin", join)
        self.reading = self.engine.execution_options(sqlite_begin="DEFERRED").connect


Reader = Session | sa.Connection
"""What reads from the database: both execute statements."""


def writes(request: Any) -> bool:
    """Whether a request's transaction is pyramid_tm's to commit: GET and HEAD only read."""
    return request.method not in ("GET", "HEAD")


def join(session: Session, _transaction: object, _connection: object) -> None:
    """Join a session that begins to its request's transaction, where it has one.

    Whatever the session did is committed with it: it counts as changed from the start, since zope.sqlalchemy would
    roll back what was not done through entities.
    """
    if (tm := session.info.get("tm")) is not None:
        join_transaction(session, STATUS_CHANGED, tm)


def includeme(config: Any) -> None:
    """Give requests their `db`, and their transactions to pyramid_tm."""
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
    config.registry.database = Database(settings.database_url)
