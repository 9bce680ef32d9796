"""Plans: the columns of the jobs of a run, from the tasks of its pipeline and the changes of the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict, cast

from sqlalchemy.orm import Session

from mlapi.errors import Conflict, FieldErrors
from mlapi.models import queues
from mlapi.models.base import JsonList, JsonObject
from mlapi.models.options import check_arguments
from mlapi.models.patterns import ALL
from mlapi.models.pipelines import NOT_PARENT, JobSettings, Task
from mlapi.models.queues import DEFAULT_ID


class JobChanges(JobSettings, total=False):
    """What a run changes of a task: arguments and resources are merged with those of the task, others replace them."""

    arguments: Mapping[str, object]


class TaskOfRun(NamedTuple):
    """A task by its id, with its changes in a run."""

    task: int
    changes: JobChanges


class Dependency(NamedTuple):
    """A run, or a job of one (`kind`), that must have finished before another run begins."""

    kind: str
    id: int


@dataclass(frozen=True)
class RunOptions:
    """What the start of a run can choose beside its files: for all its jobs, and for single ones."""

    queue: str | None = None
    priority: int | None = None
    reuse: bool | None = None
    tasks: Sequence[TaskOfRun] = ()
    depends_on: Sequence[Dependency] = ()


class Plan(TypedDict):
    """The columns of a job that are known before its run exists; the ids of parents in `patterns` are positions."""

    task_id: int | None
    function_id: int
    position: int
    arguments: JsonObject
    queue_id: int
    timeout: float | None
    attempts: int | None
    rank: int
    cpus: float | None
    memory: int | None
    gpus: int | None
    patterns: JsonObject | None
    retry_on: JsonList | None
    reuse: bool | None


def plan(db: Session, tasks: Sequence[Task], parents: Sequence[Sequence[int]], options: RunOptions) -> list[Plan]:
    """The plans of the jobs of a run, in order of the tasks, whose parents have these indices.

    Raises `Invalid` for changes that do not fit the tasks, and `Conflict` if a queue is locked.
    """
    errors = FieldErrors()
    changes = _changes_by_task(errors, tasks, options)
    known = _queues(db, errors, options)
    plans = []
    for index, task in enumerate(tasks):
        number, change = changes.get(task.id, (0, {}))
        with errors.collect():
            positions = {str(tasks[parent].id): str(parent + 1) for parent in parents[index]}
            plans.append(_plan(task, index + 1, positions, options, change, f"tasks.{number}", known))
    errors.raise_all()
    complete(db, plans)
    return plans


def complete(db: Session, plans: Sequence[Plan]) -> None:
    """Fill in the defaults of the queues of jobs. Raises `Conflict` if a queue is locked."""
    used = {each["queue_id"] for each in plans}
    queues.check_open(db, used)
    defaults = queues.defaults(db, used)
    for each in plans:
        of_queue = defaults[each["queue_id"]]
        each["timeout"] = each["timeout"] or of_queue.timeout
        each["attempts"] = each["attempts"] or of_queue.attempts
        resources = of_queue.resources or {}
        if each["cpus"] is None:
            each["cpus"] = cast("float | None", resources.get("cpus"))
        if each["memory"] is None:
            each["memory"] = cast("int | None", resources.get("memory"))
        if each["gpus"] is None:
            each["gpus"] = cast("int | None", resources.get("gpus"))


def _queues(db: Session, errors: FieldErrors, options: RunOptions) -> dict[str, int]:
    """The ids of the queues that a run names; adds an error for every name without a queue."""
    names = {f"tasks.{number}.queue": each.changes.get("queue") for number, each in enumerate(options.tasks)}
    named = {where: name for where, name in {"queue": options.queue, **names}.items() if name is not None}
    known = queues.ids(db, named.values(), protected=False) if named else {}
    for where, name in named.items():
        if name not in known:
            errors.add(where, "Queue not found.")
    return known


def _changes_by_task(
    errors: FieldErrors, tasks: Sequence[Task], options: RunOptions
) -> dict[int, tuple[int, JobChanges]]:
    """The changes of the tasks by their ids, each with its number in the request."""
    known = {task.id for task in tasks}
    found: dict[int, tuple[int, JobChanges]] = {}
    for number, (task, changes) in enumerate(options.tasks):
        if task not in known:
            errors.add(f"tasks.{number}.task", "Task not found.")
        elif task in found:
            errors.add(f"tasks.{number}.task", "Sent more than once.")
        found.setdefault(task, (number, changes))
    return found


def _plan(
    task: Task,
    position: int,
    parents: Mapping[str, str],
    options: RunOptions,
    change: JobChanges,
    prefix: str,
    queues: Mapping[str, int],
) -> Plan:
    """The plan of one job; `parents` maps the ids of its parent tasks to their positions. Raises `Invalid`."""
    errors = FieldErrors()
    arguments: Mapping[str, object] = task.arguments
    if "arguments" in change:
        with errors.collect():
            merged = {**task.arguments, **change["arguments"]}
            arguments = check_arguments(task.function.signature.options, merged, f"{prefix}.arguments")
    patterns = _by_position(change.get("inputs", task.inputs), parents)
    if patterns is None and "inputs" in change:
        errors.add(f"{prefix}.inputs", NOT_PARENT)
    errors.raise_all()
    if patterns is None:
        raise Conflict(f"The inputs of task {position} name a task that is not its parent any more; change them first.")
    resources = {**(task.resources or {}), **(change.get("resources") or {})}
    queue = change.get("queue") or options.queue
    run_priority = task.priority if options.priority is None else options.priority
    wishes = (options.reuse, change.get("reuse", task.reuse))
    return {
        "task_id": task.id,
        "function_id": task.function_id,
        "position": position,
        "arguments": dict(arguments),
        "queue_id": task.queue_id or DEFAULT_ID if queue is None else queues.get(queue, DEFAULT_ID),
        "timeout": change.get("timeout", task.timeout),
        "attempts": change.get("attempts", task.attempts),
        "rank": -(change.get("priority", run_priority) or 0),
        "cpus": cast("float | None", resources.get("cpus")),
        "memory": cast("int | None", resources.get("memory")),
        "gpus": cast("int | None", resources.get("gpus")),
        "patterns": patterns or None,
        "retry_on": change.get("retry_on", task.retry_on),
        "reuse": False if False in wishes else (True in wishes) or None,
    }


def _by_position(inputs: JsonObject | None, parents: Mapping[str, str]) -> JsonObject | None:
    """Patterns by the positions of parents instead of their tasks; None if one names another task."""
    positions = {ALL: ALL, **parents}
    if inputs is not None and not inputs.keys() <= positions.keys():
        return None
    return {positions[task]: globs for task, globs in (inputs or {}).items()}
