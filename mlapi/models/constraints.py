"""Violations of constraints, which the database finds when two requests meet, as errors of the domain.

This is the last resort, for every table: rules that lock what they refer to raise better errors. The words come from
the metadata, so that a new table needs nothing here.
"""

import re

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from mlapi.errors import Conflict, DomainError
from mlapi.models.base import Base

UNIQUE = re.compile(r"UNIQUE constraint failed: (\w+)\.\w+(?:, \w+\.\w+)*", re.ASCII)
"""SQLite's message about a unique constraint, which names its columns."""

FOREIGN = "FOREIGN KEY constraint failed"
"""SQLite's message about a foreign key, which it does not name."""

TARGET = re.compile(r"\s*(?:DELETE FROM|INSERT INTO|UPDATE) \"?(\w+)", re.ASCII)
"""The table of a statement."""


def domain_error(error: IntegrityError) -> DomainError | None:
    """The domain error of a violated unique constraint or foreign key; None for any other, which is a defect."""
    deleting = (error.statement or "").lstrip().startswith("DELETE")
    for table in Base.metadata.tables.values():
        for constraint in table.constraints:
            if constraint.name is not None and constraint.name == _name(error):
                return _of_constraint(constraint, table.name, deleting)
    return _of_sqlite(str(error.orig), error.statement or "", deleting)


def _name(error: IntegrityError) -> str | None:
    """The name of the violated constraint, if the driver knows it."""
    name = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    return name if isinstance(name, str) else None


def _of_constraint(constraint: sa.Constraint, table: str, deleting: bool) -> DomainError | None:
    match constraint:
        case sa.UniqueConstraint():
            return _taken(table, [column.name for column in constraint.columns])
        case sa.ForeignKeyConstraint() if deleting:
            return _in_use(constraint.referred_table.name, table.replace("_", " "))
        case sa.ForeignKeyConstraint():
            return _missing(table, _noun(constraint.referred_table.name))
    return None


def _of_sqlite(message: str, statement: str, deleting: bool) -> DomainError | None:
    if found := UNIQUE.fullmatch(message):
        return _taken(found[1], re.findall(r"\.(\w+)", message))
    if message != FOREIGN:
        return None
    target = TARGET.match(statement)
    table = target[1] if target else "resources"
    return _in_use(table, "other resources") if deleting else _missing(table, "resource")


def _taken(table: str, columns: list[str]) -> Conflict:
    names = " and ".join(column.removesuffix("_id").replace("_", " ") for column in columns)
    return Conflict(f"Another {_noun(table)} has this {names}.")


def _in_use(table: str, user: str) -> Conflict:
    return Conflict(f"The {_noun(table)} is in use by {user}.")


def _missing(table: str, referred: str) -> Conflict:
    return Conflict(f"The {referred} to which the {_noun(table)} refers no longer exists.")


def _noun(table: str) -> str:
    """The name of a row of a table."""
    return table.removesuffix("s").replace("_", " ")
