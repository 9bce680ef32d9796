"""Tasks of a pipeline."""

from typing import Any

import sqlalchemy as sa

from mlapi.models import Function, Module, ModuleVersion, Pipeline, Task, User
from mlapi.resources.base import Collection, Item
from mlapi.resources.modules import VersionFunction

tasks, pipelines, users = (each.__table__.c for each in (Task, Pipeline, User))
functions, versions, modules = (each.__table__.c for each in (Function, ModuleVersion, Module))


class TaskItem(Item):
    """A task: a function with arguments, at a position of a pipeline."""

    key = "task"
    columns = (
        tasks.id,
        tasks.pipeline_id,
        tasks.position,
        tasks.arguments,
        tasks.after,
        tasks.timeout,
        tasks.created,
        users.name.label("owner"),
        functions.name.label("function"),
        versions.digest,
        modules.name.label("module"),
    )
    source = (
        sa.join(Task.__table__, Pipeline.__table__, tasks.pipeline_id == pipelines.id)
        .join(User.__table__, pipelines.owner_id == users.id)
        .join(Function.__table__, tasks.function_id == functions.id)
        .join(ModuleVersion.__table__, functions.version_id == versions.id)
        .join(Module.__table__, versions.module_id == modules.id)
    )
    by = tasks.id
    within = tasks.pipeline_id == pipelines.id

    @classmethod
    def describe(cls, row: Any, request: Any) -> dict[str, Any]:
        """A task; `after` is null where it simply follows the task before it."""
        pipeline = cls.holder.link(request, user=row.owner, pipeline=row.pipeline_id)
        return {
            "id": row.id,
            "url": f"{pipeline}/tasks/{row.id}",
            "pipeline": pipeline,
            "position": row.position,
            "function": VersionFunction.link(request, module=row.module, version=row.digest, function=row.function),
            "arguments": row.arguments,
            "after": None if row.after is None else [f"{pipeline}/tasks/{each}" for each in row.after],
            "timeout": row.timeout,
            "created": row.created,
        }


class Tasks(Collection):
    """The tasks of a pipeline, in their order."""

    item = TaskItem
    order = tasks.position
    newest_first = False
    mine = tasks.pipeline_id

    @property
    def pipeline(self) -> int:
        """The id of the pipeline whose tasks these are."""
        return int(self.__parent__.id)  # type: ignore[union-attr]
