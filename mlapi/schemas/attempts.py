"""Request bodies and query strings of attempts and logs."""

import colander

from mlapi.models.attempts import RETURNED, SERVICE, WORKER
from mlapi.models.backoff import TIMEOUT
from mlapi.models.jobs import Status
from mlapi.schemas.files import is_plain, tags
from mlapi.schemas.json_values import Json
from mlapi.schemas.pages import Number
from mlapi.schemas.types import List, OrNull, Real, Schema, Text, Whole

OUTPUTS = 1000
"""Maximum number of output files of a job."""


class Output(Schema):
    """An output file in a report."""

    name = colander.SchemaNode(Text(), validator=is_plain)
    sha256 = colander.SchemaNode(
        Text(), validator=colander.Regex(r"^[0-9a-f]{64}\Z", "Must be a SHA-256 in lower-case hexadecimal.")
    )
    tags = tags()
    origin = colander.SchemaNode(Text(), validator=colander.OneOf(["created", "modified", "unchanged"]))
    input = colander.SchemaNode(OrNull(Whole()), missing=None)


def is_fault(node: colander.SchemaNode, value: str | None) -> None:
    """Validate the fault of an attempt that hands its job back."""
    if value not in (WORKER, SERVICE, None):
        raise colander.Invalid(node, f'Must be "{WORKER}", "{SERVICE}" or null.')


def is_failure(node: colander.SchemaNode, value: str | None) -> None:
    """Validate the failure of an attempt."""
    if value not in (TIMEOUT, None):
        raise colander.Invalid(node, f'Must be "{TIMEOUT}" or null.')


def is_not_negative(node: colander.SchemaNode, value: float | None) -> None:
    """Validate an amount."""
    if value is not None and value < 0:
        raise colander.Invalid(node, "Must not be negative.")


def amount(kind: Whole | Real) -> colander.SchemaNode:
    """An amount that was used, or null."""
    return colander.SchemaNode(OrNull(kind), validator=is_not_negative, missing=None)


class Usage(Schema):
    """What the function of an attempt used."""

    peak_memory = amount(Whole())
    cpu_seconds = amount(Real())
    wall_seconds = amount(Real())


class Report(Schema):
    """The result of an attempt, or that its runner hands the job back (RETURNED)."""

    status = colander.SchemaNode(
        Text(), validator=colander.OneOf([Status.FINISHED, Status.FAILED, Status.CANCELLED, RETURNED])
    )
    reason = colander.SchemaNode(OrNull(Text()), missing=None)
    fault = colander.SchemaNode(OrNull(Text()), validator=is_fault, missing=None)
    exit_code = colander.SchemaNode(OrNull(Whole()), missing=None)
    failure = colander.SchemaNode(OrNull(Text()), validator=is_failure, missing=None)
    metrics = colander.SchemaNode(Json(lambda settings: settings.metrics_limit, dict), missing={})
    outputs = colander.SchemaNode(List(OUTPUTS), Output(name="output"), missing=())
    usage = Usage(missing={})


class Heartbeat(Schema):
    """A heartbeat, which has no fields."""


class LogOffset(Schema):
    """The offset of a piece of the log."""

    offset = colander.SchemaNode(Number())


class LogFrom(Schema):
    """The offset from which to read a log."""

    offset = colander.SchemaNode(Number(), missing=0)
