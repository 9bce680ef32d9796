"""Resources that a job needs, in request bodies."""

from typing import TypedDict

import colander

from mlapi.schemas.types import Object, OrNull, Real, Schema, Whole, between


class Needs(TypedDict, total=False):
    """The resources that a job needs."""

    cpus: float
    memory: int
    gpus: int


CPUS, MEMORY, GPUS = 4096, 2**50, 4096
"""Maximum resources of a job; memory in bytes."""


class Resources(Schema):
    """Processors, memory in bytes, and GPUs."""

    cpus = colander.SchemaNode(Real(), missing=colander.drop, validator=between(0.001, CPUS))
    memory = colander.SchemaNode(Whole(), missing=colander.drop, validator=between(1, MEMORY))
    gpus = colander.SchemaNode(Whole(), missing=colander.drop, validator=between(0, GPUS))


def resources(**kw: object) -> colander.SchemaNode:
    """The resources that a job needs, or null."""
    return colander.SchemaNode(OrNull(Object()), *Resources().children, missing=colander.drop, **kw)
