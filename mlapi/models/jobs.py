"""Jobs: one task in one run, and the attempts at them.

The states and the moves between them stand in one table, `MOVES`; `move` is the only place that changes a
status, by compare-and-set in SQL. An attempt is one try at a job by one worker under a lease; what a runner
writes is fenced by it, so a runner that lost its lease changes nothing.
"""

import enum
import os
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.errors import Conflict
from mlapi.models.base import Base, Numbered, Time, clock
from mlapi.models.files import File
from mlapi.models.modules import Function


class Status(enum.StrEnum):
    """Where a job stands."""

    PENDING = "PENDING"
    """Waits for its parents."""
    QUEUED = "QUEUED"
    """Waits for a worker."""
    RUNNING = "RUNNING"
    """An attempt holds it."""
    FINISHED = "FINISHED"
    """Its function ended well; outputs and metrics are recorded."""
    FAILED = "FAILED"
    """Its function ended badly, or its workers were lost too often."""
    CANCELLED = "CANCELLED"
    """Somebody wished so, or a job before it did not finish."""


MOVES: dict[Status, frozenset[Status]] = {
    Status.PENDING: frozenset({Status.QUEUED, Status.CANCELLED}),
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELLED}),
    Status.RUNNING: frozenset({Status.FINISHED, Status.FAILED, Status.CANCELLED, Status.QUEUED}),
    Status.FINISHED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}
"""The moves that are allowed; RUNNING goes back to QUEUED when its worker is lost."""

OVER = frozenset(status for status, moves in MOVES.items() if not moves)
"""The states that a job never leaves."""


class Job(Numbered):
    """One task in one run: its function, arguments and time limit as they were when the run was made."""

    __tablename__ = "jobs"
    __table_args__ = (
        sa.UniqueConstraint("run_id", "position"),
        sa.Index(None, "status", "id"),
        sa.Index(None, "owner_id", "id"),
        sa.Index(None, "owner_id", "status", "id"),
        sa.Index(None, "task_id"),
        sa.Index(None, "function_id"),
        sa.CheckConstraint(f"status IN ({', '.join(repr(str(each)) for each in Status)})", name="status"),
        {"sqlite_autoincrement": True},
    )

    run_id: Mapped[int] = mapped_column(sa.ForeignKey("runs.id"))
    owner_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))
    task_id: Mapped[int | None] = mapped_column(sa.ForeignKey("tasks.id", ondelete="SET NULL"))
    function_id: Mapped[int] = mapped_column(sa.ForeignKey("functions.id"))
    position: Mapped[int]
    arguments: Mapped[dict[str, Any]]
    timeout: Mapped[float | None]
    status: Mapped[str]
    reason: Mapped[str | None]
    attempt: Mapped[int] = mapped_column(default=0)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    lease_until: Mapped[Time | None]
    metrics: Mapped[dict[str, Any]] = mapped_column(default=dict)
    queued: Mapped[Time | None]
    started: Mapped[Time | None]
    ended: Mapped[Time | None]


class JobParent(Base):
    """A job whose outputs another takes."""

    __tablename__ = "job_parents"
    __table_args__ = (sa.Index(None, "parent_id"),)

    job_id: Mapped[int] = mapped_column(sa.ForeignKey("jobs.id"), primary_key=True)
    parent_id: Mapped[int] = mapped_column(sa.ForeignKey("jobs.id"), primary_key=True)


class JobInput(Base):
    """A file that a job takes, by number (from 1) and under the name it has in the job's folder."""

    __tablename__ = "job_inputs"
    __table_args__ = (sa.Index(None, "file_id"),)

    job_id: Mapped[int] = mapped_column(sa.ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    file_id: Mapped[int] = mapped_column(sa.ForeignKey("files.id"))
    name: Mapped[str]


def move(db: Session, to: Status, condition: Any, **values: Any) -> list[int]:
    """Move the jobs of `condition` from wherever `MOVES` allows to `to`; returns the ids of those that moved."""
    allowed = [status for status, moves in MOVES.items() if to in moves]
    statement = sa.update(Job).where(condition, Job.status.in_(allowed)).values(status=to, **values)
    return list(db.scalars(statement.returning(Job.id)))


def take_inputs(db: Session, job_id: int, files: Sequence[tuple[int, str]]) -> None:
    """Give a job its input files `(id, name)`; names that come twice get a number before their ending."""
    taken: set[str] = set()
    for number, (file_id, name) in enumerate(files, 1):
        stem, ending = os.path.splitext(name)
        count = 1
        while name in taken:
            count += 1
            name = f"{stem}_{count}{ending}"
        taken.add(name)
        db.add(JobInput(job_id=job_id, number=number, file_id=file_id, name=name))


def lock_run(db: Session, run_id: int) -> None:
    """Let nobody else change the run's jobs: of two parents ending at once, the second sees the first."""
    db.execute(_LOCK, {"run_id": run_id})


_LOCK: Any = (
    sa.select(sa.column("id"))
    .select_from(sa.table("runs"))  # The class of runs is made of jobs, and comes after them.
    .where(sa.column("id") == sa.bindparam("run_id"))
    .with_for_update()
)


def follow(db: Session, run_id: int) -> None:
    """Queue the run's jobs whose parents have all finished, and cancel those of which one cannot.

    A job takes its parents' outputs in the order of the parents, whichever of them finished first.
    """
    jobs = {job.id: job for job in db.execute(_STANDING, {"run_id": run_id})}
    status = {job.id: job.status for job in jobs.values()}
    before: dict[int, list[int]] = {}
    for job_id, parent_id in db.execute(_PARENTS, {"run_id": run_id}):
        before.setdefault(job_id, []).append(parent_id)
    for job in jobs.values():  # In order of position, so that parents come first.
        earlier = [jobs[each] for each in before.get(job.id, [])]
        if status[job.id] != Status.PENDING:
            continue
        bad = next((each for each in earlier if status[each.id] in (Status.FAILED, Status.CANCELLED)), None)
        if bad is not None:
            reason = f"Not run, since job {bad.id} ({bad.function}) before it was {status[bad.id]}."
            move(db, Status.CANCELLED, Job.id == job.id, reason=reason, ended=clock())
            status[job.id] = Status.CANCELLED
        elif all(status[each.id] == Status.FINISHED for each in earlier):
            made = sa.select(File.id, File.name).join(Job, File.job_id == Job.id)
            made = made.where(Job.id.in_([each.id for each in earlier])).order_by(Job.position, File.id)
            take_inputs(db, job.id, [(each.id, each.name) for each in db.execute(made)])
            move(db, Status.QUEUED, Job.id == job.id, queued=clock())


_STANDING = (
    sa.select(Job.id, Job.status, Function.name.label("function"))
    .join(Function, Job.function_id == Function.id)
    .where(Job.run_id == sa.bindparam("run_id"))
    .order_by(Job.position)
)
_PARENTS = (
    sa.select(JobParent.job_id, JobParent.parent_id)
    .join(Job, JobParent.job_id == Job.id)
    .where(Job.run_id == sa.bindparam("run_id"))
    .order_by(JobParent.job_id, JobParent.parent_id)
)


def cancel(db: Session, job_id: int) -> None:
    """Cancel a job: at once where it waits; where it runs, as soon as its runner hears of it.

    Raises `Conflict` where it is over already.
    """
    job = db.get_one(Job, job_id)
    lock_run(db, job.run_id)
    if move(
        db,
        Status.CANCELLED,
        sa.and_(Job.id == job_id, Job.status != Status.RUNNING),
        reason="Cancelled before it ran.",
        ended=clock(),
    ):
        follow(db, job.run_id)
        return
    wished = sa.update(Job).where(Job.id == job_id, Job.status == Status.RUNNING).values(cancel_requested=True)
    changed: Any = db.execute(wished)
    if not changed.rowcount:
        db.refresh(job)
        raise Conflict(f"The job is over: it is {job.status}.")


def waiting(db: Session | sa.Connection) -> bool:
    """Whether a job waits for a worker."""
    return db.scalar(sa.select(Job.id).where(Job.status == Status.QUEUED).limit(1)) is not None
