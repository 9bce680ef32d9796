"""Deletion: what is deleted together with a file, task, run, pipeline or module, and what prevents it."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Session

from mlapi.errors import Conflict
from mlapi.models.attempts import Attempt, LogPiece
from mlapi.models.base import affected_rows, among
from mlapi.models.files import File
from mlapi.models.jobs import TERMINAL, Job, JobInput, JobParent
from mlapi.models.modules import Function, Module, ModuleVersion
from mlapi.models.outputs import Upload
from mlapi.models.pipelines import Pipeline, Task, locked_tasks, renumber
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

    Raises `Gone`, and `Conflict` while a job has not ended, or if another run uses one of the files.
    """
    Run.lock(db, run_id)
    return _delete_runs(db, [run_id])


class _Batch(NamedTuple):
    """Ids of runs, and of what is deleted with them.

    All statements of a deletion have such ids as parameters: the plan of a statement with subqueries depends on how
    many rows the planner expects, and its statistics are older than the runs that were started since.
    """

    runs: list[int]
    jobs: list[int]
    outputs: list[int]

    @classmethod
    def of(cls, db: Session, runs: list[int]) -> Self:
        """The runs with their jobs and the outputs of these."""
        jobs = [*db.scalars(sa.select(Job.id).where(among(Job.run_id, runs)))]
        return cls(runs, jobs, [*db.scalars(sa.select(File.id).where(among(File.job_id, jobs)))])

    def check_jobs(self, db: Session) -> None:
        """Raise `Conflict` if a job has not ended."""
        active = sa.select(Job.id).where(among(Job.id, self.jobs), Job.status.not_in(TERMINAL))
        if unfinished := db.scalars(active.order_by(Job.id).limit(MENTIONED)).all():
            raise Conflict("Jobs of the run have not ended; cancel the run first.", jobs=list(unfinished))

    def check_outputs(self, db: Session, others: sa.ColumnElement[bool]) -> None:
        """Raise `Conflict` if one of the runs that satisfy `others` uses an output."""
        users = sa.select(Run.id).join(RunFile, RunFile.run_id == Run.id).where(among(RunFile.file_id, self.outputs))
        if holders := db.scalars(users.where(others).distinct().order_by(Run.id).limit(MENTIONED)).all():
            raise Conflict("Other runs use files that this run created.", runs=list(holders))


def _delete_runs(db: Session, runs: list[int]) -> Counter[str]:
    """Delete runs, as `delete_run` does."""
    Run.lock_all(db, among(Run.id, runs))
    batch = _Batch.of(db, runs)
    batch.check_jobs(db)
    File.lock_all(db, sa.or_(among(File.id, batch.outputs), among(File.parent_id, batch.outputs)))
    batch.check_outputs(db, sa.not_(among(Run.id, runs)))
    db.execute(sa.update(File).where(among(File.parent_id, batch.outputs)).values(parent_id=None))
    attempts = [*db.scalars(sa.select(Attempt.id).where(among(Attempt.job_id, batch.jobs)))]
    steps: list[tuple[str | None, InstrumentedAttribute[Any], list[int]]] = [
        (None, LogPiece.attempt_id, attempts),
        (None, Upload.attempt_id, attempts),
        (None, Attempt.id, attempts),
        (None, JobInput.job_id, batch.jobs),
        (None, JobParent.job_id, batch.jobs),
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
    _check_runs(db, pipeline_id)
    pipeline.enabled = False
    db.flush()
    deleted: Counter[str] = Counter()
    while runs := _newest_runs(db, pipeline_id):
        deleted.update(_delete_runs(db, runs))
        if not db.scalar(sa.select(sa.exists().where(Run.pipeline_id == pipeline_id))):
            break
        commit()
        Pipeline.lock(db, pipeline_id)
    tasks = affected_rows(db, sa.delete(Task).where(Task.pipeline_id == pipeline_id))
    db.execute(sa.delete(Pipeline).where(Pipeline.id == pipeline_id))
    return {"pipelines": 1, "tasks": tasks, "runs": 0, "jobs": 0, "files": 0} | deleted


def _check_runs(db: Session, pipeline_id: int) -> None:
    """Raise `Conflict` unless all runs of a pipeline can be deleted."""
    runs = _newest_runs(db, pipeline_id)
    while runs:
        batch = _Batch.of(db, runs)
        batch.check_jobs(db)
        batch.check_outputs(db, Run.pipeline_id != pipeline_id)
        runs = _newest_runs(db, pipeline_id, Run.id < runs[-1])


def _newest_runs(db: Session, pipeline_id: int, condition: sa.ColumnElement[bool] | None = None) -> list[int]:
    """The ids of as many of the newest runs of a pipeline as one transaction deletes."""
    files = sa.select(sa.func.count()).where(RunFile.run_id == Run.id).scalar_subquery()
    newest = sa.select(Run.id, Run.task_count * (1 + files)).where(Run.pipeline_id == pipeline_id)
    if condition is not None:
        newest = newest.where(condition)
    runs: list[int] = []
    total = 0
    for run_id, rows in db.execute(newest.order_by(Run.id.desc()).limit(RUNS)):
        total += rows
        if runs and total > ROWS:
            break
        runs.append(run_id)
    return runs


def delete_task(db: Session, task_id: int) -> None:
    """Delete a task; the tasks after it move up. Raises `Conflict` while another task names it in `after`."""
    _, tasks = locked_tasks(db, task_id)
    if dependents := [task.id for task in tasks if task.after and task_id in task.after]:
        raise Conflict("Other tasks name this task in `after`; change them first.", tasks=dependents)
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
).limit(MENTIONED)
"""The runs of a file, the jobs that have it as an input, and the job that created it: columns of `Holder`."""


def delete_file(db: Session, file_id: int) -> None:
    """Delete a file. Raises `Gone`, and `Held` while a run or a job refers to it."""
    File.lock(db, file_id)
    if holders := db.execute(_HOLDERS, {"file": file_id}).all():
        raise Held("Runs or jobs refer to this file.", (Holder(*row) for row in holders))
    File.lock_all(db, File.parent_id == file_id)
    db.execute(sa.update(File).where(File.parent_id == file_id).values(parent_id=None))
    db.execute(sa.delete(File).where(File.id == file_id))


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
