"""Attempts: executions of a job, one at a time, each by one worker under a lease.

Every write of a runner is fenced by its attempt: a runner that has lost its lease cannot change anything.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.errors import AttemptOver
from mlapi.models import dispatch
from mlapi.models.backoff import WORKER_LOST, Retries, is_transient
from mlapi.models.base import JsonObject, Numbered, Time, clock
from mlapi.models.jobs import TERMINAL, Job, Status, lock_run, move, record_moves
from mlapi.models.metrics import record_final
from mlapi.models.modules import Function
from mlapi.models.outputs import Output, Upload, create_outputs, missing_output
from mlapi.models.progress import advance
from mlapi.models.workers import LIVES, Worker, count_fault, recover

LOST = "LOST"
"""Status of an attempt whose worker stopped sending heartbeats or ended without a report."""

RETURNED = "RETURNED"
"""Status of an attempt whose runner handed the job back."""

WORKER = "worker"
"""The fault of an attempt that ended by a fault of its machine, such as a full disk."""

SERVICE = "service"
"""The fault of an attempt whose runner could not deliver its results, because the service refused them for too long."""

WORKER_GRACE = 5.0
"""Seconds that a living scheduler has to kill its runner before others queue the job again."""


DEFAULT_RETRIES = Retries()
"""The retries of the default settings."""


class Fence(NamedTuple):
    """The identity of an attempt, by which every write of its runner is checked."""

    id: int
    job_id: int
    number: int


class Attempt(Numbered):
    """The `number`th execution of a job."""

    __tablename__ = "attempts"
    __table_args__ = (
        sa.UniqueConstraint("job_id", "number"),
        sa.Index(None, "worker", "status"),
        sa.Index(None, "log_sha256"),
        {"sqlite_autoincrement": True},
    )

    job_id: Mapped[int] = mapped_column(sa.ForeignKey("jobs.id"))
    number: Mapped[int]
    worker: Mapped[str]
    status: Mapped[str] = mapped_column(default=Status.RUNNING)
    reason: Mapped[str | None]
    fault: Mapped[str | None]
    fetched: Mapped[Time | None]
    exit_code: Mapped[int | None]
    peak_memory: Mapped[int | None]
    cpu_seconds: Mapped[float | None]
    wall_seconds: Mapped[float | None]
    log_size: Mapped[int] = mapped_column(default=0)
    log_sha256: Mapped[str | None]
    report_digest: Mapped[str | None]
    ended: Mapped[Time | None]

    @property
    def fence(self) -> Fence:
        """The fence of the writes of this attempt's runner."""
        return Fence(self.id, self.job_id, self.number)


class Claim(NamedTuple):
    """A job claimed by a worker, and the attempt that was created for it."""

    job_id: int
    attempt_id: int
    number: int
    timeout: float | None

    @property
    def fence(self) -> Fence:
        """The fence of the writes of the attempt's runner."""
        return Fence(self.attempt_id, self.job_id, self.number)


@dataclass(frozen=True)
class Report:
    """The result of an attempt."""

    status: Status
    reason: str | None = None
    metrics: JsonObject = field(default_factory=dict)
    outputs: Sequence[Output] = ()
    exit_code: int | None = None
    failure: str | None = None

    @property
    def digest(self) -> str:
        """The digest of the report."""
        outputs = [vars(output) for output in self.outputs]
        return digest_of(str(self.status), self.reason, self.metrics, outputs, self.exit_code, self.failure)


def claim(db: Session, worker: str, limit: int, lease: float, *, trial: bool = False) -> list[Claim]:
    """Claim up to `limit` of the next queued jobs for a worker, each under a lease of `lease` seconds.

    The trial of a failing worker prefers a job that is not at its last attempt a fault of this worker, to find out
    whether the machine or that job is the cause.
    """
    dispatch.lock_queues(db, worker)
    if trial and (claims := _claim(db, worker, limit, lease, lambda job: ~_failed_here(worker, job))):
        return claims
    return _claim(db, worker, limit, lease)


def _failed_here(worker: str, job: dispatch.Columns) -> sa.ColumnElement[bool]:
    """The condition that the last attempt of a job ended by a fault of this worker."""
    last = sa.and_(Attempt.job_id == job.id, Attempt.number == job.attempt)
    return sa.exists().where(last, Attempt.worker == worker, Attempt.fault == WORKER)


def _claim(
    db: Session,
    worker: str,
    limit: int,
    lease: float,
    condition: dispatch.Test | None = None,
) -> list[Claim]:
    claims: list[Claim] = []
    lost: set[int] = set()  # Jobs that other workers claim at the same time.
    while len(claims) < limit and (ids := dispatch.heads(db, worker, limit - len(claims), condition, lost)):
        taken = _take(db, worker, ids, lease)
        claims += taken
        if len(taken) == len(ids):
            break
        lost.update(ids)
    return sorted(claims)


def _take(db: Session, worker: str, ids: list[int], lease: float) -> list[Claim]:
    """Start an attempt of these jobs, except of those that are no longer queued or that others are changing."""
    free = sa.select(Job.id).where(Job.id.in_(ids), Job.status == Status.QUEUED).with_for_update(skip_locked=True)
    values = {"status": Status.RUNNING, "attempt": Job.attempt + 1, "reason": None}
    times = {"started": clock(), "lease_until": clock(lease)}
    # PostgreSQL runs the CTE once; a subquery it might run again.
    statement = sa.update(Job).where(Job.id.in_(sa.select(free.cte().c.id))).values(**values, **times)
    rows = db.execute(statement.returning(Job.id, Job.run_id, Job.attempt, Job.timeout)).all()
    if not rows:
        return []
    record_moves(db, Status.RUNNING, ((row.id, row.run_id, row.attempt, None) for row in rows))
    insert = sa.insert(Attempt).returning(Attempt.id, sort_by_parameter_order=True)
    made = db.scalars(insert, [{"job_id": row.id, "number": row.attempt, "worker": worker} for row in rows])
    return [Claim(row.id, attempt, row.attempt, row.timeout) for row, attempt in zip(rows, made, strict=True)]


def held(fence: Fence) -> sa.ColumnElement[bool]:
    """The condition that the attempt is the current one of its job and the job is running."""
    return sa.and_(Job.id == fence.job_id, Job.attempt == fence.number, Job.status == Status.RUNNING)


def beat(db: Session, fence: Fence, lease: float, *, first: bool = True) -> bool:
    """Renew the lease of an attempt; returns whether cancellation is requested. Raises `AttemptOver`.

    The first heartbeat shows that the runner has fetched the job; `first` is False for later ones.
    """
    statement = sa.update(Job).where(held(fence)).values(lease_until=clock(lease)).returning(Job.cancel_requested)
    cancel_requested = db.scalar(statement)
    if cancel_requested is None:
        raise AttemptOver()
    if first:
        unfetched = sa.and_(Attempt.id == fence.id, Attempt.fetched.is_(None))
        db.execute(sa.update(Attempt).where(unfetched).values(fetched=clock()))
    return cancel_requested


def hold(db: Session, fence: Fence) -> None:
    """Lock the job of an attempt for the rest of the transaction. Raises `AttemptOver`."""
    if db.scalar(sa.select(Job.id).where(held(fence)).with_for_update()) is None:
        raise AttemptOver()


def hand_in(db: Session, fence: Fence, sha256: str, size: int) -> None:
    """Record a blob that an attempt has uploaded. Raises `AttemptOver`."""
    hold(db, fence)
    if db.get(Upload, (fence.id, sha256)) is None:
        db.add(Upload(attempt_id=fence.id, sha256=sha256, size=size))
        db.flush()


def report(
    db: Session, fence: Fence, report: Report, tags_limit: float = math.inf, retries: Retries = DEFAULT_RETRIES
) -> Status:
    """End an attempt and its job, record outputs and metrics, and queue or cancel the dependent jobs.

    Returns the status of the job: FAILED instead of FINISHED if the manifest requires an output that is missing, and
    QUEUED after a transient failure. Everything happens in one transaction and only once: a second report raises
    `AttemptOver`. Raises `Invalid` for an output that was not uploaded, an unknown input, and tags over their limit in
    bytes.
    """
    job = db.get(Job, fence.job_id)
    if job is None:
        raise AttemptOver()
    lock_run(db, job.run_id)
    hold(db, fence)
    status, reason, metrics = report.status, report.reason, report.metrics
    if status == Status.FAILED and is_transient(job, report.exit_code, report.failure):
        db.refresh(job)
        end = End(status, reason or "No reason was given.", None, report.digest, report.exit_code)
        return _put_back(db, job, fence, retries, end, transient=True)
    if status == Status.FINISHED:
        missing = missing_output(db.get_one(Function, job.function_id), report.outputs)
        if missing is None:
            create_outputs(db, job, fence.id, report.outputs, tags_limit)
        else:
            status, reason = Status.FAILED, missing
    if status != Status.FINISHED:
        metrics = {}
    moved = move(db, status, held(fence), reason=reason, metrics=metrics, ended=clock(), lease_until=None)
    assert moved, "the run is locked, and the attempt held its job"  # noqa: S101 - states what `hold` ensured
    record_final(db, fence.id, metrics)
    worker = _end_attempt(db, fence, End(status, reason, None, report.digest, report.exit_code))
    if status != Status.CANCELLED:
        recover(db, worker)
    advance(db, [job.run_id])
    return status


def repeated(db: Session, fence: Fence, digest: str) -> Status:
    """The status of the job after an attempt that has ended by the report with this digest.

    A runner repeats a report whose response was lost. Raises `AttemptOver` if the attempt has ended otherwise.
    """
    query = sa.select(Attempt.status, Job.status.label("job"), Job.attempt).join(Job, Attempt.job_id == Job.id)
    row = db.execute(query.where(Attempt.id == fence.id, Attempt.report_digest == digest)).first()
    if row is None:
        raise AttemptOver()
    # A job that was handed back has been queued again, unless that ended it.
    over = row.attempt == fence.number and row.job in TERMINAL
    return Status(row.job) if over else Status.QUEUED


def digest_of(*content: object) -> str:
    """The SHA-256 of the content of a report as canonical JSON, by which its repetition is recognized."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class End(NamedTuple):
    """The end of an attempt: columns of its row."""

    status: str
    reason: str | None
    fault: str | None = None
    report_digest: str | None = None
    exit_code: int | None = None


def _end_attempt(db: Session, fence: Fence, end: End) -> str:
    """End an attempt; returns the name of its worker."""
    ended = sa.update(Attempt).where(Attempt.id == fence.id).values(**end._asdict(), ended=clock())
    worker = db.scalars(ended.returning(Attempt.worker)).one()
    db.execute(sa.delete(Upload).where(Upload.attempt_id == fence.id))
    return worker


def record_usage(db: Session, fence: Fence, usage: Mapping[str, float | None]) -> None:
    """Record what the function of an attempt that has just ended used: columns of the attempt."""
    if usage:
        db.execute(sa.update(Attempt).where(Attempt.id == fence.id).values(**usage))


def expired(db: Session | sa.Connection, worker: str | None = None) -> list[int]:
    """The ids of the attempts whose leases have expired.

    For the scheduler of `worker`, without those of other workers whose schedulers live and can still kill the runners.
    """
    late = sa.or_(Job.lease_until < clock(), Job.lease_until.is_(None))
    current = sa.and_(Attempt.job_id == Job.id, Attempt.number == Job.attempt)
    query = sa.select(Attempt.id).join(Job, current).where(Job.status == Status.RUNNING, late)
    if worker is not None:
        lives = sa.exists().where(Worker.name == Attempt.worker, LIVES)
        query = query.where(sa.or_(Attempt.worker == worker, Job.lease_until < clock(-WORKER_GRACE), ~lives))
    return list(db.scalars(query))


def lose(db: Session, fence: Fence, retries: Retries, reason: str, fault: str | None = None) -> bool:
    """End an attempt whose worker is lost: queue the job again, or fail it after too many failures.

    An attempt that never fetched its job, or that ended by a fault, is no failure of the job. If cancellation is
    requested, the job is cancelled. Returns False, without any effect, if the attempt has already ended.
    """
    job = db.get(Job, fence.job_id)
    if job is None:
        return False
    lock_run(db, job.run_id)
    job = db.get(Job, fence.job_id, populate_existing=True)
    if job is None or not (job.status == Status.RUNNING and job.attempt == fence.number):
        return False
    _put_back(db, job, fence, retries, End(LOST, reason, fault), transient=is_transient(job, failure=WORKER_LOST))
    return True


def hand_back(db: Session, fence: Fence, reason: str, fault: str | None, retries: Retries) -> Status:
    """End an attempt whose runner hands the job back, and queue the job again; returns the status of the job.

    `fault` is `WORKER` if the machine is the cause, and counts against the worker. Only a job that its worker hands
    back again and again while it completes others counts a failure, and fails after too many. `SERVICE` always
    counts a failure: the function ran, and would run for ever if the service never took its results. If cancellation is
    requested, the job is cancelled. Raises `AttemptOver`.
    """
    job = db.scalars(sa.select(Job).where(Job.id == fence.job_id)).one()
    lock_run(db, job.run_id)
    hold(db, fence)
    db.refresh(job)
    end = End(RETURNED, reason, fault, digest_of(RETURNED, reason, fault))
    return _put_back(db, job, fence, retries, end, transient=False)


_ENDS = {LOST: "Worker lost", RETURNED: "Handed back", Status.FAILED: "Failed"}


def _put_back(db: Session, job: Job, fence: Fence, retries: Retries, end: End, *, transient: bool) -> Status:
    """End an attempt that is no result, and queue, fail or cancel its job; the run must be locked.

    A job that declares the failure as transient waits before its next attempt.
    """
    costs, limit, reason = _costs(db, fence, end), retries.limit(job), end.reason or ""
    failures = job.failures + costs
    values: dict[str, object] = {"failures": failures, "lease_until": None}
    if job.cancel_requested:
        to, why = Status.CANCELLED, "Cancelled while it ran."
    elif costs and failures >= limit:
        last = f"{reason[:1].lower()}{reason[1:]}"
        to, why = Status.FAILED, f"{_ENDS[end.status]} in {failures} of {fence.number} attempts. Last: {last}"
    else:
        failure = f" (failure {failures} of {limit})" if costs else ""
        to, why = Status.QUEUED, f"{_ENDS[end.status]} in attempt {fence.number}{failure}; queued again. {reason}"
    if to == Status.QUEUED:
        values |= {"queued": clock(), "not_before": clock(retries.delay(failures)) if costs and transient else None}
    else:
        values["ended"] = clock()
    move(db, to, held(fence), reason=why, **values)
    worker = _end_attempt(db, fence, end)
    if end.fault == WORKER:
        count_fault(db, worker, reason)
    elif end.status == Status.FAILED:
        recover(db, worker)
    advance(db, [job.run_id])
    return to


def _costs(db: Session, fence: Fence, end: End) -> bool:
    """Whether the end of an attempt is a failure of its job."""
    if end.fault == WORKER:
        return _is_cause(db, fence)
    return end.fault == SERVICE or end.status == Status.FAILED or (end.status == LOST and _fetched(db, fence))


def _fetched(db: Session, fence: Fence) -> bool:
    """Whether the runner of an attempt has fetched the job."""
    return db.scalar(sa.select(Attempt.fetched).where(Attempt.id == fence.id)) is not None


def _is_cause(db: Session, fence: Fence) -> bool:
    """Whether a job is the likely cause of the faults of its worker.

    That is so if the worker has completed a later attempt since its first fault with this job. Without this, a job that
    always fills the disk would be handed back for ever.
    """
    worker = sa.select(Attempt.worker).where(Attempt.id == fence.id).scalar_subquery()
    faults = sa.select(sa.func.min(Attempt.id)).where(Attempt.job_id == fence.job_id, Attempt.fault == WORKER)
    first = db.scalar(faults.where(Attempt.worker == worker))
    if first is None:
        return False
    completed = sa.select(Attempt.id).where(Attempt.id > first, Attempt.worker == worker)
    return db.scalar(completed.where(Attempt.status.in_([Status.FINISHED, Status.FAILED])).limit(1)) is not None
