"""Resources that a job needs, in request bodies."""

from typing import TypedDict

import colander

from mlapi.schemas.tasks import OrNull
from mlapi.schemas.types import Object, Real, Schema, Whole


class Needs(TypedDict, total=False):
    """The resources that a job needs."""

    cpus: float
    memory: int
    gpus: int


def positive(node: colander.SchemaNode, value: float) -> None:
    """Validate an amount."""
    if value <= 0:
        raise colander.Invalid(node, "Must be above zero.")


class Resources(Schema):
    """Processors, memory in bytes, and GPUs."""

    cpus = colander.SchemaNode(Real(), missing=colander.drop, validator=positive)
    memory = colander.SchemaNode(Whole(), missing=colander.drop, validator=positive)
    gpus = colander.SchemaNode(Whole(), missing=colander.drop, validator=colander.Range(0, None))


def resources(**kw: object) -> colander.SchemaNode:
    """The resources that a job needs, or null."""
    return colander.SchemaNode(OrNull(Object()), *Resources().children, missing=colander.drop, **kw)
