"""Request bodies of runs."""

import colander

from mlapi.models.grids import AXES, COMBINATIONS
from mlapi.models.pipelines import TASKS
from mlapi.schemas.job_settings import PRIORITY, JobSettings, arguments
from mlapi.schemas.json_values import Json
from mlapi.schemas.links import AnyId, Id, NameOf
from mlapi.schemas.types import Flag, List, OrNull, OrNullList, Schema, Text, Whole, between

FILES = 1000
"""Maximum number of files of a run."""

DEPENDENCIES = 100
"""Maximum number of runs and jobs for which a run can wait."""


class RunTask(JobSettings):
    """The changes of a task in a run."""

    task = colander.SchemaNode(Id("task"))
    arguments = arguments(missing=colander.drop)


class RerunJob(Schema):
    """The changes of a job, by its position, in a rerun."""

    position = colander.SchemaNode(Whole())
    arguments = arguments(missing=colander.drop)
    queue = colander.SchemaNode(OrNull(NameOf("queue")), missing=colander.drop)
    reuse = colander.SchemaNode(OrNull(Flag()), missing=colander.drop)


class Rerun(Schema):
    """A new run of the jobs of another, over its files unless there are others."""

    files = colander.SchemaNode(OrNullList(FILES), colander.SchemaNode(Id("file"), name="file"), missing=None)
    queue = colander.SchemaNode(OrNull(NameOf("queue")), missing=None)
    priority = colander.SchemaNode(OrNull(Whole()), missing=None, validator=between(-PRIORITY, PRIORITY))
    reuse = colander.SchemaNode(OrNull(Flag()), missing=None)
    jobs = colander.SchemaNode(List(TASKS), RerunJob(name="job"), missing=())
    depends_on = colander.SchemaNode(
        List(DEPENDENCIES), colander.SchemaNode(AnyId("job", "run"), name="dependency"), missing=()
    )


class Axis(Schema):
    """Values of an option that all combinations of a grid have in turn; the option can be one of several tasks."""

    tasks = colander.SchemaNode(List(TASKS), colander.SchemaNode(Id("task"), name="task"), validator=colander.Length(1))
    option = colander.SchemaNode(Text(), validator=colander.Length(1, 255))
    values = colander.SchemaNode(
        List(COMBINATIONS),
        colander.SchemaNode(Json(lambda settings: settings.arguments_limit), name="value"),
        validator=colander.Length(1),
    )


class NewRun(Schema):
    """A new run, over files in this order; with `grid`, one run for each combination of values."""

    files = colander.SchemaNode(List(FILES), colander.SchemaNode(Id("file"), name="file"), missing=())
    queue = colander.SchemaNode(OrNull(NameOf("queue")), missing=None)
    priority = colander.SchemaNode(OrNull(Whole()), missing=None, validator=between(-PRIORITY, PRIORITY))
    reuse = colander.SchemaNode(OrNull(Flag()), missing=None)
    tasks = colander.SchemaNode(List(TASKS), RunTask(name="task"), missing=())
    depends_on = colander.SchemaNode(
        List(DEPENDENCIES), colander.SchemaNode(AnyId("job", "run"), name="dependency"), missing=()
    )
    grid = colander.SchemaNode(List(AXES), Axis(name="axis"), missing=())
