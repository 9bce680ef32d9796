"""Runs: executions of a pipeline over files; a run and all its jobs are created in one transaction."""

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.database import wake_schedulers
from mlapi.errors import Conflict, FieldErrors
from mlapi.models.base import Base, JsonObject, Numbered, affected_rows, clock
from mlapi.models.files import File
from mlapi.models.jobs import TERMINAL, Job, JobParent, Status, add_inputs, move
from mlapi.models.pipelines import Pipeline, Task, parents


class Run(Numbered):
    """An execution of a pipeline, with the tasks that it had at the start.

    `changes` are the differences from the tasks of the pipeline, or of the run that it repeats.
    """

    __tablename__ = "runs"
    __table_args__ = (
        sa.Index(None, "pipeline_id", "id"),
        sa.Index(None, "owner_id", "id"),
        sa.Index(None, "owner_id", "pipeline_id", "id"),
        sa.Index(None, "grid_id", "id"),
        sa.UniqueConstraint("pipeline_id", "idempotency_key"),
        {"sqlite_autoincrement": True},
    )

    pipeline_id: Mapped[int] = mapped_column(sa.ForeignKey("pipelines.id"))
    owner_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))
    idempotency_key: Mapped[str | None]
    task_count: Mapped[int]
    grid_id: Mapped[int | None] = mapped_column(sa.ForeignKey("grids.id"))
    rerun_of_id: Mapped[int | None] = mapped_column(sa.ForeignKey("runs.id", ondelete="SET NULL"), index=True)
    changes: Mapped[JsonObject | None]


class RunFile(Base):
    """An input file of a run, in the order of the request."""

    __tablename__ = "run_files"
    __table_args__ = (sa.Index(None, "file_id"),)

    run_id: Mapped[int] = mapped_column(sa.ForeignKey("runs.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    file_id: Mapped[int] = mapped_column(sa.ForeignKey("files.id"))


def start(db: Session, pipeline_id: int, file_ids: list[int], key: str | None = None) -> tuple[Run, bool]:
    """Create a run and all its jobs; returns the run and whether it is new: the same `key` returns the same run.

    Raises `Conflict` if the pipeline is disabled or has no tasks, or if the key was used with other files;
    `Invalid` for a file that is not the owner's or that the function of a first task does not accept.
    """
    pipeline = Pipeline.locked(db, pipeline_id)
    if key is not None and (existing := _run_of_key(db, pipeline_id, key, file_ids)) is not None:
        return existing, False
    if not pipeline.enabled:
        raise Conflict("The pipeline is disabled.")
    tasks = pipeline.tasks(db)
    if not tasks:
        raise Conflict("The pipeline has no tasks.")
    dependencies = parents(tasks)
    first = [task for task, earlier in zip(tasks, dependencies, strict=True) if not earlier]
    files = _input_files(db, pipeline.owner_id, file_ids, first)
    run = Run(pipeline_id=pipeline.id, owner_id=pipeline.owner_id, idempotency_key=key, task_count=len(tasks))
    db.add(run)
    db.flush()
    if files:
        rows = [{"run_id": run.id, "position": index, "file_id": file_id} for index, (file_id, _) in enumerate(files)]
        db.execute(sa.insert(RunFile), rows)
    _create_jobs(db, run, tasks, dependencies, files)
    return run, True


def _run_of_key(db: Session, pipeline_id: int, key: str, file_ids: list[int]) -> Run | None:
    run = db.scalar(sa.select(Run).where(Run.pipeline_id == pipeline_id, Run.idempotency_key == key))
    if run is None:
        return None
    files = sa.select(RunFile.file_id).where(RunFile.run_id == run.id).order_by(RunFile.position)
    if list(db.scalars(files)) != file_ids:
        raise Conflict("This Idempotency-Key was used for a run over other files.")
    return run


def _input_files(db: Session, owner_id: int, file_ids: list[int], first_tasks: list[Task]) -> list[tuple[int, str]]:
    """The files `(id, name)` with these ids. Raises `Invalid` unless they exist and the first tasks accept them."""
    errors = FieldErrors()
    found = File.names(db, owner_id, file_ids)
    for index, file_id in enumerate(file_ids):
        if file_id not in found:
            errors.add(f"files.{index}", "File not found.")
    errors.raise_all()
    files = [(file_id, found[file_id]) for file_id in file_ids]
    for function in {task.function_id: task.function for task in first_tasks}.values():
        if problem := function.problem_with_files([name for _, name in files]):
            errors.add("files", problem)
    errors.raise_all()
    return files


def _create_jobs(
    db: Session, run: Run, tasks: list[Task], dependencies: list[list[int]], files: list[tuple[int, str]]
) -> None:
    jobs = [
        {
            "run_id": run.id,
            "pipeline_id": run.pipeline_id,
            "owner_id": run.owner_id,
            "task_id": task.id,
            "position": position,
            "function_id": task.function_id,
            "arguments": task.arguments,
            "timeout": task.timeout,
            "status": Status.PENDING if earlier else Status.QUEUED,
            "queued": None if earlier else run.created,
            "created": run.created,
        }
        for position, (task, earlier) in enumerate(zip(tasks, dependencies, strict=True), 1)
    ]
    db.execute(sa.insert(Job), jobs)
    wake_schedulers(db)
    ids = db.scalars(sa.select(Job.id).where(Job.run_id == run.id).order_by(Job.position)).all()
    pairs = [
        {"job_id": job_id, "parent_id": ids[index]}
        for job_id, earlier in zip(ids, dependencies, strict=True)
        for index in earlier
    ]
    if pairs:
        db.execute(sa.insert(JobParent), pairs)
    add_inputs(db, [job_id for job_id, earlier in zip(ids, dependencies, strict=True) if not earlier], files)


def cancel(db: Session, run_id: int) -> None:
    """Cancel the jobs of a run: waiting jobs immediately, running jobs at the next heartbeat of their runner.

    Raises `Conflict` if the run has ended.
    """
    Run.lock(db, run_id)
    waiting = sa.and_(Job.run_id == run_id, Job.status.in_([Status.PENDING, Status.QUEUED]))
    moved = move(db, Status.CANCELLED, waiting, reason="Cancelled before it ran.", ended=clock())
    running = sa.update(Job).where(Job.run_id == run_id, Job.status == Status.RUNNING)
    if not affected_rows(db, running.values(cancel_requested=True)) and not moved:
        raise Conflict("The run has ended.")


def statuses(db: Session | sa.Connection, run_ids: list[int]) -> dict[int, dict[str, int]]:
    """The number of jobs in each status, for each run."""
    query = (
        sa.select(Job.run_id, Job.status, sa.func.count())
        .where(Job.run_id.in_(run_ids))
        .group_by(Job.run_id, Job.status)
    )
    counts: dict[int, dict[str, int]] = {run_id: {} for run_id in run_ids}
    for run_id, status, count in db.execute(query):
        counts[run_id][status] = count
    return counts


def status_of(counts: dict[str, int]) -> str:
    """The status of a run with these numbers of jobs in each status.

    It is RUNNING from the start of its first job to the end of its last one; then FAILED if any job failed,
    otherwise CANCELLED if any was cancelled, otherwise FINISHED.
    """
    present = {status for status, count in counts.items() if count}
    if not present - TERMINAL:
        return next((status for status in (Status.FAILED, Status.CANCELLED) if status in present), Status.FINISHED)
    if present <= {Status.PENDING, Status.QUEUED}:
        return Status.QUEUED
    return Status.RUNNING
