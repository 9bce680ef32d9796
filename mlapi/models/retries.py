"""Retries by users: jobs that failed or were cancelled run again, and with them what was cancelled after them."""

import heapq

import sqlalchemy as sa
from sqlalchemy.orm import Session

from mlapi.errors import Conflict, Gone
from mlapi.models.base import among, protect
from mlapi.models.events import record
from mlapi.models.jobs import UNABLE, Job, JobDependency, JobInput, JobParent, Status, lock_run, move
from mlapi.models.modules import Function
from mlapi.models.progress import advance
from mlapi.models.queues import DEFAULT_ID, Queue
from mlapi.models.runs import Run, status_of, statuses


def retry_job(db: Session, job_id: int) -> None:
    """Retry a job that failed or was cancelled, and revive the jobs that were cancelled after it.

    Its earlier attempts stay as they ended; its failures are counted anew. Raises `Gone`, and `Conflict` for another
    job, or if it cannot run because of another job.
    """
    run_id = db.scalar(sa.select(Job.run_id).where(Job.id == job_id))
    if run_id is None:
        raise Gone()
    lock_run(db, run_id)
    status = db.scalar(sa.select(Job.status).where(Job.id == job_id))
    if status is None:
        raise Gone()
    if status not in UNABLE:
        raise Conflict(f"Only a job that is FAILED or CANCELLED can be retried: it is {status}.")
    record(db, "retry", "job", job_id, run_id)
    _retry(db, run_id, [job_id])


def retry_run(db: Session, run_id: int) -> None:
    """Retry all jobs of an ended run that failed or were cancelled; those that finished keep their results.

    Raises `Gone`, and `Conflict` if the run has not ended or is FINISHED, or if it depends on a job that failed.
    """
    if db.scalar(sa.select(Run.id).where(Run.id == run_id)) is None:
        raise Gone()
    lock_run(db, run_id)
    status = status_of(statuses(db, [run_id])[run_id])
    if status not in UNABLE:
        raise Conflict(f"Only a run that is FAILED or CANCELLED can be retried: it is {status}.")
    record(db, "retry", "run", run_id, run_id)
    _retry(db, run_id, list(db.scalars(sa.select(Job.id).where(Job.run_id == run_id, Job.status.in_(UNABLE)))))


def _retry(db: Session, run_id: int, job_ids: list[int]) -> None:
    """Retry jobs of a locked run. Revives jobs run by run, in ascending order; a run depends on older ones only."""
    _check(db, job_ids)
    todo: dict[int, set[int]] = {run_id: set(job_ids)}
    order, revived = [run_id], []
    moved: list[int] = []
    while order:
        current = heapq.heappop(order)
        if current != run_id:
            lock_run(db, current)
        revived.append(current)
        jobs = _revive(db, current, todo[current])
        moved += jobs
        for job, run in _dependents(db, jobs):
            if run not in todo:
                heapq.heappush(order, run)
            todo.setdefault(run, set()).add(job)
    _leave_deleted_queues(db, moved)
    advance(db, revived)


def _check(db: Session, job_ids: list[int]) -> None:
    """Raise `Conflict` if jobs cannot run because of others that are not retried with them."""
    links = sa.union_all(
        sa.select(JobParent.parent_id.label("id")).where(JobParent.job_id.in_(job_ids)),
        sa.select(JobDependency.dependency_id).where(JobDependency.job_id.in_(job_ids)),
    ).subquery()
    query = sa.select(Job.id, Function.name, Job.status).join(Function, Job.function_id == Function.id)
    query = query.where(Job.id.in_(sa.select(links.c.id)), Job.id.not_in(job_ids), Job.status.in_(UNABLE))
    if row := db.execute(query.order_by(Job.id).limit(1)).first():
        raise Conflict(f"Job {row.id} ({row.name}) must finish before, and is {row.status}; retry it.", job=row.id)


def _revive(db: Session, run_id: int, job_ids: set[int]) -> list[int]:
    """Make ended jobs of a run, and the cancelled ones that follow them, wait again; returns the ids of all these."""
    links = sa.select(JobParent.job_id, JobParent.parent_id).join(Job, JobParent.job_id == Job.id)
    links = links.where(Job.run_id == run_id, Job.status == Status.CANCELLED).order_by(
        Job.position, JobParent.parent_id
    )
    ids = set(job_ids)
    for job_id, parent_id in db.execute(links):  # Parents come first.
        if parent_id in ids:
            ids.add(job_id)
    moved = move(
        db,
        Status.PENDING,
        Job.id.in_(ids),
        reason=None,
        failures=0,
        cancel_requested=False,
        not_before=None,
        queued=None,
        started=None,
        ended=None,
    )
    has_parents = sa.exists().where(JobParent.job_id == JobInput.job_id)
    db.execute(sa.delete(JobInput).where(JobInput.job_id.in_(moved), has_parents))
    return moved


def _leave_deleted_queues(db: Session, job_ids: list[int]) -> None:
    """Move jobs of deleted queues to the default queue; protects the other queues of the jobs from deletion."""
    of_jobs = Queue.id.in_(sa.select(Job.queue_id).where(among(Job.id, job_ids)))
    found = db.execute(protect(sa.select(Queue.id, Queue.name).where(of_jobs).order_by(Queue.id), Queue))
    if deleted := [queue_id for queue_id, name in found if name is None]:
        lost = sa.and_(among(Job.id, job_ids), Job.queue_id.in_(deleted))
        db.execute(sa.update(Job).where(lost).values(queue_id=DEFAULT_ID))


def _dependents(db: Session, job_ids: list[int]) -> list[tuple[int, int]]:
    """The cancelled jobs of other runs that depend on these jobs, with their runs."""
    query = sa.select(Job.id, Job.run_id).distinct().join(JobDependency, JobDependency.job_id == Job.id)
    rows = db.execute(query.where(JobDependency.dependency_id.in_(job_ids), Job.status == Status.CANCELLED))
    return [(row.id, row.run_id) for row in rows]
