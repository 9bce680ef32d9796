"""The progress of runs: what follows when jobs end or are cancelled, in the same transaction."""

from collections.abc import Collection, Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from mlapi.errors import Conflict, Gone
from mlapi.models import dependencies, jobs, reuse
from mlapi.models.base import affected_rows, among, clock
from mlapi.models.events import record
from mlapi.models.jobs import Job, Status, lock_run, lock_runs, move
from mlapi.models.pipelines import TASKS

RUNS = 100
"""Number of runs that are advanced at once: a statement for all jobs of a large grid exceeds its time limit."""


def advance(db: Session, run_ids: Collection[int]) -> None:
    """Queue, answer or cancel the jobs of locked runs that can be, and then those of the runs that depend on them."""
    _advance(db, run_ids)
    follow(db, among(Job.run_id, run_ids))


def _advance(db: Session, run_ids: Collection[int]) -> list[int]:
    """Advance runs until no job is answered any more; returns the ids of the jobs that have ended."""
    ended = []
    for batch in _batches(sorted(run_ids), RUNS):
        advanced: Collection[int] = batch
        while advanced:
            queued, unable = jobs.advance(db, advanced)
            answered = reuse.answer(db, queued)
            ended += [*unable, *answered]
            advanced = set(answered.values())  # The jobs that were answered are parents of others.
    return ended


def _batches(ids: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (ids[first : first + size] for first in range(0, len(ids), size))


def follow(db: Session, ended: sa.ColumnElement[bool]) -> None:
    """Advance the runs that wait for ended jobs that satisfy a condition, and those that wait for these.

    All of them are locked before, in ascending order of their ids, so that two transactions do not deadlock. The number
    of statements depends only on how many runs depend on each other in sequence.
    """
    locked: set[int] = set()
    while waiting := dependencies.waiting(db, ended):
        if unlocked := waiting.keys() - locked:
            lock_runs(db, unlocked)
            locked |= unlocked  # More may have been committed before they were locked.
        elif found := _advance(db, [run_id for run_id, direct in waiting.items() if direct]):
            ended = among(Job.id, found)
        else:
            break


def begin(db: Session, first_ids: Sequence[int], dependency_ids: Sequence[int], *, wait: bool) -> None:
    """Begin new runs with these first jobs, which wait for the dependencies or are queued."""
    dependencies.add(db, first_ids, dependency_ids)
    if not wait:
        for batch in _batches(first_ids, RUNS * TASKS):
            _advance(db, set(reuse.answer(db, batch).values()))


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
        advance(db, [run_id])
        return
    running = sa.update(Job).where(Job.id == job_id, Job.status == Status.RUNNING)
    if not affected_rows(db, running.values(cancel_requested=True)):
        status = db.scalar(sa.select(Job.status).where(Job.id == job_id))
        if status is None:
            raise Gone()
        raise Conflict(f"The job has ended: it is {status}.")
