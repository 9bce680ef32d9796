"""Plans: the columns of the jobs of a run, from the tasks of its pipeline and the changes of the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict, cast

from sqlalchemy.orm import Session

from mlapi.errors import Conflict, FieldErrors
from mlapi.models import queues
from mlapi.models.base import JsonList, JsonObject
from mlapi.models.dependencies import Dependency
from mlapi.models.jobs import NEEDS
from mlapi.models.options import check_arguments
from mlapi.models.patterns import ALL
from mlapi.models.pipelines import NOT_PARENT, JobSettings, Task
from mlapi.models.queues import DEFAULT, DEFAULT_ID


class JobChanges(JobSettings, total=False):
    """What a run changes of a task: arguments and resources are merged with those of the task, others replace them.

    None is the value of a job of which neither the task nor the run says anything.
    """

    arguments: Mapping[str, object]


class TaskOfRun(NamedTuple):
    """A task by its id, with its changes in a run."""

    task: int
    changes: JobChanges


@dataclass(frozen=True)
class RunOptions:
    """What the start of a run can choose beside its files: for all its jobs, and for single tasks, with precedence.

    `field` is the part of the request that has the single tasks, by which errors name them.
    """

    changes: JobChanges = field(default_factory=JobChanges)
    tasks: Sequence[TaskOfRun] = ()
    depends_on: Sequence[Dependency] = ()
    field: str = "tasks"


KEYS = {"tasks": ("task", "Task not found."), "jobs": ("position", "Job not found.")}
"""The field that names a task or a job in each part of a request, and the error if there is none."""


class Needs(TypedDict):
    """The resources that a job needs."""

    cpus: float | None
    memory: int | None
    gpus: int | None


class Plan(Needs):
    """The columns of a job that are known before its run exists; the ids of parents in `patterns` are positions."""

    task_id: int | None
    function_id: int
    position: int
    arguments: JsonObject
    queue_id: int
    timeout: float | None
    attempts: int | None
    rank: int
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
        prefix, change = changes.get(task.id, ("", {}))
        with errors.collect():
            positions = {str(tasks[parent].id): str(parent + 1) for parent in parents[index]}
            plans.append(_plan(task, index + 1, positions, {**options.changes, **change}, prefix, known))
    errors.raise_all()
    complete(db, plans)
    return plans


def complete(db: Session, plans: Sequence[Plan]) -> None:
    """Fill in the defaults of the queues of jobs. Raises `Conflict` if a queue is locked."""
    used = {job["queue_id"] for job in plans}
    queues.check_open(db, used)
    defaults = queues.defaults(db, used)
    for job in plans:
        of_queue = defaults[job["queue_id"]]
        job["timeout"] = job["timeout"] or of_queue.timeout
        job["attempts"] = job["attempts"] or of_queue.attempts
        for name in NEEDS:
            if job[name] is None:
                job[name] = cast("Any", (of_queue.resources or {}).get(name))


def _queues(db: Session, errors: FieldErrors, options: RunOptions) -> dict[str, int]:
    """The ids of the queues that a run names; adds an error for every name without a queue."""
    parts = {f"{options.field}.{number}.queue": part.changes for number, part in enumerate(options.tasks)}
    named = {where: part.get("queue") for where, part in {"queue": options.changes, **parts}.items()}
    names = {name for name in named.values() if name is not None}
    known = queues.ids(db, names, protected=False) if names else {}
    for where, name in named.items():
        if name in names - known.keys():
            errors.add(where, "Queue not found.")
    return known


def _changes_by_task(
    errors: FieldErrors, tasks: Sequence[Task], options: RunOptions
) -> dict[int, tuple[str, JobChanges]]:
    """The changes of the tasks by their ids, with the names of their fields in the request."""
    key, not_found = KEYS[options.field]
    known = {task.id for task in tasks}
    found: dict[int, tuple[str, JobChanges]] = {}
    for number, (task, changes) in enumerate(options.tasks):
        prefix = f"{options.field}.{number}"
        if task not in known:
            errors.add(f"{prefix}.{key}", not_found)
        elif task in found:
            errors.add(f"{prefix}.{key}", "Sent more than once.")
        found.setdefault(task, (prefix, changes))
    return found


def _plan(
    task: Task,
    position: int,
    parents: Mapping[str, str],
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
    changed = change.get("resources", {})
    resources = {} if changed is None else {**(task.resources or {}), **changed}
    queue_id = queues.get(change["queue"] or DEFAULT) if "queue" in change else task.queue_id
    return {
        **cast("Needs", {name: resources.get(name) for name in NEEDS}),
        "task_id": task.id,
        "function_id": task.function_id,
        "position": position,
        "arguments": dict(arguments),
        "queue_id": queue_id or DEFAULT_ID,
        "timeout": change.get("timeout", task.timeout),
        "attempts": change.get("attempts", task.attempts),
        "rank": -(change.get("priority", task.priority) or 0),
        "patterns": patterns or None,
        "retry_on": change.get("retry_on", task.retry_on),
        "reuse": change.get("reuse", task.reuse),
    }


def _by_position(inputs: JsonObject | None, parents: Mapping[str, str]) -> JsonObject | None:
    """Patterns by the positions of parents instead of their tasks; None if one names another task."""
    positions = {ALL: ALL, **parents}
    if inputs is not None and not inputs.keys() <= positions.keys():
        return None
    return {positions[task]: globs for task, globs in (inputs or {}).items()}
