"""SELECTs that are compiled once and then executed by the driver itself, for what every GET reads.

SQLAlchemy's execution of a statement takes longer than the statement in SQLite (docs/decisions/0031). Only the
execution is replaced: the connection, its transaction, the conversion of values and the errors are SQLAlchemy's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import Dialect

from mlapi.database import Reader

Statement = sa.Select[*tuple[Any, ...]]
Row = tuple[Any, ...]
Convert = Callable[[Any], Any] | None


class Compiled:
    """A SELECT in the SQL of a driver."""

    def __init__(self, statement: Statement, dialect: Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect)
        self.sql, self._by_place = str(compiled), compiled.positional
        self._names: Sequence[str] = compiled.positiontup if compiled.positional else list(compiled.params)
        required = {name for name, bind in compiled.binds.items() if bind.required}
        self._constants = {name: value for name, value in compiled.params.items() if name not in required}
        self._types = [column.type.dialect_impl(dialect) for column in statement.selected_columns]
        self._dialect = dialect
        self._convert: list[Convert] | None = None

    def parameters(self, values: Mapping[str, object]) -> Any:
        """The parameters as the driver takes them: by place or by name."""
        every = {**self._constants, **values}
        return (
            tuple([every[name] for name in self._names])
            if self._by_place
            else {name: every[name] for name in self._names}
        )

    def rows(self, cursor: Any) -> list[Row]:
        """All rows of a cursor, with the values that SQLAlchemy would return."""
        rows: list[Row] = cursor.fetchall()
        if self._convert is None:
            columns = zip(self._types, cursor.description, strict=True)
            self._convert = [kind.result_processor(self._dialect, column[1]) for kind, column in columns]
        if not any(self._convert):
            return rows
        return [
            tuple([convert(value) if convert else value for convert, value in zip(self._convert, row, strict=True)])
            for row in rows
        ]


_compiled: dict[tuple[str, Statement], Compiled] = {}


def fetch(reader: Reader, statement: Statement, values: Mapping[str, object]) -> list[Row]:
    """The rows of a SELECT, which is kept for the life of the process.

    The values of its parameters are integers and texts, which drivers take as they are.
    """
    if not isinstance(reader, sa.Connection):
        return [tuple(row) for row in reader.execute(statement, dict(values))]
    key = reader.dialect.name, statement
    compiled = _compiled.get(key)
    if compiled is None:
        compiled = _compiled[key] = Compiled(statement, reader.dialect)
    return _execute(reader, compiled, compiled.parameters(values))


def _execute(connection: sa.Connection, compiled: Compiled, parameters: Any) -> list[Row]:
    """Execute a statement in the transaction of a connection, which it begins. Raises SQLAlchemy's errors."""
    if not connection.in_transaction():
        connection.begin()
    raw: Any = connection.connection.dbapi_connection
    driver: Any = connection.dialect.loaded_dbapi
    cursor = raw.cursor()
    for listener in connection.dispatch.before_cursor_execute:
        listener(connection, cursor, compiled.sql, parameters, None, False)
    try:
        cursor.execute(compiled.sql, parameters)
        return compiled.rows(cursor)
    except driver.Error as error:
        lost = connection.dialect.is_disconnect(error, raw, cursor)
        if lost:
            connection.invalidate(error)
        wrapped: Any = sa.exc.DBAPIError.instance(
            compiled.sql, parameters, error, driver.Error, connection_invalidated=lost, dialect=connection.dialect
        )
        raise wrapped from error
    finally:
        cursor.close()
