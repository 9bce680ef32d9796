"""Common parts of all tables: names of constraints, JSON columns, times, ids, slugs.

Times are UTC without a time zone in both databases. Ids are integers that are never reused.
"""

import datetime
import functools
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Self, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapped, Session, mapped_column
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

from mlapi.errors import Gone, Invalid

SLUG = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}", re.ASCII)
"""Names of users and modules, which appear in URLs."""

Json = sa.JSON(none_as_null=True)
JsonObject: TypeAlias = dict[str, object]
"""A JSON object, such as the tags of a file or the metrics of a job."""
JsonList: TypeAlias = list[object]
"""A JSON list."""

Query = TypeVar("Query", bound=sa.Select[*tuple[Any, ...]])

Time = Annotated[datetime.datetime, mapped_column(sa.DateTime)]


class clock(GenericFunction[datetime.datetime]):  # noqa: N801 - it is written as the SQL function that it is
    """The clock of the database, in UTC with milliseconds, optionally `seconds` from now.

    Every time in a row comes from it: the processes of a service agree on the order of events and on whether a
    lease has expired, even if the clocks of their machines differ.
    """

    type = sa.DateTime()
    inherit_cache = True

    def __init__(self, seconds: float | None = None) -> None:
        super().__init__(*(() if seconds is None else (seconds,)))


@compiles(clock, "sqlite")
def _sqlite_clock(element: clock, compiler: SQLCompiler, **options: object) -> str:
    offset = compiler.process(element.clauses, **options)
    modifier = f", ({offset}) || ' seconds'" if offset else ""
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now'{modifier})"


@compiles(clock, "postgresql")
def _postgresql_clock(element: clock, compiler: SQLCompiler, **options: object) -> str:
    offset = compiler.process(element.clauses, **options)
    interval = f" + make_interval(secs => {offset})" if offset else ""
    return f"date_trunc('milliseconds', timezone('UTC', clock_timestamp()){interval})"


def spelled(function: type[GenericFunction[Any]], **templates: str) -> None:
    """Say how a function is written in each database: `templates` have a place for each argument."""
    for dialect, template in templates.items():
        compiles(function, dialect)(functools.partial(_spell, template))


def _spell(template: str, element: GenericFunction[Any], compiler: SQLCompiler, **options: object) -> str:
    return template.format(*(compiler.process(clause, **options) for clause in element.clauses))


class among(GenericFunction[bool]):  # noqa: N801 - it is written as the SQL function that it is
    """Whether a column is one of many ids or texts, which are one parameter: drivers limit the number of parameters.

    It has no type: SQLite would not use an index of the column, because a function of type Boolean is compared with 1.
    """

    inherit_cache = True

    def __init__(
        self, column: InstrumentedAttribute[Any] | sa.ColumnElement[Any], values: Collection[int] | Collection[str]
    ) -> None:
        kind = _TEXTS if isinstance(column.type, sa.Text) else _IDS
        super().__init__(column, sa.bindparam(None, list(values), kind, unique=True))


_IDS = sa.ARRAY(sa.BigInteger).with_variant(Json, "sqlite")
_TEXTS = sa.ARRAY(sa.Text).with_variant(Json, "sqlite")


spelled(among, sqlite="{} IN (SELECT value FROM json_each({}))", postgresql="{} = ANY ({})")


class members(GenericFunction[Any]):  # noqa: N801 - it is written as the SQL function that it is
    """The members of a JSON object, which is one parameter, as rows of texts: `key` and `value`."""

    inherit_cache = True

    def __init__(self, values: Mapping[int, object]) -> None:
        texts = {str(key): str(value) for key, value in values.items()}
        super().__init__(sa.bindparam(None, texts, sa.JSON, unique=True))


spelled(members, sqlite="json_each({})", postgresql="json_each_text({})")


class Base(DeclarativeBase):
    """Base class of all tables."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        JsonObject: Json,
        JsonList: Json,
        list[JsonObject]: Json,
        list[str]: Json,
        list[int]: Json,
        str: sa.Text,
        int: sa.BigInteger,
    }


class Numbered(Base):
    """Base class of tables with an integer primary key."""

    __abstract__ = True
    __table_args__: Any = {"sqlite_autoincrement": True}

    # SQLite generates ids only if the type is exactly INTEGER.
    id: Mapped[int] = mapped_column(sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, sort_order=-1)
    created: Mapped[Time] = mapped_column(default=clock(), sort_order=99)

    @classmethod
    def lock(cls, db: Session, row_id: int) -> None:
        """Lock a row for the rest of the transaction. Raises `Gone` if it does not exist.

        Lock first, then read the rows that depend on it, in another statement: in PostgreSQL, a statement that has
        waited for a lock sees all other rows as they were before it waited.
        """
        if db.scalar(_lock(cls), {"id": row_id}) is None:
            raise Gone()

    @classmethod
    def locked(cls, db: Session, row_id: int) -> Self:
        """The row with this id, locked as `lock` does. Raises `Gone`."""
        row = db.get(cls, row_id, with_for_update=True)
        if row is None:
            raise Gone()
        return row

    @classmethod
    def lock_all(cls, db: Session, condition: sa.ColumnElement[bool]) -> None:
        """Lock the rows that satisfy a condition, in order of their ids, so that two such locks cannot deadlock."""
        rows = sa.select(cls.id).where(condition).order_by(cls.id).with_for_update().cte()
        db.execute(sa.select(sa.func.count()).select_from(rows))


@functools.cache
def _lock(table: type[Numbered]) -> sa.Select[tuple[int]]:
    """The SELECT that locks a row: of columns and built once, since every write begins with one."""
    columns = table.__table__.c
    return sa.select(columns.id).where(columns.id == sa.bindparam("id")).with_for_update()


def affected_rows(db: Session, statement: sa.Update | sa.Delete) -> int:
    """Execute an UPDATE or DELETE; returns the number of rows that it matched."""
    result = db.execute(statement)
    assert isinstance(result, sa.CursorResult)  # noqa: S101 - the result type of every UPDATE and DELETE
    return result.rowcount


def set_each(db: Session, column: InstrumentedAttribute[Any], values: Mapping[int, object]) -> None:
    """Set a column of many rows to values by their ids, in one statement."""
    rows = members(values).table_valued("key", "value", name="new")
    own = column.class_.id == sa.cast(rows.c.key, sa.BigInteger)
    update = sa.update(column.class_).where(own).values({column: sa.cast(rows.c.value, column.type)})
    db.execute(update)


def protect(statement: Query, of: type[Base]) -> Query:
    """A SELECT that protects the rows of a table that it finds from deletion until the end of the transaction.

    For all rows to which a request refers. If it has waited for a deletion, it does not find the row.
    """
    return statement.with_for_update(read=True, key_share=True, of=of.__table__)


def check_slug(name: str) -> None:
    """Raise `Invalid` for the field `name` unless it is a slug."""
    if not SLUG.fullmatch(name):
        raise Invalid.field(
            "name", "Must be a slug: a-z, 0-9, and after the first character also . _ -, at most 63 characters."
        )
