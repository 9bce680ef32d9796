"""The revision of the database: the migrations that it has had, and those that this version of mlapi needs.

The migrations are `mlapi/migrations`, in a checkout a link to `alembic/`.
"""

import functools
import shlex
import sys
from pathlib import Path

import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from alembic import command
from mlapi.database import Database
from mlapi.settings import Settings, SettingsError

VERSIONS = sa.table("alembic_version", sa.column("version_num", sa.Text))


class UnusableDatabase(SettingsError):
    """The database cannot be used as it is; the message names the command to run."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "mlapi:migrations")
    return config


@functools.cache
def revisions() -> tuple[str, ...]:
    """The revisions that this version of mlapi knows, newest first."""
    return tuple(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def current(db: sa.Connection) -> str | None:
    """The revision of the database, or None before the first migration."""
    if not sa.inspect(db).has_table(VERSIONS.name):
        return None
    revision: str | None = db.scalar(sa.select(VERSIONS.c.version_num))
    return revision


def upgrade(url: str) -> None:
    """Migrate a database to the newest revision."""
    config = _config()
    config.attributes["url"] = url
    command.upgrade(config, "head")


def prepare(settings: Settings, ini: str, *, migrate: bool) -> None:
    """Ensure that the database is at the newest revision, or migrate it to that. Raises `UnusableDatabase`."""
    newest, *older = revisions()
    remedy = f"run: {command_line('alembic', '-c', ini, 'upgrade', 'head')}"
    try:
        found = _revision_of(settings)
        if migrate and found in (None, *older):
            upgrade(settings.database_url)
            found = _revision_of(settings)
    except (sa.exc.SQLAlchemyError, CommandError, ImportError) as error:
        reason = str(getattr(error, "orig", error)).partition("\n")[0].rstrip(".")
        raise UnusableDatabase(
            f"The database {_shown(settings.database_url)} is not available: {reason}. "
            f"Start it or correct mlapi.database_url, then {remedy}"
        ) from None
    if found is None:
        raise UnusableDatabase(f"The database has no tables. To create them, {remedy}")
    if found in older:
        raise UnusableDatabase(f"The database is at revision {found} instead of {newest}. To migrate it, {remedy}")
    if found != newest:
        raise UnusableDatabase(f"A newer version of mlapi has migrated the database to revision {found}. Install it.")


def _revision_of(settings: Settings) -> str | None:
    database = Database(settings.database_url, timeout=settings.database_timeout)
    try:
        with database.reading() as db:
            return current(db)
    finally:
        database.engine.dispose()


def _shown(url: str) -> str:
    """A URL without its password, or the name of the setting if it is malformed."""
    try:
        return sa.make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return "of mlapi.database_url"


def command_line(program: str, *words: str) -> str:
    """The command line of a program of this environment, for a shell."""
    installed = Path(sys.executable).with_name(program)
    return shlex.join([str(installed) if installed.exists() else program, *words])
