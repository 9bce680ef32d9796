"""Tasks of a pipeline."""

import datetime
from typing import TypedDict

import sqlalchemy as sa

from mlapi.models import Pipeline, Task, User
from mlapi.models.base import JsonObject
from mlapi.resources.fields import Field, Fields, Row
from mlapi.resources.items import Collection, OwnedItem
from mlapi.resources.modules import functions, join_function, modules, versions
from mlapi.resources.tree import Linker, Url

tasks, pipelines, users = Task.__table__.c, Pipeline.__table__.c, User.__table__.c


class TaskDocument(TypedDict):
    """A task. `after` is null if the task follows the previous one."""

    id: int
    url: Url
    pipeline: Url
    position: int
    function: Url
    arguments: JsonObject
    after: list[Url] | None
    timeout: float | None
    created: datetime.datetime


class TaskItem(OwnedItem[TaskDocument, TaskDocument]):
    """A task: a function with arguments, at a position of a pipeline."""

    key = "task"
    fields = Fields(
        Field(tasks.id),
        Field(tasks.pipeline_id, "pipeline"),
        Field(tasks.position, sort=True),
        Field(tasks.arguments),
        Field(tasks.after),
        Field(tasks.timeout),
        Field(tasks.created),
        Field(users.name, "owner", shown=False),
        Field(functions.name, "function"),
        Field(versions.digest, "version", shown=False),
        Field(modules.name, "module", shown=False),
    )
    source = join_function(
        sa.join(Task.__table__, Pipeline.__table__, tasks.pipeline_id == pipelines.id).join(
            User.__table__, pipelines.owner_id == users.id
        ),
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
            "timeout": row.timeout,
            "created": row.created,
        }


class Tasks(Collection[TaskItem]):
    """The tasks of a pipeline, by position."""

    item = TaskItem
    order = "position"
    newest_first = False
    few = True
    tied_by = tasks.pipeline_id
