"""Runs: executions of a pipeline over files; a run and all its jobs are created in one transaction."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import orjson
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.database import wake_schedulers
from mlapi.errors import Conflict, FieldErrors, Gone, Invalid
from mlapi.models import dependencies
from mlapi.models.base import Base, JsonObject, Numbered, affected_rows, among, clock
from mlapi.models.combinations import Axis, check_axes, combine
from mlapi.models.dependencies import Dependencies
from mlapi.models.events import record, record_all
from mlapi.models.files import File
from mlapi.models.grids import Grid
from mlapi.models.jobs import TERMINAL, Job, JobParent, Status, add_inputs, lock_run, move
from mlapi.models.modules import Function
from mlapi.models.patterns import RUN, Named, choose
from mlapi.models.pipelines import Pipeline, Task, parents
from mlapi.models.plans import Plan, RunOptions, plan
from mlapi.models.progress import begin, follow

AT_ONCE = {"render_nulls": True}
"""Execution options of an INSERT of many rows: without it, rows with other null columns are other statements."""

JOBS = 20_000
"""Maximum number of jobs that one request creates: the transaction takes seconds, in which SQLite has no other."""

ROWS = 200_000
"""Maximum number of rows that one request creates for jobs: their inputs, parents, dependencies, and files of runs."""

BYTES = 64 * 2**20
"""Maximum size of the arguments and patterns of the jobs, and of the changes of the runs, that one request creates."""

NO_OPTIONS = RunOptions()
"""The options of a run that chooses nothing."""


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
    request_digest: Mapped[str | None]
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


def start(
    db: Session, pipeline_id: int, file_ids: list[int], key: str | None = None, options: RunOptions = NO_OPTIONS
) -> tuple[Run, bool]:
    """Create a run and all its jobs; returns the run and whether it is new: the same `key` returns the same run.

    Raises `Conflict` if the pipeline is disabled or has no tasks, if a queue is locked, if a job on which the run
    depends has failed, or if the key was used for another request; `Invalid` for a file that is not the owner's or that
    the function of a first task does not accept, for changes that do not fit the tasks, for unknown dependencies, and
    if the run would have too many rows or bytes.
    """
    pipeline = Pipeline.locked(db, pipeline_id)
    digest = request_digest(key, file_ids, options)
    if (existing := of_key(db, Run, pipeline_id, key, digest)) is not None:
        return existing, False
    prepared = prepare_tasks(db, pipeline, file_ids, options)
    columns = {"idempotency_key": key, "request_digest": digest}
    [run] = create(db, prepared, [(changes_of(options, prepared.plans), prepared.plans)], **columns)
    return run, True


def start_grid(
    db: Session,
    pipeline_id: int,
    file_ids: list[int],
    axes: Sequence[Axis],
    key: str | None = None,
    options: RunOptions = NO_OPTIONS,
) -> tuple[Grid, bool]:
    """Create a run for each combination of the values of the axes; returns their grid and whether it is new.

    Raises as `start` does, and `Invalid` for axes that do not fit the tasks, and for too many combinations.
    """
    pipeline = Pipeline.locked(db, pipeline_id)
    digest = request_digest(key, file_ids, options, axes)
    if (existing := of_key(db, Grid, pipeline_id, key, digest)) is not None:
        return existing, False
    prepared = prepare_tasks(db, pipeline, file_ids, options)
    check_axes(prepared.tasks, axes)
    check_rows(prepared, math.prod(len(axis.values) for axis in axes))
    changes = changes_of(options, prepared.plans)
    combined = list(combine(prepared.tasks, prepared.plans, changes, axes))
    grid = Grid(pipeline_id=pipeline.id, owner_id=pipeline.owner_id, idempotency_key=key, request_digest=digest)
    grid.axes, grid.run_count = [axis.as_json() for axis in axes], len(combined)
    db.add(grid)
    db.flush()
    create(db, prepared, combined, grid_id=grid.id)
    return grid, True


class Prepared(NamedTuple):
    """What the runs of one request have in common.

    These are the plans of their jobs, the parents and inputs of the jobs, the files, and the jobs on which the runs
    depend.
    """

    pipeline: Pipeline
    tasks: list[Task]
    parents: list[list[int]]
    plans: list[Plan]
    files: list[Named]
    inputs: list[tuple[Named, ...]]
    before: Dependencies


def prepare_tasks(db: Session, pipeline: Pipeline, file_ids: list[int], options: RunOptions) -> Prepared:
    """Check the request of a run of the tasks of a pipeline, and plan its jobs. Raises as `start` does."""
    if not pipeline.enabled:
        raise Conflict("The pipeline is disabled.")
    tasks = pipeline.tasks(db)
    if not tasks:
        raise Conflict("The pipeline has no tasks.")
    return prepare(db, pipeline, tasks, parents(tasks), file_ids, options)


def prepare(
    db: Session,
    pipeline: Pipeline,
    tasks: list[Task],
    graph: list[list[int]],
    file_ids: list[int],
    options: RunOptions,
) -> Prepared:
    """Check the request of a run of these tasks, whose parents have these indices, and plan its jobs."""
    errors = FieldErrors()
    plans: list[Plan] = []
    files: list[Named] = []
    before = Dependencies()
    with errors.collect():
        plans = plan(db, tasks, graph, options)
    with errors.collect():
        files = find_files(db, pipeline.owner_id, file_ids)
    with errors.collect():
        before = dependencies.find(db, pipeline.owner_id, options.depends_on)
    errors.raise_all()
    inputs = find_inputs(plans, graph, [task.function for task in tasks], files)
    prepared = Prepared(pipeline, tasks, graph, plans, files, inputs, before)
    check_rows(prepared)
    return prepared


def request_digest(key: str | None, *request: object) -> str | None:
    """The digest of a request with an Idempotency-Key, by which its repetition is recognized."""
    if key is None:
        return None
    return hashlib.sha256(json.dumps(request, sort_keys=True, default=vars).encode()).hexdigest()


Keyed = TypeVar("Keyed", Run, Grid)


def of_key(db: Session, kind: type[Keyed], pipeline_id: int, key: str | None, digest: str | None) -> Keyed | None:
    """The run or grid that was started with this key. Raises `Conflict` if the key was used for another request."""
    if key is None:
        return None
    for table in (Run, Grid):
        found = db.scalar(sa.select(table).where(table.pipeline_id == pipeline_id, table.idempotency_key == key))
        if isinstance(found, kind) and found.request_digest in (digest, None):  # None: older than digests.
            return found
        if found is not None:
            raise Conflict("This Idempotency-Key was used for another request.")
    return None


def find_files(db: Session, owner_id: int, file_ids: list[int]) -> list[Named]:
    """The files with these ids. Raises `Invalid` unless they exist and belong to the owner."""
    errors = FieldErrors()
    found = File.names(db, owner_id, file_ids)
    for index, file_id in enumerate(file_ids):
        if file_id not in found:
            errors.add(f"files.{index}", "File not found.")
    errors.raise_all()
    return [Named(file_id, found[file_id]) for file_id in file_ids]


def find_inputs(
    plans: list[Plan], parents: list[list[int]], functions: list[Function], files: list[Named]
) -> list[tuple[Named, ...]]:
    """What every job takes of the files of the run: nothing, if it has parents.

    Raises `Invalid` unless the functions of the first jobs accept it.
    """
    errors = FieldErrors()
    inputs: list[tuple[Named, ...]] = []
    for job, earlier, function in zip(plans, parents, functions, strict=True):
        taken = () if earlier else tuple(choose(job["patterns"], {RUN: files}))
        inputs.append(taken)
        if not earlier and (problem := function.problem_with_files([file.name for file in taken])):
            errors.add("files", problem)
    errors.raise_all()
    return inputs


def check_rows(prepared: Prepared, runs: int = 1) -> None:
    """Raise `Invalid` if so many runs have too many rows. Check it before they are planned: a grid has a thousand."""
    graph = prepared.parents
    first = sum(not earlier for earlier in graph)
    of_run = len(graph) + sum(map(len, graph)) + len(prepared.files) + sum(map(len, prepared.inputs))
    rows = of_run + first * len(prepared.before.job_ids)
    for of_one, most, what in (
        (len(graph), JOBS, "jobs"),
        (rows, ROWS, "jobs, files, inputs, parents and dependencies of jobs"),
    ):
        if (count := runs * of_one) > most:
            problem = f"Would create {count} {what}; at most {most} are possible."
            raise Invalid.field("grid" if runs > 1 else "depends_on", problem)


def check_bytes(runs: Sequence[tuple[JsonObject | None, list[Plan]]]) -> None:
    """Raise `Invalid` if runs, from their changes and the plans of their jobs, are too large."""
    size = 0
    for changes, plans in runs:
        size += _size(changes) + sum(_size(job["arguments"]) + _size(job["patterns"]) for job in plans)
        if size > BYTES:  # At once: the runs of a grid can be a thousand times as large.
            problem = f"The arguments, patterns and changes of all jobs must have at most {BYTES} bytes."
            raise Invalid.field("grid" if len(runs) > 1 else "", problem)


def _size(value: JsonObject | None) -> int:
    return 0 if value is None else len(orjson.dumps(value))


def create(
    db: Session, prepared: Prepared, runs: list[tuple[JsonObject | None, list[Plan]]], **columns: object
) -> list[Run]:
    """Create runs of the same graph over the same files, each from its changes and the plans of its jobs.

    The number of statements does not depend on the number of runs. Raises `Invalid` as `check_bytes` does.
    """
    check_bytes(runs)
    pipeline, _, graph, _, files, inputs, before = prepared
    of_all = {"pipeline_id": pipeline.id, "owner_id": pipeline.owner_id, "task_count": len(graph), **columns}
    rows = [{**of_all, "changes": changes} for changes, _ in runs]
    created = _insert(db, rows)
    if files:
        positions = [
            {"run_id": created[0].id, "position": index, "file_id": file.id} for index, file in enumerate(files)
        ]
        db.execute(sa.insert(RunFile), positions)
    if files and len(created) > 1:
        others = among(Run.id, [run.id for run in created[1:]])
        copied = sa.select(Run.id, RunFile.position, RunFile.file_id).join_from(RunFile, Run, others)
        copied = copied.where(RunFile.run_id == created[0].id)
        db.execute(sa.insert(RunFile).from_select(["run_id", "position", "file_id"], copied))
    first = _create_jobs(db, created, [plans for _, plans in runs], graph, inputs, wait=before.wait)
    record_all(db, "create", "run", ((run.id, run.id) for run in created), jobs=len(graph))
    begin(db, first, before.job_ids, wait=before.wait)
    return created


def _insert(db: Session, rows: list[dict[str, object]]) -> list[Run]:
    """Insert runs, which have the same grid if there are several; their ids have the order of the rows."""
    if len(rows) == 1:
        return [db.scalars(sa.insert(Run).returning(Run), rows).one()]
    db.execute(sa.insert(Run), rows, execution_options=AT_ONCE)
    return list(db.scalars(sa.select(Run).where(Run.grid_id == rows[0]["grid_id"]).order_by(Run.id)))


def _create_jobs(
    db: Session,
    runs: list[Run],
    planned: list[list[Plan]],
    graph: list[list[int]],
    inputs: list[tuple[Named, ...]],
    *,
    wait: bool,
) -> list[int]:
    """Create the jobs of runs; returns the ids of those without parents, which `wait` or are queued."""
    rows = [
        {
            **job,
            "run_id": run.id,
            "pipeline_id": run.pipeline_id,
            "owner_id": run.owner_id,
            "status": Status.PENDING if earlier or wait else Status.QUEUED,
            "queued": None if earlier or wait else run.created,
            "created": run.created,
        }
        for run, plans in zip(runs, planned, strict=True)
        for job, earlier in zip(plans, graph, strict=True)
    ]
    db.execute(sa.insert(Job), rows, execution_options=AT_ONCE)
    own = sa.select(Job.id).where(among(Job.run_id, [run.id for run in runs]))
    ids = db.scalars(own.order_by(Job.run_id, Job.position)).all()
    wake_schedulers(db)
    _add_parents(db, ids, graph)
    chosen: dict[tuple[Named, ...], list[int]] = {}
    for index, earlier in enumerate(graph):
        if not earlier:
            chosen.setdefault(inputs[index], []).extend(ids[index :: len(graph)])
    add_inputs(db, chosen)
    return [job_id for job_ids in chosen.values() for job_id in job_ids]


def _add_parents(db: Session, ids: Sequence[int], graph: list[list[int]]) -> None:
    """Record the parents of jobs, which have the order of the graph in each run."""
    pairs = [
        {"job_id": ids[first + index], "parent_id": ids[first + parent]}
        for first in range(0, len(ids), len(graph))
        for index, earlier in enumerate(graph)
        for parent in earlier
    ]
    if pairs:
        db.execute(sa.insert(JobParent), pairs)


def changes_of(options: RunOptions, plans: list[Plan]) -> JsonObject | None:
    """The changes of a run as they are stored: those of jobs by their positions."""
    positions = {job["task_id"]: job["position"] for job in plans}
    jobs: list[object] = [{"position": positions[task], **changed} for task, changed in options.tasks if changed]
    return {**options.changes, **({"jobs": jobs} if jobs else {})} or None


def cancel(db: Session, run_id: int) -> None:
    """Cancel the jobs of a run: waiting jobs immediately, running jobs at the next heartbeat of their runner.

    Raises `Conflict` if the run has ended.
    """
    if db.scalar(sa.select(Run.id).where(Run.id == run_id)) is None:
        raise Gone()
    lock_run(db, run_id)
    record(db, "cancel", "run", run_id, run_id)
    if not _cancel(db, Job.run_id == run_id):
        raise Conflict("The run has ended.")


def cancel_grid(db: Session, grid_id: int) -> None:
    """Cancel the jobs of all runs of a grid, as `cancel` does. Raises `Conflict` if all runs have ended."""
    Run.lock_all(db, Run.grid_id == grid_id)
    jobs = Job.run_id.in_(sa.select(Run.id).where(Run.grid_id == grid_id))
    unended = db.scalars(sa.select(Job.run_id).distinct().where(jobs, Job.status.not_in(TERMINAL))).all()
    record_all(db, "cancel", "run", ((run_id, run_id) for run_id in sorted(unended)), grid=grid_id)
    if not _cancel(db, jobs):
        raise Conflict("All runs of the grid have ended.")


def _cancel(db: Session, jobs: sa.ColumnElement[bool]) -> bool:
    """Cancel jobs, whose runs must be locked; returns whether one had not ended."""
    waiting = sa.and_(jobs, Job.status.in_([Status.PENDING, Status.QUEUED]))
    moved = move(db, Status.CANCELLED, waiting, reason="Cancelled before it ran.", ended=clock())
    running = sa.update(Job).where(jobs, Job.status == Status.RUNNING)
    found = bool(affected_rows(db, running.values(cancel_requested=True)) or moved)
    follow(db, jobs)
    return found


def statuses(db: Session | sa.Connection, run_ids: list[int]) -> dict[int, dict[str, int]]:
    """The number of jobs in each status, for each run."""
    return {run_id: {} for run_id in run_ids} | _counts(db, Job.run_id.in_(run_ids))


def statuses_of_grid(db: Session | sa.Connection, grid_id: int) -> dict[str, int]:
    """The number of runs of a grid with each status."""
    runs = sa.select(Run.id).where(Run.grid_id == grid_id)
    return dict(Counter(str(status_of(counts)) for counts in _counts(db, Job.run_id.in_(runs)).values()))


def _counts(db: Session | sa.Connection, jobs: sa.ColumnElement[bool]) -> dict[int, dict[str, int]]:
    """The number of jobs in each status, by run."""
    query = sa.select(Job.run_id, Job.status, sa.func.count()).where(jobs).group_by(Job.run_id, Job.status)
    counts: dict[int, dict[str, int]] = {}
    for run_id, status, count in db.execute(query):
        counts.setdefault(run_id, {})[status] = count
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
