"""Request bodies and query strings of queues."""

import colander

from mlapi.errors import Invalid
from mlapi.models.base import SLUG, check_slug
from mlapi.schemas.job_settings import ATTEMPTS, time_limit
from mlapi.schemas.links import NameOf
from mlapi.schemas.pages import optional
from mlapi.schemas.resources import resources
from mlapi.schemas.types import OrNull, Real, Schema, Text, Whole, between


def is_slug(node: colander.SchemaNode, value: str) -> None:
    """Validate the name of a queue."""
    try:
        check_slug(value)
    except Invalid as invalid:
        raise colander.Invalid(node, invalid.errors[0].description) from None


def at_least_one(node: colander.SchemaNode, value: int | None) -> None:
    """Validate the limit of a queue."""
    if value is not None and value < 1:
        raise colander.Invalid(node, "Must be at least 1; lock the queue so that it starts no jobs.")


class QueueName(NameOf):
    """The URL or the name of a queue; deserializes to its name."""

    def __init__(self) -> None:
        super().__init__("queue")

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return the name, or raise `colander.Invalid` for any other text."""
        if isinstance(cstruct, str) and SLUG.fullmatch(cstruct):
            return cstruct
        return super().deserialize(node, cstruct)


class QueueChange(Schema):
    """A change of a queue. Null removes the limit or the default."""

    description = colander.SchemaNode(Text(), missing=colander.drop, validator=colander.Length(max=1000))
    limit = colander.SchemaNode(OrNull(Whole()), missing=colander.drop, validator=at_least_one)
    timeout = colander.SchemaNode(OrNull(Real()), missing=colander.drop, validator=time_limit)
    attempts = colander.SchemaNode(OrNull(Whole()), missing=colander.drop, validator=between(1, ATTEMPTS))
    resources = resources()


class NewQueue(QueueChange):
    """A new queue."""

    name = colander.SchemaNode(Text(), validator=is_slug)


class Move(Schema):
    """Where the jobs and tasks of a deleted queue go."""

    move_to = optional(QueueName())
