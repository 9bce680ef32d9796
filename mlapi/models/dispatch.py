"""Dispatch: which queued jobs a worker may take, in which order, and why a job waits."""

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.functions import GenericFunction

from mlapi.models.base import Json, clock, spelled
from mlapi.models.jobs import NEEDS, Job, Status
from mlapi.models.queues import Queue
from mlapi.models.workers import Worker

ALL = "*"
"""The name that stands for all queues in the setting `queues`."""

WINDOW = 100
"""How many jobs with the same needs and the same rank a claim with a condition considers."""

Condition = sa.ColumnElement[bool]
Columns: TypeAlias = ReadOnlyColumnCollection[str, Any]
Test = Callable[[Columns], Condition]
jobs, queues, workers = Job.__table__.c, Queue.__table__.c, Worker.__table__.c


class ids_of(GenericFunction[Any]):  # noqa: N801 - it is written as the SQL function that it is
    """The JSON list of the values of a column, in no certain order; PostgreSQL returns null for no rows."""

    type = Json
    inherit_cache = True


class texts_of(GenericFunction[str]):  # noqa: N801 - it is written as the SQL function that it is
    """The texts in a JSON list, as a table with the column `value`."""

    type = sa.Text()
    inherit_cache = True


spelled(ids_of, sqlite="json_group_array({})", postgresql="json_agg({})")
spelled(texts_of, sqlite="json_each({})", postgresql="json_array_elements_text({})")


def serves() -> Condition:
    """The condition that a worker serves a queue; a worker without a list serves all."""
    names = texts_of(workers.queues).table_valued("value", name="served")
    mine = names.c.value.in_([ALL, queues.name])
    named = sa.exists(
        sa.select(sa.literal(1)).select_from(names).where(mine).correlate(Worker.__table__, Queue.__table__)
    )
    return sa.or_(workers.queues.is_(None), named)


def fits(job: Columns) -> Condition:
    """The condition that a job with these columns needs no more than a worker has, as far as both are known."""
    pairs = ((job[name], workers[name]) for name in NEEDS)
    return sa.and_(*(sa.or_(need.is_(None), has.is_(None), need <= has) for need, has in pairs))


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

_ORDERED = _SERVED.order_by(queues.id)
_LOCKS = (
    _ORDERED.with_for_update(read=True, key_share=True, of=Queue.__table__),
    # Jobs can still be added to the queue.
    _ORDERED.where(queues.job_limit.is_not(None)).with_for_update(key_share=True, of=Queue.__table__),
)


def lock_queues(db: Session, worker: str) -> None:
    """Protect the queues that a worker serves: none is locked or deleted before the claim is committed.

    Those with limits are locked against other claims, so that two claims do not count the same running jobs.
    """
    for lock in _LOCKS:
        db.execute(lock, {"worker": worker})


def heads(
    db: Session | sa.Connection,
    worker: str,
    limit: int,
    condition: Test | None = None,
    skipped: Collection[int] = (),
) -> list[int]:
    """The ids of the next `limit` queued jobs that a worker may take, without those that are `skipped`.

    The next job is the first of a queue: of that whose first job is the oldest. Within a queue, jobs come by rank, then
    by age. How many rows are read depends on `limit` and on the numbers of queues and of different needs and ranks of
    their jobs, not on the number of jobs.
    """
    ready: dict[int, list[tuple[int, int]]] = {}
    room: dict[int, int | None] = {}
    for row in db.execute(_ready(limit, condition, skipped), {"worker": worker}):
        room[row.id] = row.room
        ready.setdefault(row.id, []).extend((row.rank, job) for job in (*(row.fresh or ()), *(row.due or ())))
    first = [[job for _, job in sorted(found)] for found in ready.values()]
    first = [ids if most is None else ids[: max(0, most)] for ids, most in zip(first, room.values(), strict=True)]
    heap = [ids for ids in first if ids]
    heapq.heapify(heap)  # Lists are compared by their first ids.
    chosen: list[int] = []
    while heap and len(chosen) < limit:
        oldest, *others = heapq.heappop(heap)
        chosen.append(oldest)
        if others:
            heapq.heappush(heap, others)
    return chosen


def _key(row: Columns) -> Mapping[str, sa.ColumnElement[Any]]:
    """The needs and the rank of a job by name, as the index of jobs has them."""
    return {need: sa.func.coalesce(row[need], sa.literal_column("0")) for need in NEEDS} | {"rank": row.rank}


def _groups() -> sa.CTE:
    """The groups of the queued jobs of the queues that a worker serves: those with the same needs and the same rank.

    Every value of a part of the key is found by a search of the index for the next one after the value before. After
    the last one comes null.
    """
    room = sa.case((queues.job_limit.is_not(None), queues.job_limit - RUNNING_JOBS))
    groups = _SERVED.add_columns(room.label("room")).cte("unlocked")
    same: list[str] = []
    for name, part in _key(_queued).items():
        found = sa.select(*groups.c, _least(part, groups, same).label(name)).cte(f"by_{name}", recursive=True)
        shared, last = [found.c[column.name] for column in groups.c], found.c[name]
        following = sa.select(*shared, _least(part, found, same, part > last)).where(last.is_not(None))
        groups = found.union_all(following)
        same.append(name)
    return groups


_queued = Job.__table__.alias("queued").c


def _least(part: sa.ColumnElement[Any], groups: sa.CTE, same: Iterable[str], *above: Condition) -> sa.ScalarSelect[Any]:
    """The least value of a part of the key among the queued jobs of groups, which have the `same` other parts."""
    key = _key(_queued)
    of_group = (_queued.queue_id == groups.c.id, *(key[name] == groups.c[name] for name in same))
    query = sa.select(part).where(*of_group, _queued.status == Status.QUEUED, *above)
    return query.order_by(part).limit(1).correlate(groups).scalar_subquery()


_GROUPS = _groups()


def _ready(limit: int, condition: Test | None, skipped: Collection[int]) -> sa.Select[*tuple[Any, ...]]:
    """The first ready jobs of each group whose needs a worker has, with their rank and the free places of the queue.

    `fresh` are those that never wait for a time; `due` are those whose time has come, which come by that time.
    """
    now = sa.select(clock()).scalar_subquery()  # As a value, which the index can be searched for.
    query = sa.select(_GROUPS.c.id, _GROUPS.c.room, _GROUPS.c.rank)
    for name, ready in (("fresh", jobs.not_before.is_(None)), ("due", jobs.not_before <= now)):
        group = (part == _GROUPS.c[key] for key, part in _key(jobs).items())
        found = sa.select(jobs.id, jobs.attempt, jobs.not_before)
        found = found.where(jobs.queue_id == _GROUPS.c.id, jobs.status == Status.QUEUED, *group, ready)
        found = found.order_by(jobs.not_before, jobs.id).correlate(_GROUPS)
        if skipped:
            found = found.where(jobs.id.not_in(skipped))
        if condition is not None:
            row = found.limit(WINDOW).subquery().c
            found = sa.select(row.id).where(condition(row)).order_by(row.not_before, row.id)
        taken = found.limit(limit).subquery().c
        query = query.add_columns(sa.select(ids_of(taken.id)).scalar_subquery().label(name))
    return query.outerjoin(Worker.__table__, workers.name == sa.bindparam("worker")).where(
        _GROUPS.c.rank.is_not(None), fits(_GROUPS.c)
    )


def waiting(db: Session | sa.Connection, worker: str) -> bool:
    """Whether a worker may take a job."""
    return bool(heads(db, worker, 1))
