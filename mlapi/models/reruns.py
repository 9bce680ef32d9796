"""Reruns: new runs of the tasks that an earlier run had, whatever has become of its pipeline."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from mlapi.errors import Conflict, Gone
from mlapi.models.base import JsonObject, protect
from mlapi.models.jobs import Job, JobParent
from mlapi.models.modules import Function
from mlapi.models.pipelines import Pipeline, Task
from mlapi.models.plans import RunOptions
from mlapi.models.runs import NO_OPTIONS, Run, RunFile, changes_of, create, of_key, prepare, request_digest


def rerun(
    db: Session,
    run_id: int,
    file_ids: Sequence[int] | None = None,
    key: str | None = None,
    options: RunOptions = NO_OPTIONS,
) -> tuple[Run, bool]:
    """Create a run with the jobs of another: the same functions, arguments and graph; returns as `runs.start` does.

    Its files are those of the other run, unless there are `file_ids`. The changes in `options` name jobs by their
    positions. Raises as `runs.start` does.
    """
    pipeline_id = db.scalar(sa.select(Run.pipeline_id).where(Run.id == run_id))
    if pipeline_id is None:
        raise Gone()
    pipeline = Pipeline.locked(db, pipeline_id)
    digest = request_digest(key, "rerun", run_id, file_ids, options)
    if (existing := of_key(db, Run, pipeline_id, key, digest)) is not None:
        return existing, False
    if not pipeline.enabled:
        raise Conflict("The pipeline is disabled.")
    # Its functions are protected from deletion by its jobs. A stronger lock could deadlock with `depends_on`.
    db.execute(protect(sa.select(Run.id).where(Run.id == run_id), Run))
    jobs = db.execute(_JOBS, {"run": run_id}).all()
    if not jobs:
        raise Gone()
    if file_ids is None:
        files = sa.select(RunFile.file_id).where(RunFile.run_id == run_id).order_by(RunFile.position)
        file_ids = db.scalars(files).all()
    tasks = [_task(job, function) for job, function in jobs]
    prepared = prepare(db, pipeline, tasks, _graph(db, run_id), list(file_ids), options)
    changes = changes_of(options, prepared.plans)
    for plan, (job, _) in zip(prepared.plans, jobs, strict=True):
        plan["task_id"] = job.task_id
    columns = {"idempotency_key": key, "request_digest": digest, "rerun_of_id": run_id}
    [run] = create(db, prepared, [(changes, prepared.plans)], **columns)
    return run, True


_JOBS = (
    sa.select(Job, Function)
    .join(Function, Job.function_id == Function.id)
    .where(Job.run_id == sa.bindparam("run"))
    .order_by(Job.position)
)


def _task(job: Job, function: Function) -> Task:
    """A job as a task, which is never stored. Its id is the position of the job, by which its children refer to it."""
    resources: JsonObject = {"cpus": job.cpus, "memory": job.memory, "gpus": job.gpus}
    return Task(
        id=job.position,
        pipeline_id=job.pipeline_id,
        position=job.position,
        function_id=job.function_id,
        function=function,
        arguments=job.arguments,
        queue_id=job.queue_id,
        timeout=job.timeout,
        attempts=job.attempts,
        priority=-job.rank,
        resources={name: value for name, value in resources.items() if value is not None},
        inputs=job.patterns,
        retry_on=job.retry_on,
        reuse=job.reuse,
    )


def _graph(db: Session, run_id: int) -> list[list[int]]:
    """The indices of the parents of every job of a run."""
    parent = sa.orm.aliased(Job)
    query = sa.select(Job.position, parent.position).outerjoin(JobParent, JobParent.job_id == Job.id)
    query = query.outerjoin(parent, JobParent.parent_id == parent.id).where(Job.run_id == run_id)
    graph: dict[int, list[int]] = {}
    for position, before in db.execute(query.order_by(Job.position, parent.position)):
        graph.setdefault(position, []).extend([] if before is None else [before - 1])
    return list(graph.values())
