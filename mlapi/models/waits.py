"""Why jobs wait, in sentences: an SQL expression, evaluated in the SELECT of the jobs."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

from mlapi.models.base import clock
from mlapi.models.dispatch import RUNNING_JOBS, Condition, fits, jobs, queues, serves
from mlapi.models.jobs import Job, JobDependency, JobParent, Status
from mlapi.models.queues import Queue
from mlapi.models.workers import LIVES, NOBODY, Worker

Text = sa.ColumnElement[str]


class inline(GenericFunction[str]):  # noqa: N801 - it is written as an SQL function
    """A text whose constants are written into the SQL: they are many, and the same for every row and request."""

    type = sa.Text()
    inherit_cache = True


@compiles(inline)
def _inline(element: inline, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **{**options, "literal_binds": True})


def _text(value: sa.ColumnElement[int] | sa.ColumnElement[float]) -> Text:
    return sa.cast(value, sa.Text)


def _number(value: sa.ColumnElement[float]) -> Text:
    """A number as text, which both databases write without a fraction if it has none."""
    whole = sa.cast(value, sa.BigInteger)
    return sa.case((value == whole, _text(whole)), else_=_text(value))


def _lives(condition: Condition) -> Condition:
    """The condition that a scheduler lives whose worker serves the queue of the job, and satisfies a condition."""
    worker = sa.select(sa.literal(1)).select_from(Worker.__table__).where(LIVES, serves(), condition)
    return sa.exists(worker.correlate_except(Worker.__table__))


def _parent() -> Text:
    """The first job that has to finish before a pending one can be queued."""
    before = Job.__table__.alias("before")
    found = sa.union_all(
        *(
            sa.select(column.label("id")).where(table.job_id == jobs.id).correlate(Job.__table__)
            for table, column in ((JobParent, JobParent.parent_id), (JobDependency, JobDependency.dependency_id))
        )
    ).subquery()
    first = sa.select(sa.func.min(before.c.id)).select_from(sa.join(before, found, before.c.id == found.c.id))
    return _text(first.where(before.c.status != Status.FINISHED).scalar_subquery())


def _needs() -> Text:
    """The resources that a job needs, such as `cpus: 2, gpus: 1`."""
    named = (("cpus", _number(jobs.cpus)), ("memory", _text(jobs.memory)), ("gpus", _text(jobs.gpus)))
    texts = [sa.func.coalesce(sa.literal(f"{name}: ") + value + ", ", "") for name, value in named]
    return sa.func.rtrim(texts[0] + texts[1] + texts[2], ", ")


def _time(value: sa.ColumnElement[object]) -> Text:
    """A time as the API writes it, in seconds."""
    return sa.func.replace(sa.func.substr(sa.cast(value, sa.Text), 1, 19), " ", "T") + "Z"


_name = "queue " + queues.name
_full = sa.and_(queues.job_limit.is_not(None), queues.job_limit <= RUNNING_JOBS)
_nobody = (~sa.exists().where(LIVES), NOBODY)
_unserved = (
    (~_lives(sa.true()), "No worker serves " + _name + "."),
    (~_lives(fits(jobs)), "No worker has the resources (" + _needs() + ")."),
)
_obstacle = sa.case(
    _nobody,
    (queues.locked, "Queue " + queues.name + " is locked."),
    *_unserved,
    (_full, "The limit of " + _text(queues.job_limit) + " running jobs of " + _name + " is reached."),
    (jobs.not_before > clock(), "Waits until " + _time(jobs.not_before) + " before its next attempt."),
)
_wait = sa.case(
    (jobs.status == Status.QUEUED, _obstacle),
    (jobs.status == Status.PENDING, "Waits for job " + _parent() + "."),
)

REASON = inline(
    sa.case(
        (
            sa.or_(jobs.status == Status.QUEUED, jobs.status == Status.PENDING),
            sa.func.coalesce(sa.func.coalesce(jobs.reason + " ", "") + _wait, jobs.reason),
        ),
        else_=jobs.reason,
    )
)
"""The reason of a job, and why it waits; for a SELECT from jobs and their queues. An ended job costs nothing."""

MOST = 20
"""Maximum number of sentences on why the jobs of a run wait."""

_warning = sa.case((jobs.status == Status.QUEUED, _obstacle), else_=sa.case(_nobody, *_unserved))
_WARNINGS = (
    sa.select(_warning)
    .distinct()
    .join_from(Job.__table__, Queue.__table__, jobs.queue_id == queues.id)
    .where(_warning.is_not(None))
    .order_by(sa.text("1"))
    .limit(MOST)
)


def warnings(condition: Condition) -> sa.Select[tuple[str]]:
    """The SELECT of why jobs that satisfy a condition do not start, at most `MOST` sentences.

    For queued jobs, these are all reasons; for pending ones, those that will remain. Jobs of the same queue with the
    same needs have the same reasons, of which those of the first are found.
    """
    same = (jobs.status, jobs.queue_id, jobs.cpus, jobs.memory, jobs.gpus, jobs.not_before)
    waiting = sa.or_(jobs.status == Status.QUEUED, jobs.status == Status.PENDING)
    first = sa.select(sa.func.min(jobs.id)).where(condition, waiting).group_by(*same).correlate(None)
    return _WARNINGS.where(jobs.id.in_(first))
