"""Reuse: a job is answered by a finished job of the same owner with the same function, arguments and inputs.

It is FINISHED without an attempt, with the same output files and metrics. A function whose manifest declares it as
deterministic is answered so, unless the job says otherwise (`Job.reuse`).
"""

import hashlib
from collections.abc import Collection
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from mlapi.models.base import among, clock, set_each
from mlapi.models.files import File
from mlapi.models.jobs import Job, JobInput, JobOutput, Status, move
from mlapi.models.modules import Function

FORMAT = 1
"""The version of the content of keys. Keys of another version equal none of this one."""


def answer(db: Session, job_ids: Collection[int]) -> dict[int, int]:
    """Record the keys of queued jobs, or finish those that an earlier job answers; returns these with their runs.

    The number of statements does not depend on the number of jobs and of their runs.
    """
    if not job_ids:
        return {}
    jobs = db.execute(_JOBS.where(among(Job.id, job_ids))).all()
    inputs = _inputs(db, job_ids)
    keys = {job.id: _key(job.owner_id, job.function_id, job.arguments, inputs.get(job.id, [])) for job in jobs}
    originals = _originals(db, {keys[job.id] for job in jobs if job.wanted})
    answers = {job.id: originals[keys[job.id]] for job in jobs if job.wanted and keys[job.id] in originals}
    # A run is deleted after newer ones, so it must not hold results of those.
    answers = {job: original for job, original in answers.items() if original < job}
    if executed := {job: key for job, key in keys.items() if job not in answers}:  # Only these can answer others.
        set_each(db, Job.reuse_key, executed)
    if answers:
        set_each(db, Job.reused_from_id, answers)
        answered = among(Job.id, answers)
        outputs = sa.select(Job.id, JobOutput.number, JobOutput.file_id).where(answered)
        outputs = outputs.join(JobOutput, JobOutput.job_id == Job.reused_from_id)
        db.execute(sa.insert(JobOutput).from_select(["job_id", "number", "file_id"], outputs))
        move(db, Status.FINISHED, answered, metrics=_METRICS, reuse_key=None, ended=clock())
    return {job.id: job.run_id for job in jobs if job.id in answers}


_JOBS = sa.select(
    Job.id,
    Job.run_id,
    Job.owner_id,
    Job.function_id,
    Job.arguments,
    sa.func.coalesce(Job.reuse, Function.deterministic).label("wanted"),
).join(Function, Job.function_id == Function.id)
_original = aliased(Job)
_METRICS = sa.select(_original.metrics).where(_original.id == Job.reused_from_id).correlate(Job).scalar_subquery()


def _inputs(db: Session, job_ids: Collection[int]) -> dict[int, list[tuple[str, str, dict[str, object]]]]:
    """The names, digests and tags of the inputs of jobs, in order."""
    of_jobs = among(JobInput.job_id, job_ids)
    files = sa.select(File.id, File.sha256, File.tags).where(File.id.in_(sa.select(JobInput.file_id).where(of_jobs)))
    contents = {file.id: (file.sha256, file.tags) for file in db.execute(files)}
    inputs: dict[int, list[tuple[str, str, dict[str, object]]]] = {}
    rows = sa.select(JobInput.job_id, JobInput.name, JobInput.file_id).where(of_jobs)
    for job_id, name, file_id in db.execute(rows.order_by(JobInput.job_id, JobInput.number)):
        inputs.setdefault(job_id, []).append((name, *contents[file_id]))
    return inputs


def _key(*content: object) -> str:
    """The digest of everything that determines the results of a job.

    The id of a function stands for its name and the digest of its module version.
    """
    return hashlib.sha256(orjson.dumps([FORMAT, *content], option=orjson.OPT_SORT_KEYS)).hexdigest()


def _originals(db: Session, keys: Collection[str]) -> dict[str, int]:
    """The first job with each of these keys that was executed and has finished.

    Their runs are protected from deletion until the end of the transaction. A run that is being deleted is skipped:
    waiting for it could deadlock.
    """
    if not keys:
        return {}
    first = sa.select(sa.func.min(Job.id)).group_by(Job.reuse_key)
    first = first.where(among(Job.reuse_key, keys), Job.status == Status.FINISHED)
    query = sa.select(Job.reuse_key, Job.id).join(_RUNS, Job.run_id == _RUNS.c.id).where(Job.id.in_(first))
    rows = db.execute(query.with_for_update(read=True, key_share=True, of=_RUNS, skip_locked=True))
    return {str(key): job_id for key, job_id in rows}


_RUNS: Any = sa.table("runs", sa.column("id", sa.BigInteger))  # models.runs imports this module.


def forget(db: Session, file_id: int) -> None:
    """Forget the keys of jobs that have not ended and have a file as an input: its tags change."""
    waiting = sa.select(JobInput.job_id).where(JobInput.file_id == file_id)
    unended = Job.status.in_([Status.QUEUED, Status.RUNNING])
    db.execute(sa.update(Job).where(Job.id.in_(waiting), unended).values(reuse_key=None))
