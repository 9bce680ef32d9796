"""Request bodies of pipelines."""

import colander

from mlapi.schemas.types import Flag, Schema, Text


def name(**kw: object) -> colander.SchemaNode:
    """The name of a pipeline."""
    return colander.SchemaNode(Text(), validator=colander.Length(1, 100), **kw)


class NewPipeline(Schema):
    """A new pipeline."""

    name = name()
    enabled = colander.SchemaNode(Flag(), missing=False)


class PipelineChange(Schema):
    """A change of a pipeline."""

    name = name(missing=colander.drop)
    enabled = colander.SchemaNode(Flag(), missing=colander.drop)
