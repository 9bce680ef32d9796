"""Lists do the same work for any number of rows: every list, every filter and the common pairs, on both databases."""

import re
from contextlib import contextmanager
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa
from pyramid.paster import get_app
from webtest import TestApp

from benchmarks.claims import QUEUED
from benchmarks.growth import fill
from mlapi.models import Job, dispatch, users, waits
from tests.functional.conftest import database_url
from tests.functional.test_statements import statements
from tests.support import PAIRS, PASSWORD, Client, another_app, is_problem, migrate, services, write_ini

ROWS = 8_000
"""Number of jobs and of files."""

LARGE = {"jobs", "files", "runs", "events"}
"""The tables with so many rows that an index is faster than a scan."""

WORK = 1_000
"""Maximum number of rows that a step of a plan in PostgreSQL may read, for a page of 20: 24 ranges of 21 are 504."""

STEPS = 40
"""Maximum number of thousands of instructions of a statement in SQLite; to walk all rows takes more."""

ALL = re.compile(r"WHERE 1 = 1 ORDER BY (\w+).id DESC\n LIMIT")
"""The SELECT of the newest rows of a table by its primary key, which SQLite calls a scan."""

KEYS = {"user": "ada", "pipeline": 1, "grid": 5, "run": 5, "job": 21, "attempt": 1, "module": "m1", "version": "d1"}
KEYS["queue"] = "default"
VALUES = {
    "owner": "ada",
    "status": "FAILED",
    "module": "m1",
    "function": "f1",
    "pipeline": 1,
    "role": "user",
    "name": "n1",
    "kind": "OUTPUT",
    "sha256": "f" * 64,
    "job": 1,
    "enabled": "true",
}
"""Values of filters that many rows have."""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def large(request, tmp_path_factory):
    """An application with many rows; ada owns most of them."""
    folder = tmp_path_factory.mktemp("large")
    url = database_url(request, folder)
    ini = write_ini(folder, url)
    migrate(ini)
    wsgi = get_app(str(ini))
    database = wsgi.registry.database
    with database.writing.begin() as db:
        users.create(db, "ada", wsgi.registry.passwords.hash(PASSWORD))
    fill(url, ROWS)
    yield wsgi
    database.engine.dispose()


@pytest.fixture(scope="module")
def callers(large):
    """The clients of ada and of an administrator."""
    app = TestApp(large, extra_environ={"HTTP_HOST": "localhost:6543"})
    with large.registry.database.reading() as db:
        ids = dict(db.execute(sa.text("SELECT name, id FROM users")).all())
    return [Client(app, token=large.registry.tokens.make(ids[name], "access", 600)) for name in ("ada", "root")]


def lists(wsgi):
    """The URLs of all lists, unfiltered, with each filter and with the common pairs, and of a later page of each."""
    for _, path, schema in services(wsgi, "GET"):
        names = {node.name for node in schema.query.children} if schema and schema.query else set()
        if {"limit", "after"} <= names:
            filters = sorted(names - {"limit", "after"})
            sets = [(), *((name,) for name in filters), *(pair for pair in PAIRS if names.issuperset(pair))]
            for chosen in sets:
                for page in ({}, {"after": ROWS // 2}):
                    query = {"limit": 20, **page, **{name: VALUES[name] for name in chosen}}
                    yield f"{path.format(**KEYS)}?{urlencode(query)}"


@contextmanager
def executed(wsgi, seen):
    """Add the SELECTs that are executed in the block, with their parameters."""
    with statements(wsgi) as found:
        yield
    seen.update({statement: parameters for statement, parameters in found if statement.startswith(("SELECT", "WITH"))})


def test_the_work_of_a_list_does_not_grow(large, callers):
    seen, urls = {}, list(lists(large))
    assert len(urls) > 60
    for caller in callers:
        for url in urls:
            with executed(large, seen):
                assert caller("GET", url).status_int in (200, 403, 404), url
    assert len(seen) > 60
    engine = large.registry.database.engine
    broken = broken_in_sqlite if engine.dialect.name == "sqlite" else broken_in_postgresql
    with engine.connect().execution_options(sqlite_begin="DEFERRED") as db:
        assert {statement: found for statement in seen if (found := broken(db, statement, seen[statement]))} == {}
        slow = "SELECT id FROM jobs WHERE reason = 'x' ORDER BY reason"
        assert broken(db, slow, {}), "a scan and a sort are found"


HIDING = """
INSERT INTO workers (name, host, gpus, heartbeat, health, faults, created)
VALUES ('tests', '', 4, '2026-01-01 00:00:00.000000', '', 0, '2026-01-01 00:00:00.000000');
UPDATE jobs SET gpus = 5 WHERE status = 'QUEUED' AND id % 9 > 3;
UPDATE jobs SET not_before = '2100-01-01 00:00:00.000000' WHERE status = 'QUEUED' AND id % 9 IN (1, 2, 3)
"""
"""The statements that make most queued jobs need more than the worker has, or wait for their next attempt."""


@pytest.mark.parametrize("analyzed", [False, True])
def test_the_work_of_a_claim_does_not_grow(analyzed, large):
    engine, seen = large.registry.database.engine, {}
    broken = broken_in_sqlite if engine.dialect.name == "sqlite" else broken_in_postgresql
    with engine.connect() as db:
        for statement in f"{QUEUED}; {HIDING}".replace(":size", "10000").split(";"):
            db.execution_options(no_parameters=True).exec_driver_sql(statement)
        if analyzed:
            db.exec_driver_sql("ANALYZE")
        with executed(large, seen):
            assert len(dispatch.heads(db, "tests", 4)) == 4
            assert dispatch.waiting(db, "tests")
        assert {statement: found for statement in seen if (found := broken(db, statement, seen[statement]))} == {}
        db.rollback()


UNFIT = """
INSERT INTO workers (name, host, gpus, heartbeat, health, faults, created)
VALUES ('tests', '', 4, '2100-01-01 00:00:00.000000', '', 0, '2026-01-01 00:00:00.000000');
UPDATE jobs SET queue_id = 1, gpus = CASE WHEN id % 2 = 0 THEN 5 END WHERE status = 'QUEUED'
"""
"""The statements that give half of the queued jobs needs that no worker has, in one queue."""


def test_the_warnings_of_a_run_examine_jobs_with_the_same_needs_once(large):
    engine, seen = large.registry.database.engine, {}
    with engine.connect() as db:
        db = db.execution_options(no_parameters=True)
        for statement in f"{QUEUED}; {UNFIT}".replace(":size", "2000").split(";"):
            db.exec_driver_sql(statement)
        db = db.execution_options(no_parameters=False)
        with executed(large, seen):
            assert db.scalars(waits.warnings(Job.run_id == 1)).all() == ["No worker has the resources (gpus: 5)."]
        [(statement, parameters)] = seen.items()
        if engine.dialect.name == "sqlite":
            assert all(int(steps.split()[0]) < 100 for steps in broken_in_sqlite(db, statement, parameters))
        else:
            large_relations = {step.get("Relation Name") for step in broken_in_postgresql(db, statement, parameters)}
            assert "workers" not in large_relations
        db.rollback()


def broken_in_sqlite(db, statement, parameters):
    """What is wrong with the execution of a statement: the scans of large tables, or the number of its steps."""
    parameters = tuple(parameters)
    plan = [row[3] for row in db.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters or ())]
    found = [step for step in plan if step.startswith("SCAN ") and step.split()[1] in LARGE]
    if ALL.search(statement):
        found = []
    raw, steps = db.connection.dbapi_connection, []
    raw.set_progress_handler(lambda: steps.append(1000), 1000)
    db.exec_driver_sql(statement, parameters or ()).all()
    raw.set_progress_handler(None, 0)
    return found + ([f"{len(steps)} thousand steps"] if len(steps) > STEPS else [])


def broken_in_postgresql(db, statement, parameters):
    """The steps of the plan of a prepared statement that read too many rows, or all of a large table."""
    order = []

    def number(match):
        order.append(match[1]) if match[1] not in order else None
        return f"${order.index(match[1]) + 1}"

    db = db.execution_options(no_parameters=True)
    prepared = re.sub(r"%\((\w+)\)s", number, statement)
    values = ", ".join(literal(parameters[name]) for name in order)
    db.exec_driver_sql("SET plan_cache_mode = force_generic_plan")
    db.exec_driver_sql("SET enable_seqscan = off")  # The runs are so few that the planner may prefer a scan.
    types = ", ".join(type_of(parameters[name]) for name in order)
    db.exec_driver_sql(f"PREPARE asked {f'({types})' if types else ''} AS {prepared}")
    explained = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE asked{f'({values})' if values else ''}"
    [document] = db.exec_driver_sql(explained).scalar_one()
    db.exec_driver_sql("DEALLOCATE asked")
    return list(large_steps(document["Plan"]))


def type_of(value):
    """The type of a parameter in PostgreSQL."""
    return "text" if isinstance(value, str) else "boolean" if isinstance(value, bool) else "bigint"


def literal(value):
    return f"'{value}'" if isinstance(value, str) else str(value)


def large_steps(plan):
    """The steps of a plan that read too many rows."""
    read = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    scan = plan["Node Type"] == "Seq Scan" and plan["Relation Name"] in LARGE and read > 300
    if scan or read > WORK:
        yield {key: plan[key] for key in plan if key in ("Node Type", "Index Name", "Relation Name", "Index Cond")}
    for step in plan.get("Plans", []):
        yield from large_steps(step)


def test_other_filters_have_a_time_limit_and_the_error_names_those_that_help(large, callers, tmp_path):
    query = "jobs?pipeline=1&module=m1&limit=200"
    for caller in callers:
        assert len(caller("GET", query, status=200).json["items"]) > 50
    engine = large.registry.database.engine
    with another_app(large, tmp_path, list_timeout=1e-9) as app, engine.connect() as other:
        if engine.dialect.name == "postgresql":
            other.exec_driver_sql("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")  # A statement may be faster than 1 ms.
        impatient = Client(app, token=callers[1].headers["Authorization"].split()[1])
        errors = is_problem(impatient("GET", query), 422, "module", "pipeline")["errors"]
        other.rollback()
        told = {error["name"]: error["description"].partition("alone")[2] for error in errors}
        assert {error["location"] for error in errors} == {"querystring"}
        assert told == {
            "module": ", or together with one of: status, owner, function.",
            "pipeline": ", or together with one of: status, owner.",
        }
        impatient("GET", "jobs?pipeline=1&status=FAILED", status=200)
        impatient("GET", "jobs?pipeline=1", status=200)
