"""Request bodies of tasks."""

import colander
from pyramid.threadlocal import get_current_request

from mlapi.models.pipelines import TASKS
from mlapi.schemas.json_values import Json
from mlapi.schemas.links import Id, Link
from mlapi.schemas.types import List, Real, Schema, Whole


class OrNull(colander.SchemaType):
    """A value of another type, or null."""

    def __init__(self, kind: colander.SchemaType) -> None:
        self.kind = kind

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return None for null, else the value of the other type."""
        return None if cstruct is None else self.kind.deserialize(node, cstruct)


class OrNullList(List):
    """A list, or null."""

    def deserialize(self, node: colander.SchemaNode, cstruct: object, accept_scalar: bool | None = None) -> object:
        """Return None for null, else the list."""
        return None if cstruct is None else super().deserialize(node, cstruct, accept_scalar)


def time_limit(node: colander.SchemaNode, value: float | None) -> None:
    """Validate a time limit: positive, and at most `job_timeout_limit`."""
    if value is not None:
        limit = get_current_request().settings.job_timeout_limit
        if value <= 0:
            raise colander.Invalid(node, "Must be above zero.")
        if value > limit:
            raise colander.Invalid(node, f"Must be at most {limit:g} seconds.")


def arguments(**kw: object) -> colander.SchemaNode:
    """The arguments of a task: an object of JSON values."""
    return colander.SchemaNode(Json(lambda settings: settings.arguments_limit, dict), **kw)


class TaskChange(Schema):
    """A change of a task. If `after` is null, the task follows the previous one."""

    function = colander.SchemaNode(Link("function", "versioned function"), missing=colander.drop)
    arguments = arguments(missing=colander.drop)
    after = colander.SchemaNode(OrNullList(TASKS), colander.SchemaNode(Id("task"), name="task"), missing=colander.drop)
    position = colander.SchemaNode(Whole(), missing=colander.drop)
    timeout = colander.SchemaNode(OrNull(Real()), missing=colander.drop, validator=time_limit)


class NewTask(TaskChange):
    """A new task, at the end of the pipeline unless it has a position."""

    function = colander.SchemaNode(Link("function", "versioned function"))
    arguments = arguments(missing={})
