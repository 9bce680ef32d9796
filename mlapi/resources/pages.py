"""The SELECT of a page of a list, from an index: first the ids of its rows, then their columns.

Joined at once, the planners of both databases walk all rows of the owner, or of everybody, to find those that match
(docs/decisions/0030). Here the ids come from the item's table alone, as a range of an index that begins with all
columns that are compared and continues with the order of the list. Where a filter stands for several values, such as
the functions of a module, the ids are the first ones of every value.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.sql import operators

from mlapi.errors import FieldError
from mlapi.security import CALLER
from mlapi.values import PAGE

if TYPE_CHECKING:
    from mlapi.resources.fields import Fields, Reference

Column = sa.ColumnElement[Any]
Condition = sa.ColumnElement[bool]
Statement = sa.Select[*tuple[Any, ...]]

AFTER = sa.bindparam("after", type_=sa.BigInteger)
LIMIT = sa.bindparam("limit", type_=sa.BigInteger, literal_execute=True)
"""The limit is written into the SQL: SQLite sorts with a known limit in less time."""

SHORT = 50
"""Number of items of a page up to which the planner takes it for a short one; else for one of the largest."""


class Order(NamedTuple):
    """The order of a list, and its part that a page begins with."""

    column: Column
    newest_first: bool
    continued: bool
    """Whether the page begins after the cursor `after`."""

    def of(self, query: Statement, *columns: Column) -> Statement:
        """A query in this order, by default of the column."""
        columns = columns or (self.column,)
        return query.order_by(*(column.desc() if self.newest_first else column for column in columns))

    def after(self, columns: Sequence[Column] = (), values: Sequence[Column] = ()) -> Condition:
        """The condition for the rows after the cursor, in a range of an index of which `columns` have these values."""
        if not self.continued:
            return sa.true()
        row, cursor = sa.tuple_(*columns, self.column), sa.tuple_(*values, AFTER)
        return row < cursor if self.newest_first else row > cursor


class Selection(NamedTuple):
    """The rows of a list."""

    equal: Mapping[Column, Column]
    """The values of columns that all rows of the list have."""
    others: Condition
    """A further condition of all rows."""
    fields: Fields
    possible: tuple[str, ...]
    """The filters that the list has."""
    filters: tuple[str, ...]
    """Those of this page."""

    @property
    def values(self) -> dict[Column, Column]:
        """The values of the columns of the item's table, in this page."""
        fields = {name: self.fields[name] for name in self.filters}
        direct: dict[Column, Column] = {
            field.column: sa.bindparam(name) for name, field in fields.items() if field.by is None
        }
        return {**self.equal, **direct}

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
        if reference.column in self.equal:
            ids = ids.where(ids.selected_columns[0] == self.equal[reference.column])
        return ids

    def columns(self, order: Order) -> list[Column] | None:
        """The columns before that of the order in the index that serves this page best; None if no index does.

        These are all columns that are compared, and perhaps some that have few values.
        """
        columns, choices = self.values.keys() | self.references.keys(), self.fields.choices
        found = []
        for index in indexes(order.column.table):
            before = list(itertools.takewhile(lambda column: column is not order.column, index))
            more = set(before) - columns
            if len(before) < len(index) and columns <= set(before) and more <= choices.keys():
                found.append((math.prod(len(choices[column]) for column in more), before))
        return min(found, key=itemgetter(0))[1] if found else None


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
    indexed: bool = True
    """Whether an index serves it, so that its time does not depend on the number of rows."""
    broad: Sequence[FieldError] = ()
    """The errors of a request for which it takes too long."""


def select_page(
    source: Statement, rows: Selection, order: Order, *, few: bool, short: bool, lateral: bool
) -> PageQuery:
    """The SELECT of a page of `source`, the SELECT of the columns of all rows.

    A list with `few` rows, or one, needs no index. A `short` page has at most `SHORT` items. `lateral` selects the
    dialect of PostgreSQL.
    """
    if few or order.column in rows.equal:
        by_name = (rows.fields[name].column == sa.bindparam(name) for name in rows.filters)
        own = (column == value for column, value in rows.equal.items())
        return PageQuery(order.of(source.where(*own, rows.others, *by_name, order.after())).limit(LIMIT))
    index = rows.columns(order)
    most = 1 + (SHORT if short else PAGE)
    ids = _walk(rows, order) if index is None else _ranges(rows, order, index, most if lateral else None)
    statement = order.of(source.where(order.column.in_(ids)))
    if index is not None:
        return PageQuery(statement)
    return PageQuery(statement, indexed=False, broad=[_too_broad(rows, order, name) for name in rows.filters])


def _too_broad(rows: Selection, order: Order, name: str) -> FieldError:
    """The error of a filter, with those other filters that an index serves together with it."""
    others = [other for other in rows.possible if other != name]
    served = [other for other in others if rows._replace(filters=(name, other)).columns(order) is not None]
    alone = f"Too many rows match some of these filters. Filter by {name} alone"
    return FieldError(name, f"{alone}, or together with one of: {', '.join(served)}." if served else f"{alone}.")


def _walk(rows: Selection, order: Order) -> Statement:
    """The SELECT of the ids of a page that no index serves; the planner decides how."""
    values = [column == value for column, value in rows.values.items()]
    values += [column.in_(allowed) for column, allowed in rows.references.items()]
    return order.of(sa.select(order.column).where(rows.others, *values, order.after())).limit(LIMIT)


def _ranges(rows: Selection, order: Order, index: list[Column], most: int | None) -> Statement:
    """The SELECT of the ids of a page from one or several ranges of an index that begins with these columns.

    `most` is the largest limit of a page, for PostgreSQL: its planner takes an unknown one for a tenth of all rows.
    """
    tables: dict[Column, Any] = {column: allowed.subquery() for column, allowed in rows.references.items()}
    values: dict[Column, Column] = {**rows.values, **{column: table.c[0] for column, table in tables.items()}}
    for column in index:
        if column not in values:
            tables[column] = _values(rows.fields.choices[column])
            values[column] = tables[column].c[0]
    ids = _range(rows, order, index, [values[column] for column in index], most)
    if not tables and most is None:
        return ids
    of_each: Any = _of_each(ids.correlate(*tables.values()), most is not None) if tables else ids.subquery()
    ranges = functools.reduce(lambda left, right: left.join(right, sa.true()), [*tables.values(), of_each])
    key = of_each.c[0]
    ids = order.of(sa.select(key).select_from(ranges), key).limit(LIMIT)
    return ids if most is None else sa.select(ids.subquery().c[0]).limit(sa.literal_column(str(most)))


def _of_each(ids: Statement, lateral: bool) -> sa.FromClause:
    """The ids of each row of the tables before it in FROM; SQLite allows only functions to refer to these."""
    if lateral:
        return ids.lateral()
    listed = sa.select(sa.func.json_group_array(ids.subquery().c[0])).scalar_subquery()
    return sa.func.json_each(listed).table_valued("value")


def _range(rows: Selection, order: Order, index: list[Column], values: list[Column], most: int | None) -> Statement:
    """The SELECT of the first ids of a range of an index, in which the columns of `index` have these values.

    In PostgreSQL, the range is compared and ordered by rows of all columns, because the planner prefers to walk the
    primary key, perhaps to its end, if equalities and the order of ids allow it.
    """
    ids = sa.select(order.column).where(rows.others)
    if most is None:
        equal = (column == value for column, value in zip(index, values, strict=True))
        return order.of(ids.where(*equal, order.after())).limit(LIMIT)
    ids = order.of(ids.where(order.after(index, values)), *index, order.column)
    if index:
        row, value = sa.tuple_(*index), sa.tuple_(*values)
        ids = ids.where(row >= value, row <= value)
    return ids.limit(sa.literal_column(str(most)))


def _values(values: Sequence[object]) -> sa.Subquery:
    """A table of one column with these values."""
    return sa.union_all(*(sa.select(sa.literal(value).label("value")) for value in values)).subquery()
