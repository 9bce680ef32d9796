"""The progress of runs: what follows when jobs end or are cancelled, in the same transaction."""

import heapq
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from mlapi.errors import Conflict, Gone
from mlapi.models import dependencies, jobs, reuse
from mlapi.models.base import affected_rows, clock
from mlapi.models.events import record
from mlapi.models.jobs import Job, Status, lock_run, move


def advance(db: Session, run_id: int) -> None:
    """Queue, answer or cancel the jobs of a locked run that can be, and then those of the runs that depend on it."""
    _advance(db, run_id)
    follow(db, Job.run_id == run_id)


def _advance(db: Session, run_id: int) -> None:
    while reuse.answer(db, jobs.advance(db, run_id)):
        pass  # The jobs that were answered are parents of others.


def follow(db: Session, ended: sa.ColumnElement[bool]) -> None:
    """Advance the runs that wait for ended jobs that satisfy a condition.

    They are locked in ascending order of their ids: a run depends on older runs only.
    """
    todo = dependencies.waiting(db, ended)
    while todo:
        current = heapq.heappop(todo)
        lock_run(db, current)
        _advance(db, current)
        for dependent in dependencies.waiting(db, Job.run_id == current):
            if dependent not in todo:
                heapq.heappush(todo, dependent)


def begin(db: Session, first_ids: Sequence[int], dependency_ids: Sequence[int], *, wait: bool) -> None:
    """Begin new runs with these first jobs, which wait for the dependencies or are queued."""
    dependencies.add(db, first_ids, dependency_ids)
    answered = [] if wait else reuse.answer(db, first_ids)
    if answered:
        for run_id in db.scalars(sa.select(Job.run_id).distinct().where(Job.id.in_(answered))).all():
            advance(db, run_id)


def cancel(db: Session, job_id: int) -> None:
    """Cancel a job: immediately if it is waiting, at the next heartbeat of its runner if it is running.

    To cancel a running job again has no effect. Raises `Conflict` if it has ended.
    """
    run_id = db.scalar(sa.select(Job.run_id).where(Job.id == job_id))
    if run_id is None:
        raise Gone()
    lock_run(db, run_id)
    requested = sa.select(Job.id).where(Job.id == job_id, Job.status == Status.RUNNING, Job.cancel_requested)
    if db.scalar(requested) is not None:
        return
    record(db, "cancel", "job", job_id, run_id)
    waiting = sa.and_(Job.id == job_id, Job.status != Status.RUNNING)
    if move(db, Status.CANCELLED, waiting, reason="Cancelled before it ran.", ended=clock()):
        advance(db, run_id)
        return
    running = sa.update(Job).where(Job.id == job_id, Job.status == Status.RUNNING)
    if not affected_rows(db, running.values(cancel_requested=True)):
        status = db.scalar(sa.select(Job.status).where(Job.id == job_id))
        if status is None:
            raise Gone()
        raise Conflict(f"The job has ended: it is {status}.")
