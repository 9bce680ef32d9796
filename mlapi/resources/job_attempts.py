"""The attempts of a job, as its owner sees them, and their logs."""

import datetime
from typing import NamedTuple, TypedDict

import sqlalchemy as sa

from mlapi.models import Attempt, Job, User
from mlapi.resources.fields import Field, Fields, Row
from mlapi.resources.items import Collection, OwnedItem
from mlapi.resources.job_metrics import JobAttemptMetrics
from mlapi.resources.tree import Linker, Part, Url

attempts, jobs, users = Attempt.__table__.c, Job.__table__.c, User.__table__.c


class Log(NamedTuple):
    """A log: its attempt, its size, and its blob if it has become one."""

    attempt: int
    size: int
    sha256: str | None


class Usage(TypedDict):
    """What an attempt used: the memory of its largest process in bytes, and seconds; null if it was not measured."""

    peak_memory: int | None
    cpu_seconds: float | None
    wall_seconds: float | None


class JobAttemptDocument(TypedDict):
    """An attempt: one execution of a job, by one worker. `usage` is of the function with all its processes."""

    url: Url
    job: Url
    number: int
    worker: str
    status: str
    reason: str | None
    started: datetime.datetime
    ended: datetime.datetime | None
    exit_code: int | None
    usage: Usage
    metrics: Url
    log: Url
    log_size: int


class JobAttemptLog(Part["JobAttemptItem"]):
    """The log of an attempt."""

    @property
    def log(self) -> Log:
        """The attempt, size and blob of the log."""
        row = self.item.row
        return Log(row.id, row.log_size, row.log_sha256)


class JobAttemptItem(OwnedItem[JobAttemptDocument, JobAttemptDocument]):
    """An attempt of a job, by its number."""

    kind = "job attempt"
    key = "number"
    children = {"log": JobAttemptLog, "metrics": JobAttemptMetrics}
    fields = Fields(
        Field(attempts.id, shown=False),
        Field(attempts.job_id, "job"),
        Field(attempts.number, sort=True),
        Field(attempts.worker),
        Field(attempts.status),
        Field(attempts.reason),
        Field(attempts.created, "started"),
        Field(attempts.ended),
        Field(attempts.exit_code),
        Field(attempts.peak_memory, shown=False),
        Field(attempts.cpu_seconds, shown=False),
        Field(attempts.wall_seconds, shown=False),
        Field(attempts.log_size),
        Field(attempts.log_sha256, shown=False),
        Field(jobs.run_id, "run", shown=False),
        Field(jobs.pipeline_id, "pipeline", shown=False),
        Field(users.name, "owner", shown=False),
    )
    source = sa.join(Attempt.__table__, Job.__table__, attempts.job_id == jobs.id).join(
        User.__table__, jobs.owner_id == users.id
    )
    by = attempts.number
    within = attempts.job_id == jobs.id
    owner = jobs.owner_id

    @classmethod
    def describe(cls, row: Row, link: Linker) -> JobAttemptDocument:
        """An attempt, with a link to its log."""
        job = link("job", user=row.owner, pipeline=row.pipeline, run=row.run, job=row.job)
        url = f"{job}/attempts/{row.number}"
        return {
            "url": url,
            "job": job,
            "number": row.number,
            "worker": row.worker,
            "status": row.status,
            "reason": row.reason,
            "started": row.started,
            "ended": row.ended,
            "exit_code": row.exit_code,
            "usage": {
                "peak_memory": row.peak_memory,
                "cpu_seconds": row.cpu_seconds,
                "wall_seconds": row.wall_seconds,
            },
            "metrics": f"{url}/metrics",
            "log": f"{url}/log",
            "log_size": row.log_size,
        }


class JobAttempts(Collection[JobAttemptItem]):
    """The attempts of a job, by number."""

    item = JobAttemptItem
    order = "number"
    newest_first = False
    few = True
    tied_by = attempts.job_id
