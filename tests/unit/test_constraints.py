"""Violated constraints as errors of the domain, on both databases."""

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from mlapi.errors import Conflict
from mlapi.models import Base, Function, Module, Pipeline, Task, User
from mlapi.models.constraints import domain_error
from tests.rows import furnish

NOBODY = 2**40

REFLECTED = pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
"""The index by which jobs are claimed has expressions, which SQLAlchemy does not reflect in SQLite."""


@pytest.fixture
def pipeline(db):
    """The id of a pipeline of two tasks."""
    return furnish(db, [None, None])[0]


def error_of(db, statement):
    """The domain error of a statement that violates a constraint."""
    with pytest.raises(IntegrityError) as caught:
        db.execute(statement)
    db.rollback()
    return domain_error(caught.value)


def copy_of(db, kind, **values):
    """A statement that inserts a copy of the first row of a table, with other values."""
    row = dict(db.execute(sa.select(kind.__table__).limit(1)).mappings().one())
    row.pop("id", None)
    return sa.insert(kind.__table__).values(row | values)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (User, "Another user has this name."),
        (Module, "Another module has this name."),
        (Task, "Another task has this pipeline and position."),
    ],
)
def test_a_second_row_with_the_same_key_is_a_conflict(kind, message, pipeline, db):
    error = error_of(db, copy_of(db, kind))
    assert isinstance(error, Conflict)
    assert str(error) == message


@pytest.mark.parametrize(("column", "noun"), [("function_id", "function"), ("pipeline_id", "pipeline")])
@pytest.mark.parametrize("change", ["insert", "update"])
def test_a_row_that_refers_to_nothing_is_a_conflict(change, column, noun, pipeline, db):
    changed = {column: NOBODY}
    statement = copy_of(db, Task, **changed, position=9) if change == "insert" else sa.update(Task).values(changed)
    error = error_of(db, statement)
    assert isinstance(error, Conflict)
    known = noun if db.get_bind().dialect.name == "postgresql" else "resource"  # SQLite does not name foreign keys.
    assert str(error) == f"The {known} to which the task refers no longer exists."


@pytest.mark.parametrize(("kind", "noun", "users"), [(Function, "function", "tasks"), (Pipeline, "pipeline", "tasks")])
def test_the_deletion_of_a_row_that_others_refer_to_is_a_conflict(kind, noun, users, pipeline, db):
    error = error_of(db, sa.delete(kind))
    assert isinstance(error, Conflict)
    known = users if db.get_bind().dialect.name == "postgresql" else "other resources"
    assert str(error) == f"The {noun} is in use by {known}."


def test_any_other_violation_is_a_defect(pipeline, db):
    assert error_of(db, sa.update(Task).values(position=None)) is None


@REFLECTED
def test_all_constraints_of_the_database_are_known(db):
    """Their names are those of the metadata; an error finds its constraint by name."""
    inspect = sa.inspect(db.connection())
    known = {constraint.name for table in Base.metadata.tables.values() for constraint in table.constraints}
    existing = {
        constraint["name"]
        for table in Base.metadata.tables
        for constraint in (*inspect.get_foreign_keys(table), *inspect.get_unique_constraints(table))
    }
    assert len(existing) > 20
    assert existing <= known


def has_expressions(index):
    """Whether an index has expressions, and so is not reflected in SQLite."""
    return len(index.columns) < len(index.expressions)


@REFLECTED
def test_every_foreign_key_is_indexed(db):
    """Else the deletion of a row reads the whole table that refers to it."""
    inspect = sa.inspect(db.connection())
    for table in Base.metadata.tables:
        keys = inspect.get_foreign_keys(table)
        indexed = {index["column_names"][0] for index in inspect.get_indexes(table)}
        indexed |= {
            next(iter(index.columns)).name for index in Base.metadata.tables[table].indexes if has_expressions(index)
        }
        indexed |= {unique["column_names"][0] for unique in inspect.get_unique_constraints(table)}
        indexed |= {inspect.get_pk_constraint(table)["constrained_columns"][0]}
        assert {key["constrained_columns"][0] for key in keys if key["referred_table"] != "users"} <= indexed, table
