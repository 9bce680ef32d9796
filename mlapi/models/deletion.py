"""Deletion: what is deleted together with a file, task, run, pipeline or module, and what prevents it."""

from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from mlapi.errors import Conflict
from mlapi.models.attempts import Attempt, LogPiece, Upload
from mlapi.models.base import Base, affected_rows
from mlapi.models.files import File
from mlapi.models.jobs import TERMINAL, Job, JobInput, JobParent
from mlapi.models.modules import Function, Module, ModuleVersion
from mlapi.models.pipelines import Pipeline, Task, renumber
from mlapi.models.runs import Run, RunFile

MENTIONED = 20
"""Maximum number of resources that an error lists as the reason why something cannot be deleted."""


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


def delete_runs(db: Session, run_ids: list[int]) -> dict[str, int]:
    """Delete runs with their jobs and the files that the jobs created; returns the number of deleted rows of each kind.

    Raises `Conflict` while a job has not ended, or if another run uses one of the files.
    """
    jobs = sa.select(Job.id).where(Job.run_id.in_(run_ids))
    outputs = sa.select(File.id).where(File.job_id.in_(jobs))
    active = sa.select(Job.id).where(Job.run_id.in_(run_ids), Job.status.not_in(TERMINAL))
    if unfinished := db.scalars(active.order_by(Job.id).limit(MENTIONED)).all():
        raise Conflict("Jobs of the run have not ended; cancel the run first.", jobs=list(unfinished))
    users = sa.select(RunFile.run_id).where(RunFile.file_id.in_(outputs), RunFile.run_id.not_in(run_ids))
    if holders := db.scalars(users.distinct().order_by(RunFile.run_id).limit(MENTIONED)).all():
        raise Conflict("Other runs use files that this run created.", runs=list(holders))
    attempts = sa.select(Attempt.id).where(Attempt.job_id.in_(jobs))
    db.execute(sa.update(File).where(File.parent_id.in_(outputs)).values(parent_id=None))
    deleted: dict[str, int] = {}
    steps: list[tuple[str | None, type[Base], sa.ColumnElement[bool]]] = [
        (None, LogPiece, LogPiece.attempt_id.in_(attempts)),
        (None, Upload, Upload.attempt_id.in_(attempts)),
        (None, Attempt, Attempt.job_id.in_(jobs)),
        (None, JobInput, JobInput.job_id.in_(jobs)),
        (None, JobParent, JobParent.job_id.in_(jobs)),
        (None, RunFile, RunFile.run_id.in_(run_ids)),
        ("files", File, File.job_id.in_(jobs)),
        ("jobs", Job, Job.run_id.in_(run_ids)),
        ("runs", Run, Run.id.in_(run_ids)),
    ]
    for name, table, condition in steps:
        count = affected_rows(db, sa.delete(table).where(condition))
        if name:
            deleted[name] = count
    return deleted


def delete_pipeline(db: Session, pipeline_id: int) -> dict[str, int]:
    """Delete a pipeline with its tasks and runs, as `delete_runs` does."""
    Pipeline.locked(db, pipeline_id)
    deleted = delete_runs(db, list(db.scalars(sa.select(Run.id).where(Run.pipeline_id == pipeline_id))))
    tasks = affected_rows(db, sa.delete(Task).where(Task.pipeline_id == pipeline_id))
    db.execute(sa.delete(Pipeline).where(Pipeline.id == pipeline_id))
    return {"pipelines": 1, "tasks": tasks, **deleted}


def delete_task(db: Session, task_id: int) -> None:
    """Delete a task; the tasks after it move up. Raises `Conflict` while another task names it in `after`."""
    pipeline_id = db.scalars(sa.select(Task.pipeline_id).where(Task.id == task_id)).one()
    tasks = Pipeline.locked(db, pipeline_id).tasks(db)
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
    """Delete a file. Raises `Held` while a run or a job refers to it."""
    file = db.get_one(File, file_id, with_for_update=True)
    if holders := db.execute(_HOLDERS, {"file": file_id}).all():
        raise Held("Runs or jobs refer to this file.", (Holder(*row) for row in holders))
    db.execute(sa.update(File).where(File.parent_id == file_id).values(parent_id=None))
    db.delete(file)
    db.flush()


def delete_module(db: Session, module_id: int) -> int:
    """Delete a module with all its versions and functions; returns the number of versions.

    Raises `Conflict` while tasks or jobs refer to its functions: their lineage must not be lost.
    """
    versions = sa.select(ModuleVersion.id).where(ModuleVersion.module_id == module_id)
    try:
        db.execute(sa.delete(Function).where(Function.version_id.in_(versions)))
    except IntegrityError:
        raise Conflict("Tasks or jobs refer to functions of this module.") from None
    count = affected_rows(db, sa.delete(ModuleVersion).where(ModuleVersion.module_id == module_id))
    db.execute(sa.delete(Module).where(Module.id == module_id))
    return count
