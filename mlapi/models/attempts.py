"""Attempts: one try at a job each, by one worker, under a lease.

What a runner writes is fenced by its attempt: one that lost its lease changes nothing.
"""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.errors import AttemptOver, Conflict, FieldError, Invalid
from mlapi.models.base import Base, Numbered, Time, clock
from mlapi.models.files import File, Kind
from mlapi.models.jobs import Job, JobInput, Status, follow, lock_run, move
from mlapi.models.modules import Function

LOST = "LOST"


"""How an attempt ends whose worker was not heard of again."""


class Attempt(Numbered):
    """One try at a job, the `number`th, by one worker."""

    __tablename__ = "attempts"
    __table_args__ = (
        sa.UniqueConstraint("job_id", "number"),
        sa.Index(None, "worker", "status"),
        {"sqlite_autoincrement": True},
    )

    job_id: Mapped[int] = mapped_column(sa.ForeignKey("jobs.id"))
    number: Mapped[int]
    worker: Mapped[str]
    status: Mapped[str] = mapped_column(default=Status.RUNNING)
    reason: Mapped[str | None]
    log_size: Mapped[int] = mapped_column(default=0)
    ended: Mapped[Time | None]


class LogPiece(Base):
    """A piece of an attempt's log, at its offset in bytes."""

    __tablename__ = "log_pieces"

    attempt_id: Mapped[int] = mapped_column(sa.ForeignKey("attempts.id"), primary_key=True)
    start: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[bytes]


class Upload(Base):
    """A blob that an attempt has handed in; its report makes a file of it."""

    __tablename__ = "uploads"
    __table_args__ = (sa.Index(None, "sha256"),)

    attempt_id: Mapped[int] = mapped_column(sa.ForeignKey("attempts.id"), primary_key=True)
    sha256: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int]


class Claim(NamedTuple):
    """A job that a worker has claimed: the attempt at it."""

    job_id: int
    attempt_id: int
    number: int
    timeout: float | None


@dataclass(frozen=True)
class Output:
    """A file that a function made, as its runner reports it."""

    name: str
    sha256: str
    tags: dict[str, Any]
    origin: str
    input: int | None = None


@dataclass(frozen=True)
class Report:
    """How an attempt ended."""

    status: Status
    reason: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    outputs: Sequence[Output] = ()


def claim(db: Session, worker: str, most: int, lease: float) -> list[Claim]:
    """Claim up to `most` queued jobs for a worker, oldest first, each under a lease of `lease` seconds."""
    oldest = (
        sa.select(Job.id)
        .where(Job.status == Status.QUEUED)
        .order_by(Job.id)
        .limit(most)
        .with_for_update(skip_locked=True)
        .cte("oldest")  # PostgreSQL runs it once; a subquery it might run again, and lock more rows than `most`.
    )
    statement = (
        sa.update(Job)
        .where(Job.id.in_(sa.select(oldest.c.id)), Job.status == Status.QUEUED)
        .values(
            status=Status.RUNNING,
            attempt=Job.attempt + 1,
            reason=None,
            started=clock(),
            lease_until=clock(lease),
        )
        .returning(Job.id, Job.attempt, Job.timeout)
    )
    claims = []
    for job_id, number, timeout in db.execute(statement).all():
        attempt = Attempt(job_id=job_id, number=number, worker=worker)
        db.add(attempt)
        db.flush()
        claims.append(Claim(job_id, attempt.id, number, timeout))
    return sorted(claims)


def held(attempt: Any) -> Any:
    """The fence: the condition under which an attempt `(job_id, number)` still holds its job."""
    return sa.and_(Job.id == attempt.job_id, Job.attempt == attempt.number, Job.status == Status.RUNNING)


def beat(db: Session, attempt: Any, lease: float) -> bool:
    """Renew an attempt's lease; returns whether its job is wished to stop. Raises `AttemptOver`."""
    statement = sa.update(Job).where(held(attempt)).values(lease_until=clock(lease)).returning(Job.cancel_requested)
    wish = db.scalar(statement)
    if wish is None:
        raise AttemptOver("This attempt is over.")
    return wish


def hold(db: Session, attempt: Any) -> None:
    """Make sure that an attempt holds its job until this transaction ends. Raises `AttemptOver`."""
    if db.scalar(sa.select(Job.id).where(held(attempt)).with_for_update()) is None:
        raise AttemptOver("This attempt is over.")


def append_log(db: Session, attempt: Any, offset: int, content: bytes, limit: int) -> int:
    """Append to an attempt's log at its present end; returns the new end.

    Raises `Conflict`, which tells the present end as `offset`, where that is another one, and `AttemptOver`.
    """
    hold(db, attempt)
    grown = (
        sa.update(Attempt)
        .where(Attempt.id == attempt.id, Attempt.log_size == offset)
        .values(log_size=offset + len(content))
    )
    if offset + len(content) > limit:
        raise Conflict(f"A log has at most {limit} bytes.", limit=limit)
    changed: Any = db.execute(grown)
    if not changed.rowcount:
        size = db.scalars(sa.select(Attempt.log_size).where(Attempt.id == attempt.id)).one()
        raise Conflict("The log does not end at this offset.", offset=size)
    if content:
        db.add(LogPiece(attempt_id=attempt.id, start=offset, content=content))
        db.flush()
    return offset + len(content)


def read_log(db: Session, attempt_id: int, offset: int = 0) -> bytes:
    """The log of an attempt from `offset` bytes on."""
    pieces = sa.select(LogPiece.start, LogPiece.content).where(
        LogPiece.attempt_id == attempt_id, LogPiece.start + sa.func.length(LogPiece.content) > offset
    )
    return b"".join(
        bytes(content)[max(0, offset - start) :] for start, content in db.execute(pieces.order_by(LogPiece.start))
    )


def hand_in(db: Session, attempt: Any, sha256: str, size: int) -> None:
    """Note a blob that an attempt has uploaded. Raises `AttemptOver`."""
    hold(db, attempt)
    if db.get(Upload, (attempt.id, sha256)) is None:
        db.add(Upload(attempt_id=attempt.id, sha256=sha256, size=size))
        db.flush()


def report(db: Session, attempt: Any, told: Report) -> Status:
    """End an attempt and its job, recording outputs and metrics; then release or cancel what comes after.

    Returns how the job ended: it failed where it lacks an output which its manifest promises, whatever is told.
    All of it in one transaction, once: a second report finds the attempt over. Raises `AttemptOver`, and
    `Invalid` for an output that was not uploaded or an input that is none.
    """
    job = db.scalars(sa.select(Job).where(Job.id == attempt.job_id)).one()
    lock_run(db, job.run_id)
    hold(db, attempt)
    status, reason = told.status, told.reason
    if status == Status.FINISHED:
        broken = _broken_promise(db.get_one(Function, job.function_id), told.outputs)
        if broken is None:
            _record(db, job, attempt, told.outputs)
        else:
            status, reason = Status.FAILED, broken
    metrics = told.metrics if status == Status.FINISHED else {}
    moved = move(db, status, held(attempt), reason=reason, metrics=metrics, ended=clock(), lease_until=None)
    assert moved, "the run is locked, and the attempt held its job"  # noqa: S101 - states what `hold` ensured
    _end_attempt(db, attempt, status, reason)
    follow(db, job.run_id)
    return status


def _record(db: Session, job: Job, attempt: Any, outputs: Sequence[Output]) -> None:
    """Make files of a finished job's outputs; one handed on unchanged keeps the tags that it had."""
    uploads: dict[str, int] = dict(
        db.execute(sa.select(Upload.sha256, Upload.size).where(Upload.attempt_id == attempt.id)).all()
    )
    inputs: dict[int, int] = dict(
        db.execute(sa.select(JobInput.number, JobInput.file_id).where(JobInput.job_id == job.id)).all()
    )
    errors = []
    for index, output in enumerate(outputs):
        if output.sha256 not in uploads:
            errors.append(FieldError(f"outputs.{index}.sha256", "This attempt has uploaded no such blob."))
        if output.input is not None and output.input not in inputs:
            errors.append(FieldError(f"outputs.{index}.input", "The job has no such input."))
    if errors:
        raise Invalid(errors)
    given: dict[int, dict[str, Any]] = dict(
        db.execute(sa.select(File.id, File.tags).where(File.id.in_(inputs.values()))).all()
    )
    for output in outputs:
        parent = inputs[output.input] if output.input is not None else None
        kept = given[parent] if output.origin == "unchanged" and parent is not None else {}
        db.add(
            File(
                owner_id=job.owner_id,
                name=output.name,
                sha256=output.sha256,
                size=uploads[output.sha256],
                kind=Kind.OUTPUT,
                tags={**kept, **output.tags},
                parent_id=parent,
                job_id=job.id,
            )
        )
        db.flush()  # One by one: the files' ids keep the order of the report.


def _broken_promise(function: Function, outputs: Sequence[Output]) -> str | None:
    """What the function's manifest promises and its outputs lack, in words, or None."""
    names = [output.name for output in outputs]
    for pattern in function.output_files:
        if not fnmatch.filter(names, pattern):
            return f"The function left no output {pattern!r}, which its manifest promises."
    return None


def _end_attempt(db: Session, attempt: Any, status: str, reason: str | None) -> None:
    done = sa.update(Attempt).where(Attempt.id == attempt.id).values(status=status, reason=reason, ended=clock())
    db.execute(done)
    db.execute(sa.delete(Upload).where(Upload.attempt_id == attempt.id))


def expired(db: Session | sa.Connection) -> list[int]:
    """The ids of the attempts whose leases have run out."""
    late = sa.or_(Job.lease_until < clock(), Job.lease_until.is_(None))
    current = sa.and_(Attempt.job_id == Job.id, Attempt.number == Job.attempt)
    return list(db.scalars(sa.select(Attempt.id).join(Job, current).where(Job.status == Status.RUNNING, late)))


def running(db: Session | sa.Connection, worker: str) -> int:
    """How many attempts a worker has that are not over."""
    mine = sa.and_(Attempt.worker == worker, Attempt.status == Status.RUNNING)
    return db.scalar(sa.select(sa.func.count()).select_from(Attempt).where(mine)) or 0


def lose(db: Session, attempt: Any, most: int, why: str) -> bool:
    """End an attempt whose worker is lost: queue its job again, or fail it after `most` attempts.

    A job that was wished to stop is cancelled instead. Returns False, having done nothing, where the attempt is
    over already.
    """
    job = db.scalars(sa.select(Job).where(Job.id == attempt.job_id)).one()
    lock_run(db, job.run_id)
    db.refresh(job)
    if not (job.status == Status.RUNNING and job.attempt == attempt.number):
        return False
    ending: dict[str, Any] = {"lease_until": None}
    if job.cancel_requested:
        to, ending["reason"], ending["ended"] = Status.CANCELLED, "Cancelled while it ran.", clock()
    elif job.attempt >= most:
        to, ending["ended"] = Status.FAILED, clock()
        ending["reason"] = f"The worker was lost at each of {most} attempts."
    else:
        to, ending["reason"], ending["queued"] = Status.QUEUED, "The worker was lost; queued again.", clock()
    move(db, to, held(attempt), **ending)
    _end_attempt(db, attempt, LOST, why)
    follow(db, job.run_id)
    return True
