"""The fields of tasks, and of the changes of a run, that say how jobs are executed."""

from contextlib import suppress

import colander
from pyramid.threadlocal import get_current_request

from mlapi.models.patterns import ALL, LENGTH, STARS, TOTAL
from mlapi.schemas.json_values import Json
from mlapi.schemas.links import Id, NameOf
from mlapi.schemas.resources import resources
from mlapi.schemas.types import Flag, List, OrNull, OrNullList, Real, Schema, Text, Whole, between

ATTEMPTS = 100
"""Maximum number of attempts of a job."""

PRIORITY = 100
"""Maximum of a priority, and of its opposite."""

PATTERNS = 100
"""Maximum number of patterns of a task, and of parents that have patterns."""

CAUSES = ("worker_lost", "timeout")
"""The names of failures that can be retried; exit codes are numbers."""


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


def few_stars(node: colander.SchemaNode, glob: str) -> None:
    """Validate a pattern: it has at most `STARS` asterisks."""
    if glob.count("*") > STARS:
        raise colander.Invalid(node, f"Must have at most {STARS} asterisks.")


class Patterns(colander.SchemaType):
    """Patterns of inputs: a list for all parents, or an object of lists by the URLs of parent tasks.

    Deserializes to an object of lists by the ids of tasks as text; `ALL` stands for all parents.
    """

    globs = colander.SchemaNode(
        List(PATTERNS), colander.SchemaNode(Text(), validator=colander.All(colander.Length(1, LENGTH), few_stars))
    )

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return the patterns by task, or raise `colander.Invalid`."""
        if cstruct is colander.null:
            return cstruct
        if isinstance(cstruct, list):
            return {ALL: self._globs(node, cstruct)}
        if not isinstance(cstruct, dict):
            raise colander.Invalid(
                node, "Must be a list of patterns, or an object of lists by the URLs of parent tasks."
            )
        if len(cstruct) > PATTERNS:
            raise colander.Invalid(node, f"Must have at most {PATTERNS} members.")
        return {str(Id("task").deserialize(node, task)): self._globs(node, globs) for task, globs in cstruct.items()}

    def _globs(self, node: colander.SchemaNode, cstruct: object) -> object:
        with suppress(colander.Invalid):
            globs = self.globs.deserialize(cstruct)
            if sum(map(len, globs)) <= TOTAL:
                return globs
        raise colander.Invalid(
            node,
            f"Must be lists of at most {PATTERNS} patterns of 1 to {LENGTH} characters, together at most {TOTAL}, "
            f"without NUL, each with at most {STARS} asterisks.",
        )


class Cause(colander.SchemaType):
    """A failure that can be retried: an exit code, or the name of another cause."""

    def deserialize(self, node: colander.SchemaNode, cstruct: object) -> object:
        """Return the cause unchanged, or raise `colander.Invalid`."""
        is_code = isinstance(cstruct, int) and not isinstance(cstruct, bool) and 1 <= cstruct <= 255
        if not is_code and cstruct not in CAUSES:
            raise colander.Invalid(node, f"Must be an exit code from 1 to 255, or one of {', '.join(CAUSES)}.")
        return cstruct


class JobSettings(Schema):
    """How a job is executed; null leaves it to the queue and the settings of the service."""

    queue = colander.SchemaNode(OrNull(NameOf("queue")), missing=colander.drop)
    timeout = colander.SchemaNode(OrNull(Real()), missing=colander.drop, validator=time_limit)
    attempts = colander.SchemaNode(OrNull(Whole()), missing=colander.drop, validator=between(1, ATTEMPTS))
    priority = colander.SchemaNode(OrNull(Whole()), missing=colander.drop, validator=between(-PRIORITY, PRIORITY))
    resources = resources()
    inputs = colander.SchemaNode(OrNull(Patterns()), missing=colander.drop)
    retry_on = colander.SchemaNode(
        OrNullList(PATTERNS), colander.SchemaNode(Cause(), name="cause"), missing=colander.drop
    )
    reuse = colander.SchemaNode(OrNull(Flag()), missing=colander.drop)
