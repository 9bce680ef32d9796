"""Bodies that make and change tasks."""

from typing import Any

import colander

from mlapi.models.pipelines import TASKS
from mlapi.schemas.types import Json, List, Real, Schema, Text, Whole


class OrNull(colander.SchemaType):
    """What another type holds, or null."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def deserialize(self, node: Any, cstruct: Any) -> Any:
        """Return None for null, else what the other type makes of it."""
        return None if cstruct is None else self.kind.deserialize(node, cstruct)


class OrNullList(List):
    """A list, or null."""

    def deserialize(self, node: Any, cstruct: Any, accept_scalar: Any = None) -> Any:
        """Return None for null, else the list."""
        return None if cstruct is None else super().deserialize(node, cstruct, accept_scalar)


def positive(node: Any, value: float | None) -> None:
    """Refuse a number that is not above zero; null is none."""
    if value is not None and value <= 0:
        raise colander.Invalid(node, "Must be above zero.")


class TaskChange(Schema):
    """What of a task is to change; `after` null means: after the task before."""

    function = colander.SchemaNode(Text(), missing=colander.drop)
    arguments = colander.SchemaNode(Json(dict), missing=colander.drop)
    after = colander.SchemaNode(OrNullList(TASKS), colander.SchemaNode(Text(), name="task"), missing=colander.drop)
    position = colander.SchemaNode(Whole(), missing=colander.drop)
    timeout = colander.SchemaNode(OrNull(Real()), missing=colander.drop, validator=positive)


class NewTask(TaskChange):
    """A task to be made, at the end unless it says a position."""

    function = colander.SchemaNode(Text())
    arguments = colander.SchemaNode(Json(dict), missing={})
