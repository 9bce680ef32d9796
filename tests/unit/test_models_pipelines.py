"""Tasks of pipelines: all errors of a new or changed task are reported together."""

from typing import Any

import pytest
import sqlalchemy as sa

from mlapi.errors import FieldError, Invalid
from mlapi.models import Function, ModuleVersion, Task
from mlapi.models.modules import FunctionKey
from mlapi.models.pipelines import TaskChanges, change_task, insert_task
from tests.rows import SHA256, furnish

KNOWN = FunctionKey("m", "f")
AFTER = "The parents of a task must be earlier tasks of the pipeline, without duplicates."
NOT_FOUND = FieldError("function", "Function not found.")


@pytest.fixture
def pipeline(db: Any) -> int:
    """A pipeline of two tasks."""
    return furnish(db, [None, None])[0]


def ids(db: Any) -> list[int]:
    """The ids of all tasks in order."""
    return list(db.scalars(sa.select(Task.id).order_by(Task.position)))


@pytest.mark.parametrize("key", [KNOWN, FunctionKey("m", "f", SHA256)])
def test_a_function_is_found_by_its_key(db: Any, pipeline: int, key: FunctionKey) -> None:
    task = insert_task(db, pipeline, key, {})
    assert db.get_one(Task, task).function_id == db.scalar(sa.select(Function.id))


def test_the_newest_version_is_found_without_a_version(db: Any, pipeline: int) -> None:
    function = sa.select(Function.__table__).where(Function.name == "f")
    row = dict(db.execute(function).mappings().one())
    version = dict(db.execute(sa.select(ModuleVersion.__table__)).mappings().one())
    version |= {"id": version["id"] + 1, "number": 2, "digest": "1" * 64}
    db.execute(sa.insert(ModuleVersion.__table__), version)
    newest = row["id"] + 1
    db.execute(sa.insert(Function.__table__), row | {"id": newest, "version_id": version["id"]})
    tasks = [insert_task(db, pipeline, key, {}) for key in (KNOWN, FunctionKey("m", "f", SHA256))]
    assert [db.get_one(Task, task).function_id for task in tasks] == [newest, row["id"]]


@pytest.mark.parametrize(
    "key",
    [
        FunctionKey("m", "g"),
        FunctionKey("n", "f"),
        FunctionKey("m", "f", "1" * 64),
        FunctionKey("m", "f\0"),
        FunctionKey("\ud800", "f"),
    ],
)
def test_all_errors_of_a_new_task_are_reported_together(db: Any, pipeline: int, key: FunctionKey) -> None:
    before = ids(db)
    with pytest.raises(Invalid) as caught:
        insert_task(db, pipeline, key, {"x": 1}, after=[before[0], before[0]], position=9)
    position = FieldError("position", "Must be between 1 and 3.")
    assert caught.value.errors == [NOT_FOUND, position, FieldError("after", AFTER)]
    assert ids(db) == before


def test_the_arguments_of_a_known_function_are_checked_as_well(db: Any, pipeline: int) -> None:
    with pytest.raises(Invalid) as caught:
        insert_task(db, pipeline, KNOWN, {"x": 1}, after=[0], position=0)
    assert [error.name for error in caught.value.errors] == ["arguments.x", "position", "after"]


def test_an_invalid_position_causes_no_error_of_the_parents(db: Any, pipeline: int) -> None:
    with pytest.raises(Invalid) as caught:
        insert_task(db, pipeline, KNOWN, {}, after=ids(db), position=-1)
    assert [error.name for error in caught.value.errors] == ["position"]
    first, second = ids(db)
    with pytest.raises(Invalid) as caught:
        change_task(db, first, {"position": 3, "after": [second]})
    assert [error.name for error in caught.value.errors] == ["position"]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"function": FunctionKey("m", "g"), "position": 3, "after": [0]}, ["function", "position", "after"]),
        ({"arguments": {"x": 1}, "position": 0}, ["arguments.x", "position"]),
        ({"function": KNOWN, "arguments": {"x": 1}, "after": [0]}, ["arguments.x", "after"]),
    ],
)
def test_all_errors_of_a_changed_task_are_reported_together(
    db: Any, pipeline: int, changes: TaskChanges, names: list[str]
) -> None:
    rows = db.execute(sa.select(Task.__table__)).all()
    with pytest.raises(Invalid) as caught:
        change_task(db, ids(db)[0], changes)
    assert [error.name for error in caught.value.errors] == names
    db.flush()
    assert db.execute(sa.select(Task.__table__)).all() == rows


def test_several_tasks_that_would_lose_their_parent_are_one_error(db: Any) -> None:
    furnish(db, [None, [0], [0]])
    with pytest.raises(Invalid) as caught:
        change_task(db, ids(db)[0], {"position": 3})
    assert caught.value.errors == [FieldError("position", AFTER)]
