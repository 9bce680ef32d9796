"""Bodies that make and change pipelines."""

import colander

from mlapi.schemas.types import Flag, Schema, Text


def name(**kw: object) -> colander.SchemaNode:
    """The name of a pipeline."""
    return colander.SchemaNode(Text(), validator=colander.Length(1, 100), **kw)


class NewPipeline(Schema):
    """A pipeline to be made."""

    name = name()
    enabled = colander.SchemaNode(Flag(), missing=False)


class PipelineChange(Schema):
    """What of a pipeline is to change."""

    name = name(missing=colander.drop)
    enabled = colander.SchemaNode(Flag(), missing=colander.drop)
