"""Pipelines: tasks in order, each a function with arguments, after the task before it or those it names."""

from typing import Any, Self, TypedDict, cast

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from mlapi.errors import Conflict, Invalid
from mlapi.models.base import Numbered
from mlapi.models.modules import Function, Offered
from mlapi.models.options import Option, check_arguments

TASKS = 100
"""Tasks of a pipeline at most."""


class Pipeline(Numbered):
    """Tasks under a name; a run can be made of it while it is enabled."""

    __tablename__ = "pipelines"
    __table_args__ = (sa.Index(None, "owner_id", "id"), {"sqlite_autoincrement": True})

    owner_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))
    name: Mapped[str]
    enabled: Mapped[bool] = mapped_column(default=False)

    def tasks(self, db: Session) -> list["Task"]:
        """The tasks in order; whoever changes them has locked the pipeline before."""
        query = sa.select(Task).where(Task.pipeline_id == self.id).order_by(Task.position)
        return list(db.scalars(query.options(sa.orm.joinedload(Task.function))))

    @classmethod
    def locked(cls, db: Session, pipeline_id: int) -> Self:
        """The pipeline, so that nobody else changes its tasks before this transaction ends."""
        return db.get_one(cls, pipeline_id, with_for_update=True)


class Task(Numbered):
    """A function with arguments at a position (from 1) of a pipeline.

    `after` is None for "after the task before", or the ids of earlier tasks; an empty list starts from the
    run's files. Since they are earlier, the tasks are a graph without cycles, in order.
    """

    __tablename__ = "tasks"
    __table_args__ = (
        sa.UniqueConstraint("pipeline_id", "position"),
        sa.Index(None, "function_id"),
        {"sqlite_autoincrement": True},
    )

    pipeline_id: Mapped[int] = mapped_column(sa.ForeignKey("pipelines.id"))
    position: Mapped[int]
    function_id: Mapped[int] = mapped_column(sa.ForeignKey("functions.id"))
    arguments: Mapped[dict[str, Any]]
    after: Mapped[list[Any] | None]
    timeout: Mapped[float | None]
    function: Mapped[Function] = relationship(lazy="raise")


class PipelineChanges(TypedDict, total=False):
    """The columns of a pipeline that its owner can change."""

    name: str
    enabled: bool


def create(db: Session, owner_id: int, name: str, enabled: bool = False) -> Pipeline:
    """Create a pipeline without tasks."""
    pipeline = Pipeline(owner_id=owner_id, name=name, enabled=enabled)
    db.add(pipeline)
    db.flush()
    return pipeline


def change(db: Session, pipeline_id: int, changes: PipelineChanges) -> None:
    """Rename, enable or disable a pipeline; existing runs are not affected."""
    pipeline = Pipeline.locked(db, pipeline_id)
    for name, value in changes.items():
        setattr(pipeline, name, value)
    db.flush()


_tasks = Task.__table__.c
_ORDER = (
    sa.select(_tasks.id)
    .select_from(sa.outerjoin(Pipeline.__table__, Task.__table__, _tasks.pipeline_id == Pipeline.__table__.c.id))
    .where(Pipeline.__table__.c.id == sa.bindparam("pipeline"))
    .order_by(_tasks.position)
    .with_for_update(of=Pipeline.__table__)
)
"""The ids of a pipeline's tasks in order, and the pipeline locked."""
_INSERT = sa.insert(cast(sa.Table, Task.__table__)).returning(_tasks.id)


def insert_task(
    db: Session,
    pipeline_id: int,
    function: Offered,
    arguments: dict[str, Any],
    after: list[int] | None = None,
    position: int | None = None,
    timeout: float | None = None,
) -> int:
    """Add a task at `position`, by default at the end; those from there on move up. Returns its id.

    Raises `Invalid` for arguments that do not fit the function's options, a position out of range, or a
    task in `after` that is not an earlier one of this pipeline.
    """
    order = [task for task in db.scalars(_ORDER, {"pipeline": pipeline_id}) if task is not None]
    position = len(order) + 1 if position is None else position
    if len(order) >= TASKS:
        raise Conflict(f"A pipeline has at most {TASKS} tasks.")
    if not 1 <= position <= len(order) + 1:
        raise Invalid.field("position", f"Must be between 1 and {len(order) + 1}.")
    if after is not None:
        _check_after(after, order[: position - 1])
    checked = check_arguments(function.options, arguments)
    renumber(db, order[position - 1 :], position + 1)
    values = {
        "pipeline_id": pipeline_id,
        "position": position,
        "function_id": function.id,
        "arguments": checked,
        "after": after,
        "timeout": timeout,
    }
    return int(db.execute(_INSERT, values).scalar_one())


def change_task(db: Session, task_id: int, changes: dict[str, Any]) -> Task:
    """Change a task's `function` (as `find_function` gives it), `arguments`, `after`, `position` or `timeout`.

    The arguments are checked against the function that the task has then. Raises `Invalid` as `insert_task`
    does, also where a task that names another in `after` would come before it.
    """
    pipeline_id = db.scalars(sa.select(Task.pipeline_id).where(Task.id == task_id)).one()
    tasks = Pipeline.locked(db, pipeline_id).tasks(db)
    task = next(each for each in tasks if each.id == task_id)
    if "function" in changes or "arguments" in changes:
        own = [Option.from_json(option) for option in task.function.options]
        function = changes.get("function", Offered(task.function_id, own))
        task.arguments = check_arguments(function.options, changes.get("arguments", task.arguments))
        task.function_id = function.id
    if "timeout" in changes:
        task.timeout = changes["timeout"]
    order = [each.id for each in tasks]
    if "position" in changes:
        if not 1 <= changes["position"] <= len(order):
            raise Invalid.field("position", f"Must be between 1 and {len(order)}.")
        order.remove(task.id)
        order.insert(changes["position"] - 1, task.id)
    if "after" in changes:
        task.after = changes["after"]
    for each in tasks:
        if each.after is not None:
            _check_after(each.after, order[: order.index(each.id)], "after" if each is task else "position")
    db.flush()
    if "position" in changes:
        renumber(db, order, 1)
        db.refresh(task)
    return task


def parents(tasks: list[Task]) -> list[list[int]]:
    """For each of a pipeline's tasks, in order, the indices of those whose outputs it takes."""
    index = {task.id: each for each, task in enumerate(tasks)}
    return [
        ([each - 1] if each else []) if task.after is None else [index[earlier] for earlier in task.after]
        for each, task in enumerate(tasks)
    ]


def _check_after(after: list[int], earlier: list[int], name: str = "after") -> None:
    if len(set(after)) != len(after) or not set(after) <= set(earlier):
        raise Invalid.field(name, "A task can only come after earlier tasks of its pipeline, each named once.")


def renumber(db: Session, order: list[int], first: int) -> None:
    """Number the tasks from `first` on, by way of negative numbers: positions are unique at every moment."""
    if not order:
        return
    numbers = sa.case({each: -number for number, each in enumerate(order, first)}, value=Task.id)
    mine = Task.id.in_(order)
    db.execute(sa.update(Task).where(mine).values(position=numbers))
    db.execute(sa.update(Task).where(mine).values(position=-Task.position))
