"""The lists of `mlapi-admin`: users, modules, runs and jobs as tab-separated lines, newest first.

They have the fields and the filters of the lists of the API.
"""

import argparse
import datetime
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from mlapi.database import Database
from mlapi.models import runs
from mlapi.models.jobs import TERMINAL
from mlapi.resources.items import Item
from mlapi.resources.jobs import JobItem
from mlapi.resources.modules import ModuleItem
from mlapi.resources.runs import RunItem
from mlapi.resources.users import UserItem
from mlapi.settings import Settings
from mlapi.values import one_line, row_id

LIMIT = 50
"""Number of lines, unless the option --limit has another."""

Arguments = argparse.Namespace
Command = Callable[[Settings, Arguments], int]


class Listing(NamedTuple):
    """A list: an item class, and the names of the fields that are the columns."""

    item: type[Item[Any, Any]]
    columns: Sequence[str]


USERS = Listing(UserItem, ("name", "role", "created"))
MODULES = Listing(ModuleItem, ("name", "display_name", "created", "version"))
RUNS = Listing(RunItem, ("id", "owner", "pipeline", "created"))
JOBS = Listing(JobItem, ("id", "owner", "run", "module", "function", "status", "attempt", "created", "reason"))


def listusers(settings: Settings, arguments: Arguments) -> int:
    """List users, newest first."""
    return _show(settings, arguments, USERS)


def listmodules(settings: Settings, arguments: Arguments) -> int:
    """List modules with their newest versions, newest first."""
    return _show(settings, arguments, MODULES)


def listruns(settings: Settings, arguments: Arguments) -> int:
    """List runs with their status and progress, newest first."""
    return _show(settings, arguments, RUNS, (("status", "over", "jobs"), _progress))


def listjobs(settings: Settings, arguments: Arguments) -> int:
    """List jobs, newest first."""
    return _show(settings, arguments, JOBS)


LISTS: dict[Command, Listing] = {listusers: USERS, listmodules: MODULES, listruns: RUNS, listjobs: JOBS}
"""The commands and what they list."""

More = tuple[Sequence[str], Callable[[sa.Connection, Sequence[Any]], Iterable[Sequence[object]]]]
"""The names of further columns, and the function that returns their values for the rows."""


def add_options(parser: argparse.ArgumentParser, command: Command) -> None:
    """Add the options of a list: its filters and its limit."""
    for name, field in LISTS[command].item.fields.filters(flat=True).items():
        read = _positive if field.python_type is int else str
        parser.add_argument(f"--{name}", type=read, choices=list(field.choices) if field.choices else None)
    parser.add_argument("--limit", type=_positive, default=LIMIT, help=f"number of lines, by default {LIMIT}")


def _positive(text: str) -> int:
    """A positive integer that both databases can compare."""
    number = row_id(text)
    if number is None:
        raise argparse.ArgumentTypeError("must be a positive integer")
    return number


def _show(settings: Settings, arguments: Arguments, listing: Listing, more: More | None = None) -> int:
    """Print the names of the columns and the rows that match the options."""
    fields = listing.item.fields
    filters = {name: getattr(arguments, name) for name in fields.filters(flat=True)}
    query = sa.select(*(fields[name].column.label(name) for name in listing.columns)).select_from(listing.item.source)
    query = query.where(*(fields[name].column == value for name, value in filters.items() if value is not None))
    query = query.order_by(fields["id"].column.desc()).limit(arguments.limit)
    names, values = more or ((), lambda _db, rows: [()] * len(rows))
    database = Database(settings.database_url)
    with database.reading() as db:
        rows = db.execute(query).all()
        more_values = values(db, rows)
    database.engine.dispose()
    print("\t".join([*listing.columns, *names]))
    for row, others in zip(rows, more_values, strict=True):
        print("\t".join(map(_cell, [*row, *others])))
    return 0


def _progress(db: sa.Connection, rows: Sequence[Any]) -> list[Sequence[object]]:
    """The status of runs, the number of their jobs that have ended, and of all."""
    counts = runs.statuses(db, [row.id for row in rows])
    return [
        (
            runs.status_of(counts[row.id]),
            sum(count for status, count in counts[row.id].items() if status in TERMINAL),
            sum(counts[row.id].values()),
        )
        for row in rows
    ]


def _cell(value: object) -> str:
    """A value as text without tabs, line ends and other control characters."""
    if isinstance(value, datetime.datetime):
        return f"{value.isoformat(timespec='seconds')}Z"
    return "" if value is None else one_line(str(value))
