"""Runs: a pipeline as it was at that moment, over files; made with all its jobs in one transaction."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.errors import Conflict, FieldError, Invalid
from mlapi.models.base import Base, Numbered, clock
from mlapi.models.files import File
from mlapi.models.jobs import OVER, Job, JobParent, Status, move, take_inputs
from mlapi.models.pipelines import Pipeline, Task, parents


class Run(Numbered):
    """One run of a pipeline."""

    __tablename__ = "runs"
    __table_args__ = (
        sa.Index(None, "pipeline_id", "id"),
        sa.Index(None, "owner_id", "id"),
        sa.UniqueConstraint("pipeline_id", "idempotency_key"),
        {"sqlite_autoincrement": True},
    )

    pipeline_id: Mapped[int] = mapped_column(sa.ForeignKey("pipelines.id"))
    owner_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))
    idempotency_key: Mapped[str | None]
    task_count: Mapped[int]


class RunFile(Base):
    """A file that a run is over, in the order given."""

    __tablename__ = "run_files"
    __table_args__ = (sa.Index(None, "file_id"),)

    run_id: Mapped[int] = mapped_column(sa.ForeignKey("runs.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    file_id: Mapped[int] = mapped_column(sa.ForeignKey("files.id"))


def start(db: Session, pipeline_id: int, file_ids: list[int], key: str | None = None) -> tuple[Run, bool]:
    """Make a run and all its jobs; returns it and whether it is new: the same `key` again is the same run.

    Raises `Conflict` where the pipeline is not enabled, has no tasks, or the key was used for other files;
    `Invalid` where a file is not the owner's or of a type that a first task does not take.
    """
    pipeline = Pipeline.locked(db, pipeline_id)
    if key is not None and (earlier := _made_before(db, pipeline_id, key, file_ids)) is not None:
        return earlier, False
    if not pipeline.enabled:
        raise Conflict("The pipeline is not enabled.")
    tasks = pipeline.tasks(db)
    if not tasks:
        raise Conflict("The pipeline has no tasks.")
    files = File.owned(db, pipeline.owner_id, file_ids)
    found = {file.id for file in files}
    errors = [
        FieldError(f"files.{index}", "There is no such file.")
        for index, each in enumerate(file_ids)
        if each not in found
    ]
    before = parents(tasks)
    for task, earlier_tasks in zip(tasks, before, strict=True):
        if not earlier_tasks and not errors and (misfit := task.function.misfits([file.name for file in files])):
            errors.append(FieldError("files", misfit))
    if errors:
        raise Invalid(errors)
    run = Run(pipeline_id=pipeline.id, owner_id=pipeline.owner_id, idempotency_key=key, task_count=len(tasks))
    db.add(run)
    db.flush()
    db.add_all(RunFile(run_id=run.id, position=index, file_id=file.id) for index, file in enumerate(files))
    _make_jobs(db, run, tasks, before, files)
    return run, True


def _made_before(db: Session, pipeline_id: int, key: str, file_ids: list[int]) -> Run | None:
    run = db.scalar(sa.select(Run).where(Run.pipeline_id == pipeline_id, Run.idempotency_key == key))
    if run is None:
        return None
    files = sa.select(RunFile.file_id).where(RunFile.run_id == run.id).order_by(RunFile.position)
    if list(db.scalars(files)) != file_ids:
        raise Conflict("This Idempotency-Key was used for a run over other files.")
    return run


def _make_jobs(db: Session, run: Run, tasks: list[Task], before: list[list[int]], files: list[File]) -> None:
    jobs = [
        Job(
            run_id=run.id,
            owner_id=run.owner_id,
            task_id=task.id,
            position=position,
            function_id=task.function_id,
            arguments=task.arguments,
            timeout=task.timeout,
            status=Status.PENDING if earlier else Status.QUEUED,
            queued=None if earlier else run.created,
            created=run.created,
        )
        for position, (task, earlier) in enumerate(zip(tasks, before, strict=True), 1)
    ]
    db.add_all(jobs)
    db.flush()
    for job, earlier in zip(jobs, before, strict=True):
        db.add_all(JobParent(job_id=job.id, parent_id=jobs[index].id) for index in earlier)
        if not earlier:
            take_inputs(db, job.id, [(file.id, file.name) for file in files])
    db.flush()


def cancel(db: Session, run_id: int) -> None:
    """Cancel what of a run is not over: what waits at once, what runs as soon as its runner hears of it.

    Raises `Conflict` where all of it is over already.
    """
    db.get_one(Run, run_id, with_for_update=True)
    waiting = sa.and_(Job.run_id == run_id, Job.status.in_([Status.PENDING, Status.QUEUED]))
    moved = move(db, Status.CANCELLED, waiting, reason="Cancelled before it ran.", ended=clock())
    running = sa.and_(Job.run_id == run_id, Job.status == Status.RUNNING)
    wished: Any = db.execute(sa.update(Job).where(running).values(cancel_requested=True))
    if not moved and not wished.rowcount:
        raise Conflict("The run is over.")


def statuses(db: Session, run_ids: list[int]) -> dict[int, dict[str, int]]:
    """How many jobs of each of the runs are in each status."""
    query = (
        sa.select(Job.run_id, Job.status, sa.func.count())
        .where(Job.run_id.in_(run_ids))
        .group_by(Job.run_id, Job.status)
    )
    counts: dict[int, dict[str, int]] = {run_id: {} for run_id in run_ids}
    for run_id, status, count in db.execute(query):
        counts[run_id][status] = count
    return counts


def derived(counts: dict[str, int]) -> str:
    """The status of a run whose jobs are in these statuses.

    It is RUNNING from its first job's start to its last one's end; then FAILED if any job failed, else CANCELLED
    if any was, else FINISHED.
    """
    present = {status for status, count in counts.items() if count}
    if not present - OVER:
        return next((each for each in (Status.FAILED, Status.CANCELLED) if each in present), Status.FINISHED)
    if present <= {Status.PENDING, Status.QUEUED}:
        return Status.QUEUED
    return Status.RUNNING
