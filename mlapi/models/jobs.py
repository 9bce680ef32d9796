"""Jobs: the executions of tasks, one job for each task of a run.

`MOVES` is the table of the states and the transitions between them; `move` is the only function that changes a
status, by compare-and-set in SQL.
"""

import enum
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.database import wake_schedulers
from mlapi.models.base import Base, JsonList, JsonObject, Numbered, Time, among, clock, members, set_each
from mlapi.models.events import record_each
from mlapi.models.files import File
from mlapi.models.modules import Function
from mlapi.models.patterns import Named, choose
from mlapi.models.queues import DEFAULT_ID

NEEDS: Final = ("cpus", "memory", "gpus")
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

UNABLE = TERMINAL - {Status.FINISHED}
"""The states of jobs that have no results; what needs them cannot run until they are retried."""


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


def add_inputs(db: Session, chosen: Mapping[tuple[Named, ...], Sequence[int]]) -> None:
    """Add input files to jobs that take the same; duplicate names get a number before their extension.

    The number of statements does not depend on the number of jobs and files.
    """
    rows = [
        {"job_id": job_ids[0], "number": number, "file_id": file_id, "name": name}
        for files, job_ids in chosen.items()
        for number, (file_id, name) in enumerate(_in_folder(files), 1)
    ]
    if not rows:
        return
    db.execute(sa.insert(JobInput), rows)
    if equal := {other: job_ids[0] for files, job_ids in chosen.items() if files for other in job_ids[1:]}:
        pairs = members(equal).table_valued("key", "value", name="equal").c
        copied = sa.select(sa.cast(pairs.key, sa.BigInteger), JobInput.number, JobInput.file_id, JobInput.name)
        copied = copied.where(JobInput.job_id == sa.cast(pairs.value, sa.BigInteger))
        db.execute(sa.insert(JobInput).from_select(["job_id", "number", "file_id", "name"], copied))


def _in_folder(files: Sequence[Named]) -> list[tuple[int, str]]:
    """The ids of files in one folder, with distinct names."""
    return list(zip((file.id for file in files), distinct_names([file.name for file in files]), strict=True))


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
    lock_runs(db, [run_id])


def lock_runs(db: Session, run_ids: Collection[int]) -> None:
    """Lock runs as `lock_run` does, in ascending order of their ids."""
    db.execute(_LOCK.where(among(_RUN_ID, run_ids)))


_RUN_ID: sa.ColumnClause[int] = sa.column("id", sa.BigInteger)
_LOCK = (
    sa.select(_RUN_ID)
    .select_from(sa.table("runs"))  # models.runs imports this module.
    .order_by(_RUN_ID)
    .with_for_update(key_share=True)
)


class Advanced(NamedTuple):
    """The ids of the jobs that `advance` has queued, and of those that it has ended because they cannot run."""

    queued: list[int]
    ended: list[int]


def advance(db: Session, run_ids: Collection[int]) -> Advanced:
    """Queue the pending jobs of runs whose parents have all finished; cancel those with a parent that cannot finish.

    Jobs of other runs, on which a first job depends, count as well. A job takes the outputs of its parents in the order
    of the parents, whichever of them finished first. It fails if its function does not accept them. The number of
    statements does not depend on the number of runs and jobs. Call `models.progress.advance`, which also does what
    follows.
    """
    jobs = {job.id: job for job in db.execute(_JOBS.where(among(Job.run_id, run_ids)))}
    status = {job.id: job.status for job in jobs.values()}
    pending = [job_id for job_id in jobs if status[job_id] == Status.PENDING]  # In order: parents come first.
    parents: dict[int, list[int]] = {}
    for job_id, parent_id in db.execute(_PARENTS.where(among(Job.run_id, run_ids))) if pending else ():
        parents.setdefault(job_id, []).append(parent_id)
    others = _others(db, [job_id for job_id in pending if job_id not in parents])
    ready = {job_id for job_id in pending if {status[job] for job in parents.get(job_id, [])} <= {Status.FINISHED}}
    ready -= others.keys()
    outputs = _outputs(db, {parent for job_id in ready for parent in parents.get(job_id, [])})
    reasons: dict[int, str] = {}
    chosen: dict[tuple[Named, ...], list[int]] = {}
    for job_id in pending:
        earlier = [jobs[parent] for parent in parents.get(job_id, [])]
        if job_id in ready:
            sources = {parent.position: outputs.get(parent.id, []) for parent in earlier}
            files, problem = _chosen(jobs[job_id], sources)
            if problem is None:
                chosen.setdefault(files, []).append(job_id)
            else:
                status[job_id], reasons[job_id] = Status.FAILED, f"Not run: {problem}"
        elif reason := _unfit(others.get(job_id, []), earlier, status):
            status[job_id], reasons[job_id] = Status.CANCELLED, reason
    _end(db, status, reasons)
    return Advanced(_queue(db, chosen), list(reasons))


def _end(db: Session, status: Mapping[int, str], reasons: Mapping[int, str]) -> None:
    """End jobs that cannot run, with this status and these reasons."""
    if reasons:
        set_each(db, Job.reason, reasons)
    for to in (Status.FAILED, Status.CANCELLED):
        if job_ids := [job_id for job_id in reasons if status[job_id] == to]:
            move(db, to, among(Job.id, job_ids), ended=clock())


def _queue(db: Session, chosen: Mapping[tuple[Named, ...], list[int]]) -> list[int]:
    """Queue jobs with the inputs that they have chosen; returns their ids."""
    add_inputs(db, chosen)
    queued = [job_id for job_ids in chosen.values() for job_id in job_ids]
    if queued:
        move(db, Status.QUEUED, among(Job.id, queued), queued=clock())
    return queued


def _others(db: Session, job_ids: list[int]) -> dict[int, list[Any]]:
    """The jobs of other runs for which jobs wait."""
    others: dict[int, list[Any]] = {}
    for job in db.execute(_DEPENDENCIES.where(among(JobDependency.job_id, job_ids))) if job_ids else ():
        others.setdefault(job.job_id, []).append(job)
    return others


def _unfit(others: Sequence[Any], parents: Sequence[Any], status: Mapping[int, str]) -> str | None:
    """The reason why a job cannot run, which has these parents and waits for these jobs of other runs, or None."""
    for other in others:
        if (now := status.get(other.id, other.status)) in UNABLE:
            return f"Not run: job {other.id} ({other.name}), on which it depends, is {now}."
    for parent in parents:
        if status[parent.id] in UNABLE:
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
        query = query.where(among(JobOutput.job_id, job_ids)).order_by(JobOutput.job_id, JobOutput.number)
        for job_id, file_id, name in db.execute(query):
            found.setdefault(job_id, []).append(Named(file_id, name))
    return found


_JOBS = (
    sa.select(Job.id, Job.position, Job.status, Job.patterns, Function)
    .join(Function, Job.function_id == Function.id)
    .options(
        sa.orm.load_only(
            Function.name,
            Function.expected_filetype,
            Function.optional_filetypes,
            Function.min_files,
            Function.max_files,
            raiseload=True,
        )
    )
    .order_by(Job.run_id, Job.position)
)
_PARENTS = (
    sa.select(JobParent.job_id, JobParent.parent_id)
    .join(Job, JobParent.job_id == Job.id)
    .order_by(JobParent.job_id, JobParent.parent_id)
)
_DEPENDENCIES = (
    sa.select(JobDependency.job_id, Job.id, Function.name, Job.status)
    .join(Job, JobDependency.dependency_id == Job.id)
    .join(Function, Job.function_id == Function.id)
    .where(Job.status != Status.FINISHED)
    .order_by(JobDependency.job_id, Job.id)
)
