"""The revision of the database: the migrations that it has had, and those that this version of mlapi needs.

The migrations are `mlapi/migrations`, in a checkout a link to `alembic/`.
"""

import functools
import re
import shlex
import sys
from pathlib import Path

import sqlalchemy as sa

from mlapi.database import Database
from mlapi.settings import Settings, SettingsError

MIGRATIONS = Path(__file__).parent / "migrations"

NAMED = re.compile(r"^(revision|down_revision) = ['\"]?(\w+)", re.MULTILINE)
"""The revisions in the head of a migration."""

VERSIONS = sa.table("alembic_version", sa.column("version_num", sa.Text))


class UnusableDatabase(SettingsError):
    """The database cannot be used as it is; the message names the command to run."""


@functools.cache
def revisions() -> tuple[str, ...]:
    """The revisions that this version of mlapi knows, newest first.

    They are read without alembic, whose import would be a tenth of the start of every command.
    """
    following = {}
    for migration in MIGRATIONS.glob("versions/*.py"):
        named = dict(NAMED.findall(migration.read_text(encoding="utf-8")))
        following[named["down_revision"]] = named["revision"]
    found = [following["None"]]
    while found[-1] in following:
        found.append(following[found[-1]])
    return tuple(reversed(found))


def current(db: sa.Connection) -> str | None:
    """The revision of the database, or None before the first migration."""
    if not sa.inspect(db).has_table(VERSIONS.name):
        return None
    revision: str | None = db.scalar(sa.select(VERSIONS.c.version_num))
    return revision


def upgrade(url: str, target: str = "head") -> None:
    """Migrate a database to a revision, by default the newest."""
    from alembic.config import Config

    from alembic import command

    config = Config(attributes={"url": url})
    config.set_main_option("script_location", "mlapi:migrations")
    command.upgrade(config, target)


def prepare(settings: Settings, ini: str, *, migrate: bool) -> None:
    """Ensure that the database is at the newest revision, or migrate it to that. Raises `UnusableDatabase`."""
    newest, *older = revisions()
    remedy = f"run: {command_line('alembic', '-c', ini, 'upgrade', 'head')}"
    try:
        found = _revision_of(settings)
        if migrate and found in (None, *older):
            upgrade(settings.database_url)
            found = _revision_of(settings)
    except (sa.exc.SQLAlchemyError, ImportError) as error:
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
