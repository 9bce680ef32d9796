"""Bodies that runners send."""

import colander

from mlapi.models.jobs import Status
from mlapi.schemas.files import is_plain, tags
from mlapi.schemas.pages import Number
from mlapi.schemas.tasks import OrNull
from mlapi.schemas.types import Json, List, Schema, Text, Whole

OUTPUTS = 1000
"""Output files of a job at most."""


class Output(Schema):
    """A file that a function made."""

    name = colander.SchemaNode(Text(), validator=is_plain)
    sha256 = colander.SchemaNode(Text(), validator=colander.Regex(r"^[0-9a-f]{64}\Z", "Must be a SHA-256."))
    tags = tags()
    origin = colander.SchemaNode(Text(), validator=colander.OneOf(["created", "modified", "unchanged"]))
    input = colander.SchemaNode(OrNull(Whole()), missing=None)


class Report(Schema):
    """How an attempt ended."""

    status = colander.SchemaNode(Text(), validator=colander.OneOf([Status.FINISHED, Status.FAILED, Status.CANCELLED]))
    reason = colander.SchemaNode(OrNull(Text()), missing=None)
    metrics = colander.SchemaNode(Json(dict), missing={})
    outputs = colander.SchemaNode(List(OUTPUTS), Output(name="output"), missing=())


class Heartbeat(Schema):
    """Nothing: a sign of life."""


class LogOffset(Schema):
    """Where a piece of the log belongs."""

    offset = colander.SchemaNode(Number())


class LogFrom(Schema):
    """From where on a log is wanted."""

    offset = colander.SchemaNode(Number(), missing=0)
