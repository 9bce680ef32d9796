"""Tasks of a pipeline."""

import datetime
from collections.abc import Callable
from typing import TypedDict, cast

import sqlalchemy as sa

from mlapi.models import Pipeline, Queue, Task, User
from mlapi.models.base import JsonList, JsonObject
from mlapi.models.patterns import ALL
from mlapi.resources.fields import Field, Fields, Row
from mlapi.resources.items import Collection, OwnedItem
from mlapi.resources.modules import functions, join_function, modules, versions
from mlapi.resources.tree import Linker, Url

tasks, pipelines, users = Task.__table__.c, Pipeline.__table__.c, User.__table__.c
queues = Queue.__table__.c


class TaskDocument(TypedDict):
    """A task. `after` is null if the task follows the previous one, others if the queue or the service decides."""

    id: int
    url: Url
    pipeline: Url
    position: int
    function: Url
    arguments: JsonObject
    after: list[Url] | None
    queue: Url | None
    timeout: float | None
    attempts: int | None
    priority: int | None
    resources: JsonObject | None
    inputs: list[str] | dict[str, list[str]] | None
    retry_on: JsonList | None
    reuse: bool | None
    created: datetime.datetime


def inputs_of(patterns: JsonObject | None, url: Callable[[str], Url]) -> list[str] | dict[str, list[str]] | None:
    """Patterns as they are written in requests: a list for all parents, or lists by the URLs of parents."""
    found = cast("dict[str, list[str]] | None", patterns)
    if found is None or ALL in found:
        return None if found is None else found[ALL]
    return {url(parent): globs for parent, globs in found.items()}


class TaskItem(OwnedItem[TaskDocument, TaskDocument]):
    """A task: a function with arguments, at a position of a pipeline."""

    key = "task"
    fields = Fields(
        Field(tasks.id),
        Field(tasks.pipeline_id, "pipeline"),
        Field(tasks.position, sort=True),
        Field(tasks.arguments),
        Field(tasks.after),
        Field(queues.name, "queue"),
        Field(tasks.timeout),
        Field(tasks.attempts),
        Field(tasks.priority),
        Field(tasks.resources),
        Field(tasks.inputs),
        Field(tasks.retry_on),
        Field(tasks.reuse),
        Field(tasks.created),
        Field(users.name, "owner", shown=False),
        Field(functions.name, "function"),
        Field(versions.digest, "version", shown=False),
        Field(modules.name, "module", shown=False),
    )
    source = join_function(
        sa.join(Task.__table__, Pipeline.__table__, tasks.pipeline_id == pipelines.id)
        .join(User.__table__, pipelines.owner_id == users.id)
        .outerjoin(Queue.__table__, tasks.queue_id == queues.id),
        tasks.function_id,
    )
    by = tasks.id
    within = tasks.pipeline_id == pipelines.id
    owner = pipelines.owner_id

    @classmethod
    def describe(cls, row: Row, link: Linker) -> TaskDocument:
        """A task, with links to its function in the version that it uses, and to its predecessors."""
        pipeline = link("pipeline", user=row.owner, pipeline=row.pipeline)
        return {
            "id": row.id,
            "url": f"{pipeline}/tasks/{row.id}",
            "pipeline": pipeline,
            "position": row.position,
            "function": link("versioned function", module=row.module, version=row.version, function=row.function),
            "arguments": row.arguments,
            "after": None if row.after is None else [f"{pipeline}/tasks/{task}" for task in row.after],
            "queue": link("queue", queue=row.queue) if row.queue else None,
            "timeout": row.timeout,
            "attempts": row.attempts,
            "priority": row.priority,
            "resources": row.resources,
            "inputs": inputs_of(row.inputs, lambda task: f"{pipeline}/tasks/{task}"),
            "retry_on": row.retry_on,
            "reuse": row.reuse,
            "created": row.created,
        }


class Tasks(Collection[TaskItem]):
    """The tasks of a pipeline, by position."""

    item = TaskItem
    order = "position"
    newest_first = False
    few = True
    tied_by = tasks.pipeline_id
