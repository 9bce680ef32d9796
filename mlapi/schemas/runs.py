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
    """The changes of a task in a run. A member takes precedence over the same one of the run, and that over the task's.

    Null is the value of a task that does not have the member in a run that does not: that of the queue, or else of the
    settings of the service. Arguments and resources are merged with those of the task.
    """

    task = colander.SchemaNode(Id("task"))
    arguments = arguments(missing=colander.drop)


class RerunJob(Schema):
    """The changes of a job, by its position, in a rerun, with the same precedence as in a run."""

    position = colander.SchemaNode(Whole())
    arguments = arguments(missing=colander.drop)
    queue = colander.SchemaNode(OrNull(NameOf("queue")), missing=colander.drop)
    reuse = colander.SchemaNode(OrNull(Flag()), missing=colander.drop)


class OfAllJobs(Schema):
    """The changes of all jobs of a run that have none of their own, and the runs and jobs on which it depends."""

    names = ("queue", "priority", "reuse")

    queue = colander.SchemaNode(OrNull(NameOf("queue")), missing=colander.drop)
    priority = colander.SchemaNode(OrNull(Whole()), missing=colander.drop, validator=between(-PRIORITY, PRIORITY))
    reuse = colander.SchemaNode(OrNull(Flag()), missing=colander.drop)
    depends_on = colander.SchemaNode(
        List(DEPENDENCIES), colander.SchemaNode(AnyId("job", "run"), name="dependency"), missing=()
    )


class Rerun(OfAllJobs):
    """A new run of the jobs of another, over its files unless there are others."""

    files = colander.SchemaNode(OrNullList(FILES), colander.SchemaNode(Id("file"), name="file"), missing=None)
    jobs = colander.SchemaNode(List(TASKS), RerunJob(name="job"), missing=())


class Axis(Schema):
    """Values of an option that all combinations of a grid have in turn; the option can be one of several tasks."""

    tasks = colander.SchemaNode(List(TASKS), colander.SchemaNode(Id("task"), name="task"), validator=colander.Length(1))
    option = colander.SchemaNode(Text(), validator=colander.Length(1, 255))
    values = colander.SchemaNode(
        List(COMBINATIONS),
        colander.SchemaNode(Json(lambda settings: settings.arguments_limit), name="value"),
        validator=colander.Length(1),
    )


class NewRun(OfAllJobs):
    """A new run, over files in this order; with `grid`, one run for each combination of values."""

    files = colander.SchemaNode(List(FILES), colander.SchemaNode(Id("file"), name="file"), missing=())
    tasks = colander.SchemaNode(List(TASKS), RunTask(name="task"), missing=())
    grid = colander.SchemaNode(List(AXES), Axis(name="axis"), missing=(), validator=colander.Length(1))
