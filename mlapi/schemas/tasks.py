"""Request bodies of tasks."""

import colander

from mlapi.models.pipelines import TASKS
from mlapi.schemas.job_settings import JobSettings, arguments
from mlapi.schemas.links import Id, Link
from mlapi.schemas.types import OrNullList, Whole


class TaskChange(JobSettings):
    """A change of a task. If `after` is null, the task follows the previous one."""

    function = colander.SchemaNode(Link("function", "versioned function"), missing=colander.drop)
    arguments = arguments(missing=colander.drop)
    after = colander.SchemaNode(OrNullList(TASKS), colander.SchemaNode(Id("task"), name="task"), missing=colander.drop)
    position = colander.SchemaNode(Whole(), missing=colander.drop)


class NewTask(TaskChange):
    """A new task, at the end of the pipeline unless it has a position."""

    function = colander.SchemaNode(Link("function", "versioned function"))
    arguments = arguments(missing={})
