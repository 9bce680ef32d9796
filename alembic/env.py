"""Migrations: of the database of an ini file, `alembic -c INI upgrade head`, or of the URL in the attribute `url`."""

import math
from typing import Any

import sqlalchemy as sa
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from alembic import context
from mlapi.cli import settings_of
from mlapi.database import make_engine
from mlapi.models import Base
from mlapi.settings import SettingsError


def prepare_sqlite(opened: Any, _record: object) -> None:
    """Check no foreign keys: tables that others refer to are replaced by changed copies."""
    opened.execute("PRAGMA foreign_keys=OFF")


def prepare_postgresql(opened: Any, _record: object) -> None:
    """Let a statement take as long as a large table needs."""
    opened.execute("SET statement_timeout = 0")
    opened.commit()
    opened.patience = math.inf


def connect() -> Connection:
    """Connect to the database. Raises `CommandError`, which alembic shows without a traceback."""
    config = context.config
    try:
        url = config.attributes.get("url") or settings_of(str(config.config_file_name)).database_url
        engine = make_engine(url)
        sa.event.listen(engine, "connect", prepare_sqlite if engine.dialect.name == "sqlite" else prepare_postgresql)
        return engine.connect()
    except (SettingsError, OperationalError) as error:
        raise CommandError(str(getattr(error, "orig", error))) from None


def migrate() -> None:
    """Run the migrations, each in its own transaction."""
    with connect() as connection:
        sqlite = connection.dialect.name == "sqlite"
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=sqlite,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    connection.engine.dispose()


migrate()
