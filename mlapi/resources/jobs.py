"""Jobs of a run, and jobs across owners."""

import datetime
from typing import TypedDict, cast

import sqlalchemy as sa

from mlapi.models import Attempt, Job, JobDependency, JobInput, JobOutput, JobParent, Queue, Run, User
from mlapi.models.base import JsonList, JsonObject
from mlapi.models.jobs import Status
from mlapi.models.waits import REASON
from mlapi.prepared import fetch
from mlapi.resources.events import OwnEvents
from mlapi.resources.fields import Field, Fields, Filter, Reference, Row
from mlapi.resources.items import AcrossOwners, Collection, OwnedItem
from mlapi.resources.job_attempts import JobAttempts, Log
from mlapi.resources.job_metrics import JobMetrics
from mlapi.resources.modules import ModuleFunction, functions, join_function, modules, versions
from mlapi.resources.tree import Linker, Part, Url

jobs, runs, users, queues = Job.__table__.c, Run.__table__.c, User.__table__.c, Queue.__table__.c
parents, inputs, outputs = JobParent.__table__.c, JobInput.__table__.c, JobOutput.__table__.c
dependencies = JobDependency.__table__.c

OWNER = Reference(jobs.owner_id, sa.select(users.id))
FUNCTION = Reference(jobs.function_id, sa.select(functions.id).select_from(ModuleFunction.source))


class JobSummary(TypedDict):
    """A job in a list."""

    id: int
    url: Url
    run: Url
    position: int
    queue: Url | None
    function: Url
    status: str
    reason: str | None
    attempt: int
    created: datetime.datetime
    queued: datetime.datetime | None
    started: datetime.datetime | None
    ended: datetime.datetime | None


class Resources(TypedDict):
    """What a job needs of its worker; `memory` is in bytes."""

    cpus: float | None
    memory: int | None
    gpus: int | None


class JobDocument(JobSummary):
    """A job. `patterns` select its inputs from the files of its parents, by their positions, or `*` for all."""

    task: Url | None
    after: list[Url]
    depends_on: list[Url]
    reused_from: Url | None
    arguments: JsonObject
    priority: int
    timeout: float | None
    attempt_limit: int | None
    resources: Resources
    patterns: JsonObject | None
    retry_on: JsonList | None
    failures: int
    cancel_requested: bool
    inputs: list[Url]
    outputs: list[Url]
    metrics: JsonObject
    log: Url
    events: Url
    attempts: Url


class JobLog(Part["JobItem"]):
    """The log of a job's current attempt."""

    @property
    def log(self) -> Log | None:
        """The log, or None before the first attempt."""
        job, number = self.item.row.id, self.item.row.attempt
        rows = fetch(self.request.reader, _LOG, {"job": job, "number": number})
        return Log(*rows[0]) if rows else None


class JobCancel(Part["JobItem"]):
    """The cancellation of a job."""


class JobRetry(Part["JobItem"]):
    """The retry of a job."""


class JobEvents(OwnEvents["JobItem"]):
    """The events of a job."""


attempts = Attempt.__table__.c
_LOG = sa.select(attempts.id, attempts.log_size, attempts.log_sha256).where(
    attempts.job_id == sa.bindparam("job"), attempts.number == sa.bindparam("number")
)
"""The log of an attempt of a job."""


Number = sa.ColumnElement[int]
NONE: Number = sa.cast(sa.null(), sa.BigInteger)
other = Job.__table__.alias("other").c


def _linked(
    relation: str, linked: Number, order: Number, job: Number, run: Number = NONE, pipeline: Number = NONE
) -> sa.Select[str, int, int, int, int]:
    name: sa.Label[str] = sa.literal_column(f"'{relation}'").label("relation")
    columns = linked.label("linked"), order.label("position"), run.label("run"), pipeline.label("pipeline")
    return sa.select(name, *columns).where(job == sa.bindparam("job"))


_links = sa.union_all(
    _linked("after", parents.parent_id, parents.parent_id, parents.job_id),
    _linked("inputs", inputs.file_id, inputs.number, inputs.job_id),
    _linked("outputs", outputs.file_id, outputs.number, outputs.job_id),
    _linked("depends_on", other.id, other.id, dependencies.job_id, other.run_id, other.pipeline_id).where(
        dependencies.dependency_id == other.id
    ),
    _linked("reused_from", other.id, other.id, jobs.id, other.run_id, other.pipeline_id).where(
        jobs.reused_from_id == other.id
    ),
).subquery()
_LINKED = sa.select(_links.c.relation, _links.c.linked, _links.c.run, _links.c.pipeline).order_by(_links.c.position)
"""The parents, inputs and outputs of a job, and the jobs of other runs to which it refers, in order."""


class JobItem(OwnedItem[JobSummary, JobDocument]):
    """A job: the execution of one task in one run."""

    key = "job"
    children = {
        "log": JobLog,
        "cancel": JobCancel,
        "retry": JobRetry,
        "events": JobEvents,
        "attempts": JobAttempts,
        "metrics": JobMetrics,
    }
    fields = Fields(
        Field(jobs.id, sort=True),
        Field(jobs.run_id, "run"),
        Field(jobs.position),
        Field(queues.name, "queue"),
        Field(jobs.status, filter=Filter.LISTS, choices=Status),
        Field(cast("sa.ColumnElement[object]", REASON), "reason"),
        Field(jobs.attempt),
        Field(jobs.created),
        Field(jobs.queued),
        Field(jobs.started),
        Field(jobs.ended),
        Field(jobs.pipeline_id, "pipeline", shown=False, filter=Filter.ACROSS_OWNERS),
        Field(users.name, "owner", shown=False, filter=Filter.ACROSS_OWNERS, by=OWNER),
        Field(functions.name, "function", filter=Filter.ACROSS_OWNERS, by=FUNCTION),
        Field(versions.digest, "version", shown=False),
        Field(modules.name, "module", shown=False, filter=Filter.ACROSS_OWNERS, by=FUNCTION),
        Field(jobs.task_id, "task", detail=True),
        Field(jobs.arguments, detail=True),
        Field(jobs.metrics, detail=True),
        Field(-jobs.rank, "priority", detail=True),
        Field(jobs.timeout, detail=True),
        Field(jobs.attempts, "attempt_limit", detail=True),
        Field(jobs.cpus, shown=False, detail=True),
        Field(jobs.memory, shown=False, detail=True),
        Field(jobs.gpus, shown=False, detail=True),
        Field(jobs.patterns, detail=True),
        Field(jobs.retry_on, detail=True),
        Field(jobs.failures, detail=True),
        Field(jobs.cancel_requested, detail=True),
    )
    source = join_function(
        sa.join(Job.__table__, User.__table__, jobs.owner_id == users.id).join(
            Queue.__table__, jobs.queue_id == queues.id
        ),
        jobs.function_id,
    )
    by = jobs.id
    within = jobs.run_id == runs.id
    owner = jobs.owner_id

    @classmethod
    def describe(cls, row: Row, link: Linker) -> JobSummary:
        """The summary of a job, without its arguments and files."""
        run = link("run", user=row.owner, pipeline=row.pipeline, run=row.run)
        return {
            "id": row.id,
            "url": f"{run}/jobs/{row.id}",
            "run": run,
            "position": row.position,
            "queue": row.queue and link("queue", queue=row.queue),
            "function": link("versioned function", module=row.module, version=row.version, function=row.function),
            "status": row.status,
            "reason": row.reason,
            "attempt": row.attempt,
            "created": row.created,
            "queued": row.queued,
            "started": row.started,
            "ended": row.ended,
        }

    def document(self) -> JobDocument:
        """The job, with links to its parents and its files."""
        row, link = self.row, self.link
        linked: dict[str, list[int]] = {"after": [], "inputs": [], "outputs": []}
        others: dict[str, list[Url]] = {"depends_on": [], "reused_from": []}
        for relation, key, run, pipeline in fetch(self.request.reader, _LINKED, {"job": row.id}):
            if relation in linked:
                linked[relation].append(key)
            else:
                others[relation].append(link("job", user=row.owner, pipeline=pipeline, run=run, job=key))
        summary = self.describe(row, link)
        task = row.task and link("task", user=row.owner, pipeline=row.pipeline, task=row.task)
        return {
            **summary,
            "task": task,
            "after": [f"{summary['run']}/jobs/{job}" for job in linked["after"]],
            "depends_on": others["depends_on"],
            "reused_from": next(iter(others["reused_from"]), None),
            "arguments": row.arguments,
            "priority": row.priority,
            "timeout": row.timeout,
            "attempt_limit": row.attempt_limit,
            "resources": {"cpus": row.cpus, "memory": row.memory, "gpus": row.gpus},
            "patterns": row.patterns,
            "retry_on": row.retry_on,
            "failures": row.failures,
            "cancel_requested": row.cancel_requested,
            "inputs": [link("file", user=row.owner, file=file) for file in linked["inputs"]],
            "outputs": [link("file", user=row.owner, file=file) for file in linked["outputs"]],
            "metrics": row.metrics,
            "log": f"{summary['url']}/log",
            "events": f"{summary['url']}/events",
            "attempts": f"{summary['url']}/attempts",
        }


class Jobs(Collection[JobItem]):
    """The jobs of a run, by position."""

    item = JobItem
    newest_first = False
    few = True
    tied_by = jobs.run_id


class AllJobs(AcrossOwners[JobItem]):
    """All jobs that are visible to the caller, newest first."""

    kind = "jobs"
    item = JobItem
