"""The fields of items: one table per item class, for selection, representation, filters and order."""

import enum
import functools
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypeAlias

import orjson
import sqlalchemy as sa

Row: TypeAlias = Any
"""A row of an item: a named tuple with an attribute for each of its fields."""


class Filter(enum.Enum):
    """The lists that can be filtered by a field."""

    NOWHERE = enum.auto()
    LISTS = enum.auto()
    """All lists."""
    ACROSS_OWNERS = enum.auto()
    """Flat lists only; in nested lists, the URL already determines the value."""


@dataclass(frozen=True)
class Reference:
    """A column of an item's table that refers to a small table, by whose columns lists can be filtered."""

    column: sa.ColumnElement[int]
    ids: sa.Select[int]
    """The ids of the small table; filters narrow them."""


@dataclass(frozen=True)
class Field:
    """A field of an item: a column and its name in the API."""

    column: sa.ColumnElement[object]
    name: str = ""
    """The name in the API; empty for the name of the column."""
    shown: bool = True
    """Whether the item's document has a member of this name; other fields serve links and filters."""
    detail: bool = False
    """Whether lists omit the field."""
    filter: Filter = Filter.NOWHERE
    choices: type[enum.StrEnum] | None = None
    """The allowed values, if they are enumerated."""
    by: Reference | None = None
    """How lists are filtered by a column that is not one of the item's table."""
    sort: bool = False
    """Whether lists can be ordered by the field."""

    @property
    def python_type(self) -> type:
        """The Python type of the values."""
        return self.column.type.python_type


def _rows(name: str, fields: Iterable[str]) -> Callable[[Iterable[Any]], Row]:
    """A named tuple: attribute access is ten times as fast as on SQLAlchemy's rows."""
    return functools.partial(tuple.__new__, namedtuple(name, fields))


def _size(columns: list[sa.ColumnElement[object]]) -> Callable[[Sequence[Row]], int]:
    """A function that returns the size in bytes of the texts and JSON values of rows with these columns."""
    large = [index for index, column in enumerate(columns) if isinstance(column.type, sa.String | sa.JSON)]
    if not large:
        return lambda _rows: 0
    values = itemgetter(*large)
    return lambda rows: len(orjson.dumps(list(map(values, rows))))


class Fields:
    """The fields of an item class, in the order of the SELECT."""

    def __init__(self, *fields: Field) -> None:
        self._fields = {field.name or str(field.column.key): field for field in fields}
        if len(self._fields) != len(fields):
            raise ValueError("Two fields have the same name.")
        self.row = _rows("Row", self._fields)
        """The type of the row of a single item."""
        self.list_row = _rows("ListRow", self._names_in_lists())
        """The type of the rows of a list."""
        self.size = _size([field.column for field in self._fields.values() if not field.detail])
        """The size of rows of a list in bytes, as far as it is not limited by the types of the columns."""

    def __getitem__(self, name: str) -> Field:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def _names_in_lists(self) -> list[str]:
        return [name for name, field in self._fields.items() if not field.detail]

    def columns(self, detail: bool) -> list[sa.ColumnElement[object]]:
        """The columns of the SELECT of a single item (`detail`) or of a list."""
        names = list(self._fields) if detail else self._names_in_lists()
        return [self._fields[name].column.label(name) for name in names]

    @functools.cached_property
    def choices(self) -> dict[sa.ColumnElement[object], Sequence[object]]:
        """The columns with few values, and these values."""
        found: dict[sa.ColumnElement[object], Sequence[object]] = {}
        for field in self._fields.values():
            if field.choices is not None:
                found[field.column] = list(field.choices)
            elif field.python_type is bool:
                found[field.column] = [False, True]
        return found

    def shown(self) -> set[str]:
        """The names of the fields that the item's document must have."""
        return {name for name, field in self._fields.items() if field.shown}

    def filters(self, flat: bool) -> dict[str, Field]:
        """The fields by which a list can be filtered, by name."""
        kinds = {Filter.LISTS, Filter.ACROSS_OWNERS} if flat else {Filter.LISTS}
        return {name: field for name, field in self._fields.items() if field.filter in kinds}
