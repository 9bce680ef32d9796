"""Deletion of large pipelines: in several transactions, none of which depends on the number of runs."""

from itertools import count

import pytest
import sqlalchemy as sa

from mlapi import check
from mlapi.database import analyze
from mlapi.errors import Conflict
from mlapi.models import Job, Pipeline, Run, deletion
from tests.functional.test_statements import statements
from tests.support import claimed, is_problem, pipeline_of

MANY = 40_000
BATCH = 5_000
"""Number of runs that one statement of a test adds, within the time limit of statements."""
PARAMETERS = 65_535
"""Maximum number of parameters of a statement in PostgreSQL."""

MORE_RUNS = """
    INSERT INTO runs (pipeline_id, owner_id, task_count, created)
    WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)
    SELECT pipeline_id, owner_id, task_count, created FROM runs, numbers WHERE id = :run"""

LARGE_RUN = """
    INSERT INTO jobs (run_id, pipeline_id, owner_id, task_id, function_id, position, arguments, status, attempt,
                      cancel_requested, metrics, ended, created)
    WITH RECURSIVE numbers(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)
    SELECT run_id, pipeline_id, owner_id, task_id, function_id, n, arguments, 'CANCELLED', 0,
           cancel_requested, metrics, created, created
    FROM jobs, numbers WHERE run_id = :run"""

MORE_JOBS = """
    INSERT INTO jobs (run_id, pipeline_id, owner_id, task_id, function_id, position, arguments, status, attempt,
                      cancel_requested, metrics, ended, created)
    SELECT runs.id, runs.pipeline_id, jobs.owner_id, task_id, function_id, position, arguments, 'CANCELLED', 0,
           cancel_requested, metrics, jobs.created, jobs.created
    FROM runs, jobs WHERE jobs.id = :job AND runs.id > :last"""


@pytest.fixture
def pipeline(ada, helloworld):
    return pipeline_of(ada, {"function": helloworld})[0]


@pytest.fixture
def run(ada, pipeline, app, wsgi):
    """A run of the pipeline that has ended, with an output."""
    file = ada.upload("a.txt", b"a", status=201).json["url"]
    started = ada("POST", pipeline["runs"], {"files": [file]}, status=201).json
    claimed(app, wsgi)[0].finish("out.txt")
    return started


@pytest.fixture
def grow(db, pipeline, run):
    """A function that adds runs of one cancelled job each, without the API."""

    def more(number):
        job = db.scalar(sa.select(Job.id).where(Job.run_id == run["id"]))
        for first in range(0, number, BATCH):
            last = db.scalar(sa.select(sa.func.max(Run.id)))
            db.execute(sa.text(MORE_RUNS), {"run": run["id"], "count": min(BATCH, number - first)})
            db.execute(sa.text(MORE_JOBS), {"job": job, "last": last})
            db.commit()

    return more


@pytest.fixture
def stale_statistics(db, run, wsgi):
    """Statistics of a time at which all jobs were of one run, so that subqueries by runs seem to find every job."""
    db.execute(sa.text(LARGE_RUN), {"run": run["id"], "count": MANY})
    db.commit()
    analyze(wsgi.registry.database.engine)
    db.execute(sa.delete(Job).where(Job.position > 1))
    db.commit()


@pytest.fixture
def violations(wsgi):
    def found():
        with wsgi.registry.database.reading() as connection:
            return [*check.of_tables(connection), *check.of_database(connection)]

    return found


def test_a_pipeline_of_40000_runs_is_deleted(ada, pipeline, stale_statistics, grow, wsgi, violations):
    grow(MANY)
    with statements(wsgi) as seen:
        gone = ada("DELETE", pipeline["url"], status=200).json["deleted"]
    assert gone == {"pipelines": 1, "tasks": 1, "grids": 0, "runs": MANY + 1, "jobs": MANY + 1, "files": 1}
    assert max(len(parameters) for _, parameters in seen) < PARAMETERS / 1000
    is_problem(ada("GET", pipeline["url"]), 404)
    assert violations() == []


def test_an_interrupted_deletion_leaves_a_smaller_pipeline_that_can_be_deleted(
    ada, pipeline, grow, db, violations, monkeypatch
):
    monkeypatch.setattr(deletion, "RUNS", 10)
    grow(99)
    transactions = count(1)

    def commit():
        if next(transactions) == 4:
            raise ConnectionError
        db.commit()

    with pytest.raises(ConnectionError):
        deletion.delete_pipeline(db, pipeline["id"], commit)
    db.rollback()
    assert db.scalar(sa.select(sa.func.count()).select_from(Run)) == 70
    db.rollback()
    assert violations() == []
    assert ada("GET", pipeline["url"], status=200).json["enabled"] is False
    is_problem(ada("POST", pipeline["runs"], {"files": []}), 409)
    assert ada("DELETE", pipeline["url"], status=200).json["deleted"]["runs"] == 70
    assert violations() == []


@pytest.mark.parametrize("limit", ["RUNS", "ROWS"])
def test_runs_that_use_outputs_of_older_runs_are_deleted_before_them(
    limit, ada, pipeline, run, app, wsgi, monkeypatch, violations
):
    monkeypatch.setattr(deletion, limit, 1)
    [output] = ada("GET", "files?kind=OUTPUT").json["items"]
    ada("POST", pipeline["runs"], {"files": [output["url"]]}, status=201)
    claimed(app, wsgi)[0].finish("out.txt")
    is_problem(ada("DELETE", run["url"]), 409)
    assert ada("DELETE", pipeline["url"], status=200).json["deleted"]["runs"] == 2
    assert violations() == []


def test_a_pipeline_whose_deletion_is_refused_does_not_change(ada, pipeline, grow, db, monkeypatch):
    monkeypatch.setattr(deletion, "RUNS", 10)
    grow(29)
    oldest = db.scalar(sa.select(sa.func.min(Job.id)))
    db.execute(sa.update(Job).where(Job.id == oldest).values(status="QUEUED", ended=None))
    db.commit()
    with pytest.raises(Conflict):
        deletion.delete_pipeline(db, pipeline["id"], lambda: pytest.fail("No transaction is committed."))
    db.rollback()
    assert is_problem(ada("DELETE", pipeline["url"]), 409)["jobs"] == [oldest]
    assert ada("GET", pipeline["url"], status=200).json == pipeline
    assert db.scalar(sa.select(sa.func.count()).select_from(Run)) == 30
    assert db.get_one(Pipeline, pipeline["id"]).enabled
