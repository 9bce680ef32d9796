"""The SELECT of a page of a list, from an index: first the ids of its rows, then their columns.

Joined at once, the planners of both databases walk all rows of the owner, or of everybody, to find those that match
(docs/decisions/0030). Here the ids come from the item's table alone, by an index that begins with all columns that are
compared and continues with the order of the list. Where a filter stands for several values, such as the functions of
a module, the ids are the first ones of every value.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.sql import operators

from mlapi.errors import FieldError
from mlapi.security import CALLER

if TYPE_CHECKING:
    from mlapi.resources.fields import Fields, Reference

Column = sa.ColumnElement[Any]
Condition = sa.ColumnElement[bool]
Statement = sa.Select[*tuple[Any, ...]]

LIMIT, AFTER = sa.bindparam("limit", type_=sa.BigInteger), sa.bindparam("after", type_=sa.BigInteger)


class Order(NamedTuple):
    """The order of a list, and its part that a page begins with."""

    column: Column
    newest_first: bool
    continued: bool
    """Whether the page begins after the cursor `after`."""

    def of(self, query: Statement, column: Column | None = None) -> Statement:
        """A query in this order."""
        column = self.column if column is None else column
        return query.order_by(column.desc() if self.newest_first else column)

    def rest(self) -> list[Condition]:
        """The condition for the rows after the cursor."""
        if not self.continued:
            return []
        return [self.column < AFTER if self.newest_first else self.column > AFTER]


class Selection(NamedTuple):
    """The rows of a list: a condition that holds for all of them, and the filters."""

    condition: Condition
    equal: frozenset[Column] | None
    """The columns that the condition compares with one value, if this is all that it does with the table."""
    fields: Fields
    possible: tuple[str, ...]
    """The filters that the list has."""
    filters: tuple[str, ...]
    """Those of this page."""

    @property
    def direct(self) -> dict[Column, Condition]:
        """The filters by columns of the item's table."""
        fields = (self.fields[name] for name in self.filters)
        names = dict(zip(self.filters, fields, strict=True))
        return {field.column: field.column == sa.bindparam(name) for name, field in names.items() if field.by is None}

    @property
    def references(self) -> dict[Column, sa.Select[int]]:
        """The filters by columns of other tables: the ids to which a column of the item's table may refer."""
        found: dict[Reference, list[str]] = {}
        for name in self.filters:
            if (reference := self.fields[name].by) is not None:
                found.setdefault(reference, []).append(name)
        return {reference.column: self._ids(reference, names) for reference, names in found.items()}

    def _ids(self, reference: Reference, names: list[str]) -> sa.Select[int]:
        ids = reference.ids.where(*(self.fields[name].column == sa.bindparam(name) for name in names))
        if own_column(self.condition) is reference.column:  # Compare the caller once, not with every row.
            ids = ids.where(ids.selected_columns[0] == CALLER)
        return ids

    def unfiltered(self, order: Column) -> list[Column] | None:
        """The columns with few values between those of the list and its order, in the index that serves it best.

        None if no index serves it.
        """
        if self.equal is None:
            return None
        columns, choices = self.equal | self.direct.keys() | self.references.keys(), self.fields.choices
        if columns >= set(order.table.primary_key.columns):
            return []
        found = []
        for index in indexes(order.table):
            before = frozenset(itertools.takewhile(lambda column: column is not order, index))
            if order in index and columns <= before and before - columns <= choices.keys():
                found.append([column for column in index if column in before - columns])
        return min(found, key=lambda more: math.prod(len(choices[column]) for column in more), default=None)


def own_column(condition: Condition) -> Column | None:
    """The column that a condition compares with the caller, if this is all that it does."""
    if isinstance(condition, sa.BinaryExpression) and condition.operator is operators.eq and condition.right is CALLER:
        return condition.left
    return None


def indexes(table: Any) -> Iterator[list[Column]]:
    """The columns of the indexes of a table, with those of its constraints."""
    kinds = sa.Index | sa.UniqueConstraint | sa.PrimaryKeyConstraint
    return (list(each.columns) for each in (*table.indexes, *table.constraints) if isinstance(each, kinds))


class PageQuery(NamedTuple):
    """The SELECT of a page."""

    statement: Statement
    broad: list[FieldError]
    """The errors of a request for which it takes too long; empty if an index serves it, whatever the table's size."""


def select_page(source: Statement, rows: Selection, order: Order, *, few: bool, lateral: bool) -> PageQuery:
    """The SELECT of a page of `source`, the SELECT of the columns of all rows.

    A list of a parent with `few` rows needs no index. `lateral` selects the dialect of PostgreSQL.
    """
    if few:
        by_name = (rows.fields[name].column == sa.bindparam(name) for name in rows.filters)
        statement = source.where(rows.condition, *by_name, *order.rest())
        return PageQuery(order.of(statement).limit(LIMIT), [])
    more = rows.unfiltered(order.column)
    ids = _ids(rows, order, more, lateral)
    broad = [] if more is not None else [_too_broad(rows, order, name) for name in rows.filters]
    return PageQuery(order.of(source.where(order.column.in_(ids))), broad)


def _too_broad(rows: Selection, order: Order, name: str) -> FieldError:
    """The error of a filter, with those other filters that an index serves together with it."""
    others = [other for other in rows.possible if other != name]
    served = [other for other in others if rows._replace(filters=(name, other)).unfiltered(order.column) is not None]
    alone = f"Too many rows match some of these filters. Filter by {name} alone"
    return FieldError(name, f"{alone}, or together with one of: {', '.join(served)}." if served else f"{alone}.")


def _ids(rows: Selection, order: Order, more: list[Column] | None, lateral: bool) -> Statement:
    """The SELECT of the ids of a page."""
    ids = order.of(sa.select(order.column).where(rows.condition, *rows.direct.values(), *order.rest())).limit(LIMIT)
    if more is None:
        return ids.where(*(column.in_(allowed) for column, allowed in rows.references.items()))
    several = [(column, allowed.subquery()) for column, allowed in rows.references.items()]
    several += [(column, _values(rows.fields.choices[column])) for column in more]
    if not several:
        return ids
    tables: list[Any] = [table for _, table in several]
    ids = ids.where(*(column == next(iter(table.c)) for column, table in several)).correlate(*tables)
    if lateral:
        first: Any = ids.lateral()
        key, together = first.c[0], sa.true()
    else:
        first = order.column.table.alias()
        key = first.c[order.column.key]
        together = key.in_(ids)
    pairs = functools.reduce(lambda left, right: left.join(right, sa.true()), tables)
    return order.of(sa.select(key).select_from(pairs.join(first, together)), key).limit(LIMIT)


def _values(values: Sequence[object]) -> sa.Subquery:
    """A table of one column with these values."""
    return sa.union_all(*(sa.select(sa.literal(value).label("value")) for value in values)).subquery()
