"""Dependencies between runs: the first jobs of a run wait until jobs of older runs have finished.

A run can depend on existing runs only, and a run is created with all its dependencies, so there is no cycle.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from mlapi.errors import Conflict, FieldErrors
from mlapi.models.jobs import TERMINAL, UNABLE, Job, JobDependency, JobParent, Status


class Dependency(NamedTuple):
    """A run, or a job of one (`kind`), that must have finished before another run begins.

    `keys` are the ids of the pipeline and of the run to which it must belong, as far as its URL has them.
    """

    kind: str
    id: int
    keys: Mapping[str, int] = {}


class Dependencies(NamedTuple):
    """The ids of the jobs on which a run depends, and whether it has to wait for them."""

    job_ids: Sequence[int] = ()
    wait: bool = False


def find(db: Session, owner_id: int, named: Sequence[Dependency]) -> Dependencies:
    """The dependencies on jobs and runs; on a run is on its last jobs, those that are no parents.

    The runs are locked until the end of the transaction, so that they neither advance nor vanish before the new run is
    committed. Call this before the run gets its id. Raises `Invalid` unless all exist and belong to the owner, and
    `Conflict` if one of the jobs has failed or was cancelled.
    """
    if not named:
        return Dependencies()
    errors = FieldErrors()
    jobs: dict[int, Any] = {}
    found: dict[tuple[str, int], list[Any]] = {}
    for row in _locked(db, owner_id, named):
        found.setdefault(("job", row.id), []).append(row)
        found.setdefault(("run", row.run_id), []).append(row)
    for index, (kind, number, keys) in enumerate(named):
        own = found.get((kind, number), [])
        if own and not keys.items() <= {"run": own[0].run_id, "pipeline": own[0].pipeline_id}.items():
            own = []
        if not own:
            errors.add(f"depends_on.{index}", "Job or run not found.")
        jobs |= {row.id: row for row in own if kind == "job" or row.last or row.status in UNABLE}
    errors.raise_all()
    if unable := [row for row in jobs.values() if row.status in UNABLE]:
        message = f"Job {unable[0].id} of `depends_on` is {unable[0].status}; retry it first."
        raise Conflict(message, jobs=[row.id for row in unable])
    return Dependencies(sorted(jobs), any(row.status != Status.FINISHED for row in jobs.values()))


def _locked(db: Session, owner_id: int, named: Sequence[Dependency]) -> Sequence[Any]:
    """The jobs of the named runs and of the runs of the named jobs; several transactions can lock them so."""
    jobs = [item.id for item in named if item.kind == "job"]
    runs = [item.id for item in named if item.kind == "run"]
    of_jobs = sa.select(Job.run_id).where(Job.id.in_(jobs), Job.owner_id == owner_id)
    wanted = sa.and_(_RUNS.c.owner_id == owner_id, sa.or_(_RUNS.c.id.in_(runs), _RUNS.c.id.in_(of_jobs)))
    rows = sa.select(_RUNS.c.id).where(wanted).order_by(_RUNS.c.id).with_for_update(read=True)
    locked = db.scalars(rows).all()
    last = ~sa.exists().where(JobParent.parent_id == Job.id)
    query = sa.select(Job.id, Job.run_id, Job.pipeline_id, Job.status, last.label("last")).where(Job.run_id.in_(locked))
    return db.execute(query.order_by(Job.id)).all()


# models.runs imports this module.
_RUNS: Any = sa.table("runs", sa.column("id", sa.BigInteger), sa.column("owner_id", sa.BigInteger))


def add(db: Session, job_ids: Sequence[int], dependency_ids: Sequence[int]) -> None:
    """Make jobs depend on others."""
    rows = [{"job_id": job_id, "dependency_id": number} for job_id in job_ids for number in dependency_ids]
    if rows:
        db.execute(sa.insert(JobDependency), rows)


def waiting(db: Session, ended: sa.ColumnElement[bool]) -> dict[int, bool]:
    """The ids of the runs with jobs that wait for ended jobs that satisfy a condition, and of those that wait for them.

    The values say whether a run waits for one of the ended jobs itself.
    """
    of_ended = _WAITING.add_columns(sa.true().label("direct")).where(Job.status.in_(TERMINAL), ended)
    runs = of_ended.cte("waiting", recursive=True)
    others = _WAITING.add_columns(sa.false()).join(runs, Job.run_id == runs.c.run_id)
    runs = runs.union(others.where(Job.status == Status.PENDING))
    rows = db.execute(sa.select(runs.c.run_id, runs.c.direct).order_by(runs.c.direct))
    return {row.run_id: row.direct for row in rows}


_dependent = sa.orm.aliased(Job)
_WAITING = (
    sa.select(_dependent.run_id)
    .join(JobDependency, JobDependency.job_id == _dependent.id)
    .join(Job, JobDependency.dependency_id == Job.id)
    .where(_dependent.status == Status.PENDING)
)
