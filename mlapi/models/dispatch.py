"""Dispatch: which queued jobs a worker may take, in which order, and why a job waits."""

import heapq
from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

from mlapi.models.base import Json, clock
from mlapi.models.jobs import Job, Status
from mlapi.models.queues import DEFAULT, Queue
from mlapi.models.workers import Worker

ALL = "*"
"""The name that stands for all queues in the setting `queues`."""

WINDOW = 100
"""How many jobs at the head of a queue a claim considers, to find some that need no more than the worker has."""

Condition = sa.ColumnElement[bool]
Columns: TypeAlias = ReadOnlyColumnCollection[str, Any]
Test = Callable[[Columns], Condition]
jobs, queues, workers = Job.__table__.c, Queue.__table__.c, Worker.__table__.c


class ids_of(GenericFunction[Any]):  # noqa: N801 - it is written as the SQL function that it is
    """The JSON list of the values of a column, in the order of the rows; PostgreSQL returns null for no rows."""

    type = Json
    inherit_cache = True


class texts_of(GenericFunction[str]):  # noqa: N801 - it is written as the SQL function that it is
    """The texts in a JSON list, as a table with the column `value`."""

    type = sa.Text()
    inherit_cache = True


@compiles(ids_of, "sqlite")
def _sqlite_ids(element: ids_of, compiler: SQLCompiler, **options: object) -> str:
    return f"json_group_array({compiler.process(element.clauses, **options)})"


@compiles(ids_of, "postgresql")
def _postgresql_ids(element: ids_of, compiler: SQLCompiler, **options: object) -> str:
    return f"json_agg({compiler.process(element.clauses, **options)})"


@compiles(texts_of, "sqlite")
def _sqlite_texts(element: texts_of, compiler: SQLCompiler, **options: object) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(texts_of, "postgresql")
def _postgresql_texts(element: texts_of, compiler: SQLCompiler, **options: object) -> str:
    return f"json_array_elements_text({compiler.process(element.clauses, **options)})"


SERVED_NAME = sa.func.coalesce(queues.name, DEFAULT)
"""The name of a queue. A job that comes back to a deleted queue, such as by a retry, is served like the default one."""


def serves() -> Condition:
    """The condition that a worker serves a queue; a worker without a list serves all."""
    names = texts_of(workers.queues).table_valued("value", name="served")
    mine = names.c.value.in_([ALL, SERVED_NAME])
    named = sa.exists(
        sa.select(sa.literal(1)).select_from(names).where(mine).correlate(Worker.__table__, Queue.__table__)
    )
    return sa.or_(workers.queues.is_(None), named)


def fits(job: Columns) -> Condition:
    """The condition that a job with these columns needs no more than a worker has, as far as both are known."""
    pairs = ((job.cpus, workers.cpus), (job.memory, workers.memory), (job.gpus, workers.gpus))
    return sa.and_(*(sa.or_(need.is_(None), has.is_(None), need <= has) for need, has in pairs))


READY = sa.or_(jobs.not_before.is_(None), jobs.not_before <= clock())
"""The condition that a queued job does not wait for the time of its next attempt."""

RUNNING_JOBS = (
    sa.select(sa.func.count())
    .select_from(Job.__table__)
    .where(jobs.queue_id == queues.id, jobs.status == Status.RUNNING)
    .correlate(Queue.__table__)
    .scalar_subquery()
)
"""The number of running jobs of a queue."""

_SERVED = (
    sa.select(queues.id)
    .select_from(sa.outerjoin(Queue.__table__, Worker.__table__, workers.name == sa.bindparam("worker")))
    .where(~queues.locked, serves())
)
"""The unlocked queues that a worker serves; a worker without a row serves all."""

_LOCK = (
    _SERVED.where(queues.job_limit.is_not(None))
    .order_by(queues.id)
    .with_for_update(key_share=True, of=Queue.__table__)  # Jobs can still be added to the queue.
)


def lock_limits(db: Session, worker: str) -> None:
    """Lock the queues with limits that a worker serves, so that two claims do not count the same running jobs."""
    db.execute(_LOCK, {"worker": worker})


def heads(
    db: Session | sa.Connection,
    worker: str,
    limit: int,
    condition: Test | None = None,
    skipped: Collection[int] = (),
) -> list[int]:
    """The ids of the next `limit` queued jobs that a worker may take, without those that are `skipped`.

    The next job is the first of a queue: of that whose first job is the oldest. Within a queue, jobs come by rank, then
    by age. How many rows are read depends on the number of queues and on `limit`, not on the number of jobs.
    """
    room = sa.case((queues.job_limit.is_not(None), queues.job_limit - RUNNING_JOBS))
    query = _SERVED.with_only_columns(room.label("room"), _first(limit, condition, skipped).label("ids"))
    rows = db.execute(query, {"worker": worker})
    first = [row.ids if row.room is None else row.ids[: max(0, row.room)] for row in rows if row.ids]
    heap = [ids for ids in first if ids]
    heapq.heapify(heap)  # Lists are compared by their first ids.
    chosen: list[int] = []
    while heap and len(chosen) < limit:
        oldest, *others = heapq.heappop(heap)
        chosen.append(oldest)
        if others:
            heapq.heappush(heap, others)
    return chosen


def _first(limit: int, condition: Test | None, skipped: Collection[int]) -> sa.ScalarSelect[list[int]]:
    """The ids of the first jobs of a queue that a worker may take."""
    window = (
        sa.select(jobs.id, jobs.attempt, jobs.cpus, jobs.memory, jobs.gpus)
        .where(jobs.queue_id == queues.id, jobs.status == Status.QUEUED, READY)
        .order_by(jobs.rank, jobs.id)
        .limit(WINDOW)
    )
    if skipped:
        window = window.where(jobs.id.not_in(skipped))
    row = window.correlate(Queue.__table__).subquery()
    fitting = sa.select(row.c.id).where(fits(row.c)).correlate(Worker.__table__).limit(limit)
    if condition is not None:
        fitting = fitting.where(condition(row.c))
    return sa.select(ids_of(fitting.subquery().c.id)).scalar_subquery()


def waiting(db: Session | sa.Connection, worker: str) -> bool:
    """Whether a worker may take a job."""
    return bool(heads(db, worker, 1))
