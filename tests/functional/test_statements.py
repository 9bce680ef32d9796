"""SQL statements of requests: their number, for one row and for many, and their use of indices."""

import re
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from mlapi.models import (
    Attempt,
    Event,
    File,
    Function,
    Grid,
    Job,
    JobInput,
    Module,
    ModuleVersion,
    Pipeline,
    Queue,
    Run,
    Task,
    User,
    Worker,
    attempts,
    dispatch,
    slots,
    workers,
)
from mlapi.models.backoff import Retries
from tests.support import API, World, claimed, pipeline_of, services

MOST = 4
MANY = 100

LARGE = {"files", "jobs", "runs", "pipelines", "tasks", "attempts", "job_inputs", "job_parents"} | {
    "job_dependencies",
    "job_outputs",
    "run_files",
    "log_pieces",
    "uploads",
    "events",
    "metrics",
}
"""Tables that grow with use."""


@contextmanager
def statements(wsgi):
    """The statements that are executed in the block, with their parameters."""
    seen = []

    def note(connection, cursor, statement, parameters, context, executemany):
        if not statement.startswith("BEGIN"):
            seen.append((statement, parameters))

    engine = wsgi.registry.database.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


@pytest.fixture
def world(ada, helloworld, wsgi):
    return World(ada, helloworld, wsgi)


def asked(world, root, caller):
    """A function that gets a URL template as a caller, or as the runner where only it has access."""

    def get(path, query=""):
        if "{attempt}" not in path and (caller == "admin" or "/workers" in path):
            return root("GET", path.format(**world.keys) + query, status=200)
        return world.ask("GET", path, query, status=200)

    return get


def copies(db, kind, row_id, count=MANY - 1, /, **columns):
    """Copy a row; `columns` maps names to functions of the number of the copy. Returns the ids of the copies."""
    table = kind.__table__
    row = dict(db.execute(sa.select(table).where(table.c.id == row_id)).mappings().one())
    del row["id"]
    made = [row | {name: value(each) for name, value in columns.items()} for each in range(2, count + 2)]
    return list(db.scalars(sa.insert(table).returning(table.c.id, sort_by_parameter_order=True), made))


def grow(db, world):
    """Create a hundred rows of every kind below every parent of the world."""
    keys = world.keys
    version = db.scalars(sa.select(ModuleVersion.id).where(ModuleVersion.digest == keys["version"])).one()
    module = db.scalars(sa.select(Module.id)).one()
    function = db.scalars(sa.select(Function.id).where(Function.version_id == version)).one()
    copies(db, User, db.scalar(sa.select(User.id).where(User.name == keys["user"])), name=lambda n: f"user{n}")
    copies(db, Queue, db.scalar(sa.select(Queue.id).where(Queue.name == keys["queue"])), name=lambda n: f"queue{n}")
    copies(db, Worker, db.scalar(sa.select(Worker.id).where(Worker.name == keys["worker"])), name=lambda n: f"w{n}")
    files = copies(db, File, keys["file"])
    copies(db, Pipeline, keys["pipeline"])
    copies(db, Task, keys["task"], position=lambda n: n)
    copies(db, Grid, keys["grid"])
    copies(db, Run, keys["run"])
    copies(db, Job, keys["job"], position=lambda n: n)
    copies(db, Attempt, keys["attempt"], number=lambda n: n)
    events = dict(db.execute(sa.select(Event.kind, sa.func.max(Event.id)).group_by(Event.kind)).all())
    for kind in ("job", "queue"):
        copies(db, Event, events[kind])
    copies(db, Function, function, name=lambda n: f"function{n}")
    modules = copies(db, Module, module, name=lambda n: f"module{n}")
    copies(db, ModuleVersion, version, module_id=lambda n: modules[n - 2], number=lambda n: 1)
    copies(db, ModuleVersion, version, number=lambda n: n, digest=lambda n: f"{n:064x}")
    newest = db.scalars(sa.select(sa.func.max(ModuleVersion.id)).where(ModuleVersion.module_id == module)).one()
    copies(db, Function, function, version_id=lambda n: newest, name=lambda n: f"function{n - 1}")
    copies(db, Function, function, 1, version_id=lambda n: newest)
    inputs = [
        {"job_id": keys["job"], "number": number, "file_id": file, "name": str(number)}
        for number, file in enumerate(files, 2)
    ]
    db.execute(sa.insert(JobInput), inputs)
    db.commit()


@pytest.mark.parametrize("caller", ["owner", "admin"])
def test_a_get_executes_few_statements_for_any_number_of_rows(caller, world, root, db, wsgi):
    get = asked(world, root, caller)
    costs = []
    for _ in ("one row", "many rows"):
        costs.append({})
        for _, path, schema in services(wsgi, "GET"):
            is_list = schema is not None and any(each.name == "limit" for each in schema.query.children)
            with statements(wsgi) as seen:
                answer = get(path, "?limit=200" if is_list else "")
            costs[-1][path] = len(seen)
            if is_list and len(costs) == 2 and not (path.endswith("/users") and caller == "owner"):
                assert len(answer.json["items"]) >= MANY, path
        if len(costs) == 1:
            grow(db, world)
    assert {path: cost for path, cost in costs[0].items() if cost > MOST} == {}
    assert costs[0] == costs[1]


def test_a_rejected_get_executes_at_most_two_statements(world, bob, nobody, wsgi):
    for path in {path for _, path, _ in services(wsgi, "GET")} - {API, "/health/live", "/health/ready"}:
        with statements(wsgi) as seen:
            nobody("GET", path.format(**world.keys), status=401)
        assert seen == [], path
        if "{user}" in path or "{attempt}" in path:
            with statements(wsgi) as seen:
                bob("GET", path.format(**world.keys), status=404)
            assert len(seen) <= 2, path


@pytest.fixture
def plans(wsgi):
    """A function that explains statements in SQLite; PostgreSQL scans small tables on purpose."""
    if wsgi.registry.database.engine.dialect.name != "sqlite":
        pytest.skip("only SQLite plans without looking at how much there is")

    def scanned(seen):
        """The scanned tables, with the statements."""
        found = []
        with wsgi.registry.database.reading() as db:
            for statement, parameters in seen:
                if not re.match(r"SELECT|UPDATE|DELETE|WITH", statement) or isinstance(parameters, list):
                    continue
                plan = db.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                steps = [step.detail for step in plan]
                scans = [step for step in steps if step.startswith("SCAN ") and step.split()[1] in LARGE]
                found += [(scans, statement)] if scans else []
        return found

    return scanned


def test_scans_are_detected(plans, wsgi):
    with statements(wsgi) as seen, wsgi.registry.database.reading() as db:
        db.execute(sa.select(Job.id).where(Job.reason == "no index"))
    assert len(plans(seen)) == 1


def test_requests_of_users_use_indices(world, root, plans, wsgi):
    get = asked(world, root, "owner")
    with statements(wsgi) as seen:
        for _, path, schema in services(wsgi, "GET"):
            get(path)
            if schema is not None and any(each.name == "after" for each in schema.query.children):
                get(path, "?after=1")
        for query in ("status=RUNNING", "status=QUEUED&after=1", "module=helloworld"):
            get("/api/v1/jobs", f"?{query}")
        get("/api/v1/runs", f"?pipeline={world.keys['pipeline']}")
        get("/api/v1/files", f"?job={world.keys['job']}")
    assert len(seen) > 60
    assert plans(seen) == []


def test_runners_and_schedulers_use_indices(world, ada, helloworld, plans, wsgi):
    database, attempt = wsgi.registry.database, f"attempts/{world.keys['attempt']}"
    with statements(wsgi) as seen:
        world.runner("POST", f"{attempt}/heartbeat", {}, status=200)
        world.runner("PUT", f"{attempt}/log?offset=0", body=b"log", status=200)
        put = world.runner("POST", f"{attempt}/outputs", body=b"out", status=201).json
        output = {"name": "o.txt", "sha256": put["sha256"], "tags": {}, "origin": "created"}
        report = {"status": "FINISHED", "metrics": {}, "outputs": [output]}
        world.runner("POST", f"{attempt}/report", report, status=200)
        other = World(ada, helloworld, wsgi)  # Also claims its job.
        with database.writing.begin() as db:
            workers.beat(db, "tests", "here", "1")
        returned = {"status": "RETURNED", "reason": "full", "fault": "worker"}
        other.runner("POST", f"attempts/{other.keys['attempt']}/report", returned, status=200)
        with database.writing.begin() as db:
            assert slots.allowance(db, "tests", 2).jobs == 0
            [again] = attempts.claim(db, "tests", 1, 60, trial=True)
            attempts.hand_back(db, again.fence, "full", attempts.WORKER, Retries(3))
            [again] = attempts.claim(db, "tests", 1, 60)
            assert [each.id for each in slots.running(db, "tests")] == [again.attempt_id]
            assert attempts.expired(db, "tests") == []
            attempts.lose(db, again.fence, Retries(3), "lost")
            assert dispatch.waiting(db, "tests")
            assert slots.running(db, "tests") == []
        place = "users/ada/pipelines/{pipeline}/runs/{run}".format(**other.keys)
        ada("POST", f"{place}/jobs/{other.keys['job']}/cancel", status=200)
        ada("POST", f"{place}/retry", status=200)
        again = ada("POST", f"{place}/rerun", {"reuse": True, "depends_on": [f"{API}/{place}"]}, status=201).json
        ada("POST", f"{place}/cancel", status=200)
        ada("DELETE", again["url"], status=200)
        ada("DELETE", place, status=200)
        ada("DELETE", "users/ada/files/{file}".format(**other.keys), status=200)
        ada("DELETE", "users/ada/pipelines/{pipeline}".format(**world.keys), status=200)
    assert len(seen) > 60
    assert plans(seen) == []


def values_in(execution):
    """The number of values that were sent with a statement."""
    _, parameters = execution
    return sum(map(len, parameters)) if isinstance(parameters, list) else len(parameters)


@pytest.fixture
def wide(ada, helloworld, db, wsgi):
    """Starts a run of this many first tasks over this many files; returns its id and the executed statements."""

    def start(tasks, files):
        pipeline, [task] = pipeline_of(ada, {"function": helloworld, "after": []})
        file = ada.upload("a.txt", b"a", status=201).json["id"]
        copies(db, Task, task["id"], tasks - 1, position=lambda n: n)
        all_files = [file, *copies(db, File, file, files - 1)]
        db.commit()
        urls = [f"{API}/files/{each}" for each in all_files]
        with statements(wsgi) as seen:
            run = ada("POST", pipeline["runs"], {"files": urls}, status=201).json
        return run["id"], seen

    return start


def test_the_start_of_a_run_executes_few_statements_for_any_number_of_jobs_and_inputs(wide, db):
    costs = []
    for tasks, files in ((2, 2), (100, 1000)):
        run, seen = wide(tasks, files)
        costs.append(len(seen))
        assert sum(map(values_in, seen)) < 100 + 40 * (tasks + files)
        own = sa.select(JobInput.name).join(Job).where(Job.run_id == run)
        names = ["a.txt", *(f"a_{number}.txt" for number in range(2, files + 1))]
        assert list(db.scalars(own.order_by(Job.position, JobInput.number))) == names * tasks
        db.rollback()
    assert costs[0] == costs[1]


def test_the_end_of_a_job_executes_as_many_statements_for_many_dependent_jobs_as_for_one(
    ada, helloworld, app, wsgi, db
):
    costs = []
    for dependents in (1, 60):
        pipeline, [task] = pipeline_of(ada, {"function": helloworld})
        body = {"function": helloworld, "after": [task["url"]]}
        for _ in range(dependents):
            ada("POST", pipeline["tasks"], body, status=201)
        file = ada.upload("a.txt", b"a", status=201).json["url"]
        run = ada("POST", pipeline["runs"], {"files": [file]}, status=201).json
        [runner] = claimed(app, wsgi)
        with statements(wsgi) as seen:
            runner.finish("x.txt", "y.txt")
        costs.append(len(seen))
        queued = ada("GET", f"{run['jobs']}?status=QUEUED&limit=100", status=200).json["items"]
        assert len(queued) == dependents
        assert {len(ada("GET", job["url"]).json["inputs"]) for job in queued} == {2}
        with wsgi.registry.database.writing.begin() as session:
            attempts.claim(session, "tests", 100, 60)
    assert costs[0] + 1 == costs[1]  # The inputs of one job are copied to all others.


def test_what_is_the_same_in_all_requests_is_no_parameter_of_a_list(ada, world, wsgi):
    with statements(wsgi) as seen:
        ada("GET", "jobs?limit=7", status=200)
    statement, parameters = seen[-1]
    assert "LIMIT 8" in statement
    assert "No worker serves" in statement
    assert len(parameters) < 5
