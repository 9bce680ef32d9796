"""Deletion: what is deleted together with a file, task, run, pipeline or module, and what prevents it."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

from mlapi.database import wake_schedulers
from mlapi.errors import Conflict, Gone, Invalid
from mlapi.models.attempts import Attempt
from mlapi.models.base import affected_rows, among
from mlapi.models.events import record, record_all
from mlapi.models.files import File
from mlapi.models.grids import Grid
from mlapi.models.jobs import TERMINAL, Job, JobDependency, JobInput, JobOutput, JobParent
from mlapi.models.logs import LogPiece
from mlapi.models.metrics import Metric
from mlapi.models.modules import Function, Module, ModuleVersion
from mlapi.models.outputs import Upload
from mlapi.models.pipelines import Pipeline, Task, locked_tasks, renumber
from mlapi.models.queues import DEFAULT_ID, Queue
from mlapi.models.runs import Run, RunFile

MENTIONED = 20
"""Maximum number of resources that an error lists as the reason why something cannot be deleted."""

RUNS, ROWS = 2000, 20_000
"""Maximum number of runs, and of their jobs and inputs, that one transaction deletes, unless a single run has more."""


class Holder(NamedTuple):
    """A run, or a job of it, that refers to a file."""

    pipeline_id: int
    run_id: int
    job_id: int | None


class Held(Conflict):
    """A file cannot be deleted because runs or jobs refer to it."""

    def __init__(self, message: str, holders: Iterable[Holder]) -> None:
        super().__init__(message)
        self.holders = list(holders)


def delete_run(db: Session, run_id: int) -> Counter[str]:
    """Delete a run with its jobs and the files that they created; returns the number of deleted rows of each kind.

    Raises `Gone`, and `Conflict` while a job has not ended, or if another run uses one of the files or reuses a job.
    """
    Run.lock(db, run_id)
    return _delete_runs(db, [run_id])


class _Batch(NamedTuple):
    """Ids of what is deleted with runs.

    All statements of a deletion have such ids as parameters: the plan of a statement with subqueries depends on how
    many rows the planner expects, and its statistics are older than the runs that were started since.
    """

    jobs: list[int]
    outputs: list[int]

    @classmethod
    def of(cls, db: Session, runs: list[int]) -> Self:
        """The jobs of runs, and their outputs."""
        jobs = [*db.scalars(sa.select(Job.id).where(among(Job.run_id, runs)))]
        return cls(jobs, [*db.scalars(sa.select(File.id).where(among(File.job_id, jobs)))])

    def check_jobs(self, db: Session) -> None:
        """Raise `Conflict` if a job has not ended."""
        active = sa.select(Job.id).where(among(Job.id, self.jobs), Job.status.not_in(TERMINAL))
        if unfinished := db.scalars(active.order_by(Job.id).limit(MENTIONED)).all():
            raise Conflict("Jobs of the run have not ended; cancel the run first.", jobs=list(unfinished))

    def check_users(self, db: Session, others: sa.ColumnElement[bool]) -> None:
        """Raise `Conflict` if one of the runs that satisfy `others` uses an output or reuses a job."""
        using = sa.union_all(
            sa.select(Job.id).where(among(Job.reused_from_id, self.jobs)),
            *(sa.select(table.job_id).where(among(table.file_id, self.outputs)) for table in (JobInput, JobOutput)),
        )
        runs = sa.union_all(
            sa.select(Job.run_id).where(among(Job.id, [*db.scalars(using)])),
            sa.select(RunFile.run_id).where(among(RunFile.file_id, self.outputs)),
        )
        found = sa.select(Run.id).where(among(Run.id, [*db.scalars(runs)]), others)
        if holders := db.scalars(found.order_by(Run.id).limit(MENTIONED)).all():
            raise Conflict("Other runs use files that this run created.", runs=list(holders))


def _delete_runs(db: Session, runs: list[int]) -> Counter[str]:
    """Delete runs, as `delete_run` does."""
    Run.lock_all(db, among(Run.id, runs))
    batch = _Batch.of(db, runs)
    batch.check_jobs(db)
    File.lock_all(db, sa.or_(among(File.id, batch.outputs), among(File.parent_id, batch.outputs)))
    batch.check_users(db, sa.not_(among(Run.id, runs)))
    db.execute(sa.update(File).where(among(File.parent_id, batch.outputs)).values(parent_id=None))
    attempts = [*db.scalars(sa.select(Attempt.id).where(among(Attempt.job_id, batch.jobs)))]
    steps: list[tuple[str | None, InstrumentedAttribute[Any], list[int]]] = [
        (None, LogPiece.attempt_id, attempts),
        (None, Metric.attempt_id, attempts),
        (None, Upload.attempt_id, attempts),
        (None, Attempt.id, attempts),
        (None, JobInput.job_id, batch.jobs),
        (None, JobOutput.job_id, batch.jobs),
        (None, JobParent.job_id, batch.jobs),
        (None, JobDependency.job_id, batch.jobs),
        (None, JobDependency.dependency_id, batch.jobs),
        (None, RunFile.run_id, runs),
        ("files", File.id, batch.outputs),
        ("jobs", Job.id, batch.jobs),
        ("runs", Run.id, runs),
    ]
    deleted: Counter[str] = Counter()
    for name, column, ids in steps:
        count = affected_rows(db, sa.delete(column.class_).where(among(column, ids)))
        if name:
            deleted[name] = count
    return deleted


def delete_pipeline(db: Session, pipeline_id: int, commit: Callable[[], None]) -> dict[str, int]:
    """Delete a pipeline with its tasks and runs, as `delete_run` does; `commit` ends a transaction and begins another.

    A pipeline with many runs is deleted in several transactions, newest runs first: they may use the outputs of older
    ones. It is disabled from the first one on. Whatever interrupts the deletion, a smaller pipeline is left.
    """
    pipeline = Pipeline.locked(db, pipeline_id)
    _check_runs(db, Run.pipeline_id == pipeline_id, Run.pipeline_id != pipeline_id)
    pipeline.enabled = False
    db.flush()
    deleted = _delete_in_batches(db, Run.pipeline_id == pipeline_id, lambda: Pipeline.lock(db, pipeline_id), commit)
    deleted["grids"] = affected_rows(db, sa.delete(Grid).where(Grid.pipeline_id == pipeline_id))
    tasks = affected_rows(db, sa.delete(Task).where(Task.pipeline_id == pipeline_id))
    db.execute(sa.delete(Pipeline).where(Pipeline.id == pipeline_id))
    return {"pipelines": 1, "tasks": tasks, "grids": 0, "runs": 0, "jobs": 0, "files": 0} | deleted


def delete_grid(db: Session, grid_id: int, commit: Callable[[], None]) -> dict[str, int]:
    """Delete a grid with its runs, as `delete_run` does; many in several transactions, newest runs first."""
    runs = Run.grid_id == grid_id
    _check_runs(db, runs, Run.grid_id.is_distinct_from(grid_id))
    deleted = _delete_in_batches(db, runs, lambda: None, commit)
    if not affected_rows(db, sa.delete(Grid).where(Grid.id == grid_id)):
        raise Gone()
    return {"grids": 1, "runs": 0, "jobs": 0, "files": 0} | deleted


def _delete_in_batches(
    db: Session, condition: sa.ColumnElement[bool], lock: Callable[[], None], commit: Callable[[], None]
) -> Counter[str]:
    """Delete the runs that satisfy a condition, newest first; `lock` is called in each transaction after the first."""
    deleted: Counter[str] = Counter()
    while runs := _newest_runs(db, condition):
        deleted.update(_delete_runs(db, runs))
        if not db.scalar(sa.select(sa.exists().where(condition))):
            break
        commit()
        lock()
    return deleted


def _check_runs(db: Session, condition: sa.ColumnElement[bool], others: sa.ColumnElement[bool]) -> None:
    """Raise `Conflict` unless all runs that satisfy a condition, and not `others`, can be deleted."""
    runs = _newest_runs(db, condition)
    while runs:
        batch = _Batch.of(db, runs)
        batch.check_jobs(db)
        batch.check_users(db, others)
        runs = _newest_runs(db, sa.and_(condition, Run.id < runs[-1]))


def _newest_runs(db: Session, condition: sa.ColumnElement[bool]) -> list[int]:
    """The ids of as many of the newest runs that satisfy a condition as one transaction deletes."""
    files = sa.select(sa.func.count()).where(RunFile.run_id == Run.id).scalar_subquery()
    newest = sa.select(Run.id, Run.task_count * (1 + files)).where(condition)
    runs: list[int] = []
    total = 0
    for run_id, rows in db.execute(newest.order_by(Run.id.desc()).limit(RUNS)):
        total += rows
        if runs and total > ROWS:
            break
        runs.append(run_id)
    return runs


def delete_task(db: Session, task_id: int) -> None:
    """Delete a task; the tasks after it move up. Raises `Conflict` while another task names it as a parent."""
    _, tasks = locked_tasks(db, task_id)
    if dependents := [
        task.id for task in tasks if task_id in (task.after or ()) or str(task_id) in (task.inputs or ())
    ]:
        raise Conflict("Other tasks name this task in `after` or `inputs`; change them first.", tasks=dependents)
    db.execute(sa.delete(Task).where(Task.id == task_id))
    renumber(db, [task.id for task in tasks if task.id != task_id], 1)


_of_job = sa.select(Run.pipeline_id, Run.id, Job.id).join(Job, Job.run_id == Run.id)
_FILE = sa.bindparam("file", type_=sa.BigInteger)
_HOLDERS = sa.union(
    sa.select(Run.pipeline_id, Run.id, sa.cast(sa.null(), Job.id.type))
    .join(RunFile, RunFile.run_id == Run.id)
    .where(RunFile.file_id == _FILE),
    _of_job.join(JobInput, JobInput.job_id == Job.id).where(JobInput.file_id == _FILE),
    _of_job.join(File, File.job_id == Job.id).where(File.id == _FILE),
    _of_job.join(JobOutput, JobOutput.job_id == Job.id).where(JobOutput.file_id == _FILE),
).limit(MENTIONED)
"""The runs of a file, the jobs that have it as an input or output, and the job that created it: columns of `Holder`."""


def delete_file(db: Session, file_id: int) -> None:
    """Delete a file. Raises `Gone`, and `Held` while a run or a job refers to it."""
    File.lock(db, file_id)
    if holders := db.execute(_HOLDERS, {"file": file_id}).all():
        raise Held("Runs or jobs refer to this file.", (Holder(*row) for row in holders))
    File.lock_all(db, File.parent_id == file_id)
    db.execute(sa.update(File).where(File.parent_id == file_id).values(parent_id=None))
    db.execute(sa.delete(File).where(File.id == file_id))


def delete_queue(db: Session, queue_id: int, target: str | None = None) -> tuple[int, int]:
    """Delete a queue; its tasks and its jobs that have not ended move to the queue `target`.

    Returns their numbers. Raises `Gone`; `Conflict` for the default queue, and without a target
    while tasks or such jobs refer to the queue; `Invalid` for a target that does not exist or is the queue itself. Jobs
    wait in a locked target. Ended jobs do not change.
    """
    if queue_id == DEFAULT_ID:
        raise Conflict("The default queue cannot be deleted.")
    found = Queue.id == queue_id if target is None else sa.or_(Queue.id == queue_id, Queue.name == target)
    Queue.lock_all(db, found)
    queue = db.get(Queue, queue_id, populate_existing=True)
    if queue is None or queue.name is None:
        raise Gone()
    if target is not None:
        tasks, jobs = _move_queue(db, queue, target)
    else:
        tasks = jobs = 0
        if db.scalar(
            sa.select(sa.or_(sa.exists().where(_unended(queue_id)), sa.exists().where(Task.queue_id == queue_id)))
        ):
            raise Conflict("Tasks, or jobs that have not ended, refer to the queue; name their next queue in move_to.")
    record(db, "delete", "queue", queue_id, name=queue.name, move_to=target)
    if db.scalar(sa.select(sa.exists().where(Job.queue_id == queue_id))):
        queue.name, queue.is_locked, queue.job_limit = None, False, None
        db.flush()
    else:
        db.delete(queue)
        db.flush()
    wake_schedulers(db)
    return tasks, jobs


def _unended(queue_id: int) -> sa.ColumnElement[bool]:
    """The condition for the jobs of a queue that have not ended."""
    return sa.and_(Job.queue_id == queue_id, Job.status.not_in(TERMINAL))


def _move_queue(db: Session, queue: Queue, target: str) -> tuple[int, int]:
    """Move the tasks of a queue, and its jobs that have not ended, to the queue `target`; returns their numbers."""
    if target == queue.name:
        raise Invalid.field("move_to", "Must be another queue than the one that is deleted.")
    to = db.scalar(sa.select(Queue.id).where(Queue.name == target))
    if to is None:
        raise Invalid.field("move_to", "Queue not found.")
    tasks = affected_rows(db, sa.update(Task).where(Task.queue_id == queue.id).values(queue_id=to))
    jobs = db.execute(sa.update(Job).where(_unended(queue.id)).values(queue_id=to).returning(Job.id, Job.run_id)).all()
    record_all(db, "change", "job", sorted((row.id, row.run_id) for row in jobs), queue=target)
    return tasks, len(jobs)


def delete_module(db: Session, module_id: int) -> int:
    """Delete a module with all its versions and functions; returns the number of versions.

    Raises `Gone`, and `Conflict` while tasks or jobs refer to its functions: their lineage must not be lost.
    """
    Module.lock(db, module_id)
    versions = sa.select(ModuleVersion.id).where(ModuleVersion.module_id == module_id)
    functions = sa.select(Function.id).where(Function.version_id.in_(versions))
    users = sa.union_all(*(sa.select(user.id).where(user.function_id.in_(functions)) for user in (Task, Job)))
    if db.execute(users.limit(1)).first() is not None:
        raise Conflict("Tasks or jobs refer to functions of this module.")
    db.execute(sa.delete(Function).where(Function.version_id.in_(versions)))
    count = affected_rows(db, sa.delete(ModuleVersion).where(ModuleVersion.module_id == module_id))
    db.execute(sa.delete(Module).where(Module.id == module_id))
    return count
