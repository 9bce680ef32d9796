"""Jobs: the executions of tasks, one job for each task of a run.

`MOVES` is the table of the states and the transitions between them; `move` is the only function that changes a
status, by compare-and-set in SQL.
"""

import enum
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.database import wake_schedulers
from mlapi.models.base import Base, JsonList, JsonObject, Numbered, Time, clock
from mlapi.models.events import record_each
from mlapi.models.files import File
from mlapi.models.modules import Function
from mlapi.models.patterns import Named, choose
from mlapi.models.queues import DEFAULT_ID

IDS = 10_000
"""Maximum number of ids in a statement; PostgreSQL takes 65,535 parameters, SQLite 32,766."""

NEEDS = ("cpus", "memory", "gpus")
"""The columns of the resources that a job needs; to need none is to need 0."""

_NEEDS: list[Any] = [sa.text(f"coalesce({need}, 0)") for need in NEEDS]
"""The needs in the index by which jobs are claimed."""


class Status(enum.StrEnum):
    """The status of a job."""

    PENDING = "PENDING"
    """Waiting for its parents, or for jobs of other runs."""
    QUEUED = "QUEUED"
    """Waiting for a worker."""
    RUNNING = "RUNNING"
    """Held by an attempt."""
    FINISHED = "FINISHED"
    """The function succeeded; outputs and metrics are recorded."""
    FAILED = "FAILED"
    """The function failed or does not accept its inputs, or the worker was lost in too many attempts."""
    CANCELLED = "CANCELLED"
    """Cancelled by a user, or because a job that must finish before did not."""


MOVES: dict[Status, frozenset[Status]] = {
    Status.PENDING: frozenset({Status.QUEUED, Status.FAILED, Status.CANCELLED}),
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELLED, Status.FINISHED}),
    Status.RUNNING: frozenset({Status.FINISHED, Status.FAILED, Status.CANCELLED, Status.QUEUED}),
    Status.FINISHED: frozenset(),
    Status.FAILED: frozenset({Status.PENDING}),
    Status.CANCELLED: frozenset({Status.PENDING}),
}
"""The allowed transitions.

RUNNING returns to QUEUED if the worker is lost or the failure is transient. A job moves from QUEUED to FINISHED only if
it reuses the results of another (`models.reuse`), and from an end to PENDING only by a retry (`models.retries`).
"""

TERMINAL = frozenset({Status.FINISHED, Status.FAILED, Status.CANCELLED})
"""The states of ended jobs."""


class Job(Numbered):
    """A task of a run, with its function, arguments and limits at the start of the run.

    `rank` is minus the priority: within a queue, jobs with lower ranks come first, then older ones. `patterns` select
    the inputs from the outputs of the parents. A job that was answered by another one has it as `reused_from_id`.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        sa.UniqueConstraint("run_id", "position"),
        sa.Index(None, "status", "id"),
        sa.Index(None, "owner_id", "id"),
        sa.Index(None, "owner_id", "status", "id"),
        sa.Index(None, "owner_id", "function_id", "status", "id"),
        sa.Index(None, "owner_id", "pipeline_id", "status", "id"),
        sa.Index(None, "pipeline_id", "status", "id"),
        sa.Index(None, "task_id"),
        sa.Index(None, "function_id", "status", "id"),
        sa.Index("ix_jobs_queue_id_status_needs", "queue_id", "status", *_NEEDS, "rank", "not_before", "id"),
        sa.Index(None, "reuse_key", "id"),
        sa.Index(None, "reused_from_id"),
        sa.CheckConstraint(f"status IN ({', '.join(repr(str(status)) for status in Status)})", name="status"),
        {"sqlite_autoincrement": True},
    )

    run_id: Mapped[int] = mapped_column(sa.ForeignKey("runs.id"))
    pipeline_id: Mapped[int]
    """The pipeline of the run: a copy, for indexes."""
    owner_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))
    task_id: Mapped[int | None] = mapped_column(sa.ForeignKey("tasks.id", ondelete="SET NULL"))
    function_id: Mapped[int] = mapped_column(sa.ForeignKey("functions.id"))
    position: Mapped[int]
    arguments: Mapped[JsonObject]
    queue_id: Mapped[int] = mapped_column(sa.ForeignKey("queues.id"), default=DEFAULT_ID)
    timeout: Mapped[float | None]
    attempts: Mapped[int | None]
    rank: Mapped[int] = mapped_column(default=0)
    cpus: Mapped[float | None]
    memory: Mapped[int | None]
    gpus: Mapped[int | None]
    patterns: Mapped[JsonObject | None]
    retry_on: Mapped[JsonList | None]
    reuse: Mapped[bool | None]
    reuse_key: Mapped[str | None]
    reused_from_id: Mapped[int | None] = mapped_column(sa.ForeignKey("jobs.id", ondelete="SET NULL"))
    not_before: Mapped[Time | None]
    status: Mapped[str]
    reason: Mapped[str | None]
    attempt: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    lease_until: Mapped[Time | None]
    metrics: Mapped[JsonObject] = mapped_column(default=dict)
    queued: Mapped[Time | None]
    started: Mapped[Time | None]
    ended: Mapped[Time | None]


class JobParent(Base):
    """A dependency: a job takes the outputs of its parent."""

    __tablename__ = "job_parents"
    __table_args__ = (sa.Index(None, "parent_id"),)

    job_id: Mapped[int] = mapped_column(sa.ForeignKey("jobs.id"), primary_key=True)
    parent_id: Mapped[int] = mapped_column(sa.ForeignKey("jobs.id"), primary_key=True)


class JobDependency(Base):
    """A dependency on a job of another run, which must have finished; its outputs are not taken."""

    __tablename__ = "job_dependencies"
    __table_args__ = (sa.Index(None, "dependency_id"),)

    job_id: Mapped[int] = mapped_column(sa.ForeignKey("jobs.id"), primary_key=True)
    dependency_id: Mapped[int] = mapped_column(sa.ForeignKey("jobs.id"), primary_key=True)


class JobInput(Base):
    """An input file of a job: its number (from 1) and its name in the job's folder."""

    __tablename__ = "job_inputs"
    __table_args__ = (sa.Index(None, "file_id"),)

    job_id: Mapped[int] = mapped_column(sa.ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    file_id: Mapped[int] = mapped_column(sa.ForeignKey("files.id"))
    name: Mapped[str]


class JobOutput(Base):
    """An output file of a job: its number (from 1), in the order of the report."""

    __tablename__ = "job_outputs"
    __table_args__ = (sa.Index(None, "file_id"),)

    job_id: Mapped[int] = mapped_column(sa.ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    file_id: Mapped[int] = mapped_column(sa.ForeignKey("files.id"))


def move(db: Session, to: Status, condition: sa.ColumnElement[bool], **values: object) -> list[int]:
    """Move the jobs that satisfy a condition to a status, where `MOVES` allows it; returns the ids of moved jobs."""
    allowed = [status for status, moves in MOVES.items() if to in moves]
    statement = sa.update(Job).where(condition, Job.status.in_(allowed)).values(status=to, **values)
    wake_schedulers(db)
    moved = db.execute(statement.returning(Job.id, Job.run_id, Job.attempt, Job.reason)).all()
    record_moves(db, to, ((row.id, row.run_id, row.attempt, row.reason) for row in moved))
    return [row.id for row in moved]


def record_moves(db: Session, to: Status, jobs: Iterable[tuple[int, int, int, str | None]]) -> None:
    """Record that jobs `(id, run, attempt, reason)` have moved to a status, in the order of their ids."""
    subjects = [
        (job_id, run_id, {"status": to, "attempt": attempt, "reason": reason})
        for job_id, run_id, attempt, reason in sorted(jobs, key=lambda job: job[0])
    ]
    record_each(db, "move", "job", subjects)


def add_inputs(db: Session, job_ids: Sequence[int], files: Sequence[tuple[int, str]]) -> None:
    """Add the same input files `(id, name)` to jobs; duplicate names get a number before their extension.

    The number of statements does not depend on the number of jobs and files.
    """
    if not job_ids or not files:
        return
    first, *others = job_ids
    names = distinct_names([name for _, name in files])
    rows = [
        {"job_id": first, "number": number, "file_id": file_id, "name": name}
        for number, ((file_id, _), name) in enumerate(zip(files, names, strict=True), 1)
    ]
    db.execute(sa.insert(JobInput), rows)
    for start in range(0, len(others), IDS):
        columns = ["job_id", "number", "file_id", "name"]
        copied = (
            sa.select(Job.id, JobInput.number, JobInput.file_id, JobInput.name)
            .join_from(JobInput, Job, Job.id.in_(others[start : start + IDS]))
            .where(JobInput.job_id == first)
        )
        db.execute(sa.insert(JobInput).from_select(columns, copied))


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names of files in one folder: duplicates get a number before their extension."""
    taken: dict[str, int] = {}  # Every name, and the last number that was tried for it.
    distinct = []
    for name in names:
        own = name
        if name in taken:
            stem, extension = os.path.splitext(name)
            while own in taken:
                taken[name] += 1
                own = f"{stem}_{taken[name]}{extension}"
        taken[own] = 1
        distinct.append(own)
    return distinct


def lock_run(db: Session, run_id: int) -> None:
    """Lock a run: if two of its jobs end at the same time, the second transaction sees the result of the first.

    The lock is compatible with `KEY SHARE`, by which other runs protect results that they reuse from deletion.
    """
    db.execute(_LOCK, {"run_id": run_id})


_LOCK: sa.Select[int] = (
    sa.select(sa.column("id", sa.BigInteger))
    .select_from(sa.table("runs"))  # models.runs imports this module.
    .where(sa.column("id") == sa.bindparam("run_id"))
    .with_for_update(key_share=True)
)


def advance(db: Session, run_id: int) -> list[int]:
    """Queue the pending jobs of a run whose parents have all finished; cancel those with a parent that cannot finish.

    Jobs of other runs, on which a first job depends, count as well. A job takes the outputs of its parents in the order
    of the parents, whichever of them finished first. It fails if its function does not accept them. The number of
    statements does not depend on the number of jobs, except that there is one for each reason, and for each choice of
    inputs. Returns the ids of the queued jobs. Call `models.progress.advance`, which also does what follows.
    """
    jobs = {job.id: job for job in db.execute(_JOBS, {"run_id": run_id})}
    status = {job.id: job.status for job in jobs.values()}
    parents: dict[int, list[int]] = {}
    for job_id, parent_id in db.execute(_PARENTS, {"run_id": run_id}):
        parents.setdefault(job_id, []).append(parent_id)
    pending = [job_id for job_id in jobs if status[job_id] == Status.PENDING]  # In order: parents come first.
    blocked = _blocked(db, [job_id for job_id in pending if job_id not in parents])
    ready = {job_id for job_id in pending if all(status[each] == Status.FINISHED for each in parents.get(job_id, []))}
    ready -= blocked.keys()
    outputs = _outputs(db, {parent for job_id in ready for parent in parents.get(job_id, [])})
    ended: dict[tuple[Status, str], list[int]] = {}
    chosen: dict[tuple[Named, ...], list[int]] = {}
    for job_id in pending:
        earlier = [jobs[parent] for parent in parents.get(job_id, [])]
        to, reason = Status.CANCELLED, blocked.get(job_id) or _unfit(earlier, status)
        if job_id in ready:
            sources = {parent.position: outputs.get(parent.id, []) for parent in earlier}
            files, problem = _chosen(jobs[job_id], sources)
            to, reason = Status.FAILED, problem and f"Not run: {problem}"
            if problem is None:
                chosen.setdefault(files, []).append(job_id)
        if reason is not None:
            status[job_id] = to
            ended.setdefault((to, reason), []).append(job_id)
    for (to, reason), job_ids in ended.items():
        move(db, to, Job.id.in_(job_ids), reason=reason, ended=clock())
    for taken, job_ids in chosen.items():
        add_inputs(db, job_ids, taken)
    queued = [job_id for job_ids in chosen.values() for job_id in job_ids]
    if queued:
        move(db, Status.QUEUED, Job.id.in_(queued), queued=clock())
    return queued


def _blocked(db: Session, job_ids: list[int]) -> dict[int, str | None]:
    """The jobs that wait for jobs of other runs, with the reason if one of these cannot finish."""
    blocked: dict[int, str | None] = {}
    for job_id, number, function, status in db.execute(_DEPENDENCIES, {"jobs": job_ids}) if job_ids else ():
        if status in TERMINAL and blocked.get(job_id) is None:
            blocked[job_id] = f"Not run: job {number} ({function}), on which it depends, is {status}."
        else:
            blocked.setdefault(job_id, None)
    return blocked


def _unfit(parents: Sequence[Any], status: Mapping[int, str]) -> str | None:
    """The reason why a job cannot run whose parents have this status, or None."""
    for parent in parents:
        if status[parent.id] in TERMINAL - {Status.FINISHED}:
            return f"Not run: parent job {parent.id} ({parent.Function.name}) is {status[parent.id]}."
    return None


def _chosen(job: Any, sources: dict[int, list[Named]]) -> tuple[tuple[Named, ...], str | None]:
    """The inputs of a job from the outputs of its parents, and why its function does not accept them.

    A job without parents has taken files of the run at its start.
    """
    files = choose(job.patterns, sources) if sources else []
    return tuple(files), job.Function.problem_with_files([file.name for file in files]) if sources else None


def _outputs(db: Session, job_ids: Collection[int]) -> dict[int, list[Named]]:
    """The output files of jobs, in order."""
    found: dict[int, list[Named]] = {}
    if job_ids:
        query = sa.select(JobOutput.job_id, File.id, File.name).join(File, JobOutput.file_id == File.id)
        query = query.where(JobOutput.job_id.in_(job_ids)).order_by(JobOutput.job_id, JobOutput.number)
        for job_id, file_id, name in db.execute(query):
            found.setdefault(job_id, []).append(Named(file_id, name))
    return found


_JOBS = (
    sa.select(Job.id, Job.position, Job.status, Job.patterns, Function)
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
_DEPENDENCIES = (
    sa.select(JobDependency.job_id, Job.id, Function.name, Job.status)
    .join(Job, JobDependency.dependency_id == Job.id)
    .join(Function, Job.function_id == Function.id)
    .where(JobDependency.job_id.in_(sa.bindparam("jobs", expanding=True)), Job.status != Status.FINISHED)
    .order_by(JobDependency.job_id, Job.id)
)
