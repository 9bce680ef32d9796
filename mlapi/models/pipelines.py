"""Pipelines: graphs of tasks in topological order."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, TypedDict, Unpack, cast

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from mlapi.errors import Conflict, FieldErrors, Gone
from mlapi.models import queues
from mlapi.models.base import JsonList, JsonObject, Numbered
from mlapi.models.modules import Function, FunctionKey, find_function
from mlapi.models.options import check_arguments
from mlapi.models.patterns import ALL

TASKS = 100
"""Maximum number of tasks in a pipeline."""

NOT_PARENT = "Must name parents of the task only."
"""The error of patterns for the outputs of another task."""


class Pipeline(Numbered):
    """A named sequence of tasks; it can be run while it is enabled."""

    __tablename__ = "pipelines"
    __table_args__ = (
        sa.Index(None, "owner_id", "id"),
        sa.Index(None, "owner_id", "enabled", "name", "id"),
        sa.Index(None, "owner_id", "enabled", "id"),
        sa.Index(None, "enabled", "name", "id"),
        sa.Index(None, "enabled", "id"),
        {"sqlite_autoincrement": True},
    )

    owner_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))
    name: Mapped[str]
    enabled: Mapped[bool] = mapped_column(default=False)

    def tasks(self, db: Session) -> list["Task"]:
        """The tasks in order, with their functions. Lock the pipeline before changing them."""
        query = sa.select(Task).where(Task.pipeline_id == self.id).order_by(Task.position)
        return list(db.scalars(query.options(sa.orm.joinedload(Task.function))))


class Task(Numbered):
    """A function with arguments at a position (from 1) of a pipeline.

    `after` has the ids of the parent tasks, which must be earlier tasks, so that the graph has no cycles. None means
    the preceding task; an empty list means that the task takes the files of the run.
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
    arguments: Mapped[JsonObject]
    after: Mapped[list[int] | None]
    queue_id: Mapped[int | None] = mapped_column(sa.ForeignKey("queues.id"), index=True)
    timeout: Mapped[float | None]
    attempts: Mapped[int | None]
    priority: Mapped[int | None]
    resources: Mapped[JsonObject | None]
    inputs: Mapped[JsonObject | None]
    retry_on: Mapped[JsonList | None]
    reuse: Mapped[bool | None]
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


class JobSettings(TypedDict, total=False):
    """How a job is executed, as a task or a run says; None leaves it to the queue or the settings of the service.

    `queue` is a name. `inputs` maps ids of parent tasks as text, or `patterns.ALL`, to patterns.
    """

    queue: str | None
    timeout: float | None
    attempts: int | None
    priority: int | None
    resources: JsonObject | None
    inputs: JsonObject | None
    retry_on: JsonList | None
    reuse: bool | None


class TaskChanges(JobSettings, total=False):
    """The parts of a task that can be changed."""

    function: FunctionKey
    arguments: Mapping[str, object]
    after: list[int] | None
    position: int


_tasks = Task.__table__.c
_ORDER = sa.select(_tasks.id).where(_tasks.pipeline_id == sa.bindparam("pipeline")).order_by(_tasks.position)
"""The ids of the tasks of a pipeline in order."""
_INSERT = sa.insert(cast(sa.Table, Task.__table__)).returning(_tasks.id)


def insert_task(
    db: Session,
    pipeline_id: int,
    function: FunctionKey,
    arguments: Mapping[str, object],
    after: list[int] | None = None,
    position: int | None = None,
    **settings: Unpack[JobSettings],
) -> int:
    """Insert a task at `position`, by default at the end; the tasks from there on move down. Returns its id.

    Raises `Conflict` if the pipeline is full, and `Invalid` with all errors: an unknown function or queue, arguments
    that do not match its options, a position out of range, parents in `after` that are not earlier tasks, and patterns
    for tasks that are not parents.
    """
    Pipeline.lock(db, pipeline_id)
    order = list(db.scalars(_ORDER, {"pipeline": pipeline_id}))
    if len(order) >= TASKS:
        raise Conflict(f"A pipeline has at most {TASKS} tasks.")
    place = len(order) + 1 if position is None else position
    errors = FieldErrors()
    with errors.collect():
        signature = find_function(db, function)
        checked = check_arguments(signature.options, arguments)
    in_range = _check_position(errors, place, len(order) + 1)
    _check_after(errors, "after", after, order[: place - 1] if in_range else order)
    columns = _columns(db, errors, settings)
    _check_inputs(errors, settings.get("inputs"), after, order[: place - 1])
    errors.raise_all()
    renumber(db, order[place - 1 :], place + 1)
    values = {
        "pipeline_id": pipeline_id,
        "position": place,
        "function_id": signature.id,
        "arguments": checked,
        "after": after,
        **columns,
    }
    return int(db.execute(_INSERT, values).scalar_one())


def change_task(db: Session, task_id: int, changes: TaskChanges) -> None:
    """Change a task. Raises `Invalid` with all errors, as `insert_task`.

    The arguments, new or not, are checked against the function, new or not. The error of a task whose parent would
    no longer be an earlier task has the name `position`.
    """
    task, tasks = locked_tasks(db, task_id)
    errors = FieldErrors()
    signature, arguments = task.function.signature, changes.get("arguments", task.arguments)
    if "function" in changes or "arguments" in changes:
        with errors.collect():
            if "function" in changes:
                signature = find_function(db, changes["function"])
            arguments = check_arguments(signature.options, arguments)
    order = _check_order(errors, tasks, task, changes)
    after = changes.get("after", task.after)
    columns = _columns(db, errors, changes)
    if "inputs" in changes:
        _check_inputs(errors, changes["inputs"], after, order[: order.index(task_id)])
    errors.raise_all()
    task.function_id, task.arguments, task.after = signature.id, dict(arguments), after
    for name, value in columns.items():
        setattr(task, name, value)
    db.flush()
    if "position" in changes:
        renumber(db, order, 1)


def _columns(db: Session, errors: FieldErrors, settings: JobSettings) -> dict[str, object]:
    """The columns of a task for these settings; adds an error if the queue does not exist."""
    columns: dict[str, object] = {name: settings[name] for name in _SETTINGS if name in settings}
    if "queue" in settings:
        name = settings["queue"]
        columns["queue_id"] = None if name is None else queues.ids(db, [name]).get(name)
        if name is not None and columns["queue_id"] is None:
            errors.add("queue", "Queue not found.")
    return columns


_SETTINGS: Final = ("timeout", "attempts", "priority", "resources", "inputs", "retry_on", "reuse")
"""The settings of jobs that are columns of tasks."""


def _check_inputs(
    errors: FieldErrors, inputs: JsonObject | None, after: list[int] | None, earlier: Sequence[int]
) -> None:
    """Add an error if there are patterns for a task that is not a parent."""
    own = earlier[-1:] if after is None else after
    if inputs is not None and not inputs.keys() <= {ALL, *map(str, own)}:
        errors.add("inputs", NOT_PARENT)


def locked_tasks(db: Session, task_id: int) -> tuple[Task, list[Task]]:
    """A task, and all tasks of its pipeline in order; locks the pipeline. Raises `Gone` if the task does not exist."""
    pipeline_id = db.scalar(sa.select(Task.pipeline_id).where(Task.id == task_id))
    tasks = [] if pipeline_id is None else Pipeline.locked(db, pipeline_id).tasks(db)
    for task in tasks:
        if task.id == task_id:
            return task, tasks
    raise Gone()


def parents(tasks: list[Task]) -> list[list[int]]:
    """The indices of the parents of all tasks of a pipeline, which are in order."""
    indices = {task.id: index for index, task in enumerate(tasks)}
    return [
        ([index - 1] if index else []) if task.after is None else [indices[parent] for parent in task.after]
        for index, task in enumerate(tasks)
    ]


def _check_order(errors: FieldErrors, tasks: list[Task], task: Task, changes: TaskChanges) -> list[int]:
    """The ids of the tasks in the order after the changes to one of them."""
    order = [other.id for other in tasks]
    others = [number for number in order if number != task.id]
    in_range = "position" not in changes or _check_position(errors, changes["position"], len(order))
    if in_range and "position" in changes:
        order = [*others[: changes["position"] - 1], task.id, *others[changes["position"] - 1 :]]
    for other in tasks:
        earlier = order[: order.index(other.id)]
        if other is not task:
            _check_after(errors, "position", other.after, earlier)
        else:
            _check_after(errors, "after", changes.get("after", task.after), earlier if in_range else others)
    return order


def _check_position(errors: FieldErrors, position: int, last: int) -> bool:
    in_range = 1 <= position <= last
    if not in_range:
        errors.add("position", f"Must be between 1 and {last}.")
    return in_range


def _check_after(errors: FieldErrors, name: str, after: list[int] | None, earlier: Collection[int]) -> None:
    if after is not None and (len(set(after)) != len(after) or not set(after) <= set(earlier)):
        errors.add(name, "The parents of a task must be earlier tasks of the pipeline, without duplicates.")


def renumber(db: Session, order: list[int], first: int) -> None:
    """Number tasks from `first` on, by way of negative numbers because positions are unique at every moment."""
    if not order:
        return
    numbers = sa.case({task_id: -number for number, task_id in enumerate(order, first)}, value=Task.id)
    listed = Task.id.in_(order)
    db.execute(sa.update(Task).where(listed).values(position=numbers))
    db.execute(sa.update(Task).where(listed).values(position=-Task.position))
