"""Reuse: a job is answered by a finished job with the same function, arguments and inputs."""

import io
import tarfile
from datetime import datetime

import pytest
import sqlalchemy as sa

from mlapi import check
from mlapi.models import Job
from tests.functional.test_statements import statements
from tests.support import claimed, is_problem, pipeline_of

MANIFEST = """\
display_name: Sure
tagline: Does the same again
doctxt: For tests.
functions:
  - name: count
    doctxt: Counts.
    options: [{name: by, type: int, required: false, default: 1, doctxt: Step.}]
    creates_new_files: true
    modifies_input_files: false
    expected_filetype: ""
    output_tags: []
    input_files: {minimum: 0}
    deterministic: %s
"""


def register(root, deterministic="true", text=""):
    """Register a version of a module; returns the URL of its function."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in (("mlapi.yaml", MANIFEST % deterministic), ("main.py", text)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
    made = root.form("modules", {"name": "sure"}, "archive", "m.tar", packed.getvalue(), status=201)
    return f"{made.json['registered']}/functions/count"


@pytest.fixture(autouse=True)
def invariants_hold(wsgi, app):
    """Check the invariants at the end of every test."""
    yield
    with wsgi.registry.database.reading() as db:
        assert list(check.of_tables(db)) == []


@pytest.fixture
def count(root):
    """The URL of a deterministic function."""
    return register(root)


@pytest.fixture
def file(ada):
    return ada.upload("a.txt", b"a", status=201).json["url"]


@pytest.fixture
def three(ada, count):
    """A pipeline of three tasks, one after the other."""
    return pipeline_of(ada, *({"function": count, "arguments": {"by": number}} for number in (1, 2, 3)))[0]


@pytest.fixture
def start(ada, three, file):
    """Start a run of the three tasks."""
    return lambda status=201, **body: ada("POST", three["runs"], {"files": [file], **body}, status=status).json


@pytest.fixture
def jobs(ada):
    """The documents of the jobs of a run."""
    return lambda run: [ada("GET", job["url"]).json for job in ada("GET", run["jobs"]).json["items"]]


@pytest.fixture
def states(jobs):
    return lambda run: [job["status"] for job in jobs(run)]


@pytest.fixture
def execute(app, wsgi):
    """Execute all queued jobs, and those that follow; returns their number."""

    def executed():
        number = 0
        while runners := claimed(app, wsgi, 9):
            for runner in runners:
                number += 1
                runner.finish(f"{runner.claim.job_id}.txt", metrics={"number": number})
        return number

    return executed


def test_the_second_run_is_finished_at_its_start(start, jobs, states, execute, ada):
    first = start()
    assert execute() == 3
    second = start()
    assert second["status"] == "FINISHED"
    for old, new in zip(jobs(first), jobs(second), strict=True):
        assert new["reused_from"] == old["url"]
        assert old["reused_from"] is None
        assert (new["outputs"], new["metrics"]) == (old["outputs"], old["metrics"])
        assert (new["attempt"], new["started"], new["reason"]) == (0, None, None)
        ended, queued, created = (datetime.fromisoformat(new[name]) for name in ("ended", "queued", "created"))
        assert ended >= queued >= created
    assert execute() == 0
    third = start()
    assert [job["reused_from"] for job in jobs(third)] == [job["url"] for job in jobs(first)]


def test_needs_few_statements_for_any_number_of_first_jobs(ada, count, file, execute, wsgi):
    costs = []
    for size in (2, 9):
        tasks = ({"function": count, "arguments": {"by": size * 10 + number}, "after": []} for number in range(size))
        pipeline, _ = pipeline_of(ada, *tasks)
        ada("POST", pipeline["runs"], {"files": [file]}, status=201)
        execute()
        with statements(wsgi) as seen:
            assert ada("POST", pipeline["runs"], {"files": [file]}, status=201).json["status"] == "FINISHED"
        costs.append(len(seen))
    assert costs[0] == costs[1]


def test_a_run_of_three_jobs_takes_a_few_dozen_statements(start, execute, wsgi):
    start()
    execute()
    with statements(wsgi) as seen:
        assert start()["status"] == "FINISHED"
    assert len(seen) <= 60


@pytest.mark.parametrize("change", ["arguments", "content", "name", "tags", "order", "module", "owner"])
def test_nothing_else_is_reused(change, ada, bob, root, count, execute, states):
    client = ada
    files = [ada.upload(name, name.encode(), status=201).json["url"] for name in ("a.txt", "b.txt")]
    task = {"function": count, "arguments": {"by": 1}}
    pipeline, _ = pipeline_of(ada, task)
    ada("POST", pipeline["runs"], {"files": files}, status=201)
    execute()
    if change == "arguments":
        task["arguments"] = {"by": 2}
    elif change == "content":
        files[1] = ada.upload("b.txt", b"x", status=201).json["url"]
    elif change == "name":
        files[1] = ada.upload("c.txt", b"b.txt", status=201).json["url"]
    elif change == "tags":
        ada("PATCH", files[1], {"tags": {"a": 1}}, status=200)
    elif change == "order":
        files = files[::-1]
    elif change == "module":
        task["function"] = register(root, text="# another version")
    else:
        client = bob
        files = [bob.upload(name, name.encode(), status=201).json["url"] for name in ("a.txt", "b.txt")]
    pipeline, _ = pipeline_of(client, task)
    run = client("POST", pipeline["runs"], {"files": files}, status=201).json
    assert run["status"] == "QUEUED"
    execute()
    assert client("POST", pipeline["runs"], {"files": files}, status=201).json["status"] == "FINISHED"


def test_equal_files_are_equal_inputs_whatever_their_ids(ada, count, execute):
    pipeline, _ = pipeline_of(ada, {"function": count})
    for expected in ("QUEUED", "FINISHED"):
        file = ada.upload("a.txt", b"same", status=201).json["url"]
        run = ada("POST", pipeline["runs"], {"files": [file]}, status=201).json
        assert run["status"] == expected
        execute()


@pytest.mark.parametrize(
    ("deterministic", "task", "run", "expected"),
    [
        ("true", None, None, "FINISHED"),
        ("false", None, None, "QUEUED"),
        ("false", True, None, "FINISHED"),
        ("false", None, True, "FINISHED"),
        ("true", False, None, "QUEUED"),
        ("true", None, False, "QUEUED"),
        ("true", False, True, "FINISHED"),
        ("false", True, False, "QUEUED"),
    ],
)
def test_the_manifest_the_task_and_the_run_decide(deterministic, task, run, expected, root, ada, file, execute):
    pipeline, _ = pipeline_of(ada, {"function": register(root, deterministic), "reuse": task})
    ada("POST", pipeline["runs"], {"files": [file], "reuse": False}, status=201)
    execute()
    body = {"files": [file], **({} if run is None else {"reuse": run})}
    assert ada("POST", pipeline["runs"], body, status=201).json["status"] == expected


def test_a_task_of_a_run_takes_precedence_over_the_run(root, ada, file, execute):
    pipeline, [task] = pipeline_of(ada, {"function": register(root, "false"), "reuse": True})
    ada("POST", pipeline["runs"], {"files": [file], "reuse": False}, status=201)
    execute()
    for own, expected in ((True, "FINISHED"), (None, "QUEUED")):
        body = {"files": [file], "reuse": not own, "tasks": [{"task": task["url"], "reuse": own}]}
        assert ada("POST", pipeline["runs"], body, status=201).json["status"] == expected


def test_the_manifest_shows_whether_a_function_is_deterministic(root, ada, helloworld):
    assert ada("GET", register(root)).json["deterministic"] is True
    assert ada("GET", register(root, "false")).json["deterministic"] is False
    assert ada("GET", helloworld).json["deterministic"] is False


def test_a_run_is_answered_as_far_as_its_jobs_equal(start, three, jobs, states, execute, ada):
    start()
    execute()
    last = ada("GET", three["tasks"]).json["items"][2]
    ada("PATCH", last["url"], {"arguments": {"by": 9}}, status=200)
    run = start()
    assert states(run) == ["FINISHED", "FINISHED", "QUEUED"]
    assert execute() == 1
    assert jobs(run)[2]["inputs"] == jobs(run)[1]["outputs"]


def test_a_failed_job_answers_nothing_and_a_job_is_answered_when_its_parents_end(start, states, app, wsgi):
    first, second = start(), start()
    one, two = claimed(app, wsgi, 9)
    one.report("FAILED")
    two.finish("a.txt")
    assert states(second) == ["FINISHED", "QUEUED", "PENDING"]
    third = start()
    assert states(third) == ["FINISHED", "QUEUED", "PENDING"]
    for runner in claimed(app, wsgi, 1):
        runner.finish("b.txt")
    assert states(first) == ["FAILED", "CANCELLED", "CANCELLED"]


def test_a_retried_job_is_not_answered_by_a_newer_one(start, jobs, states, execute, app, wsgi, ada):
    first, second = start(), start()
    one, two = claimed(app, wsgi, 9)
    one.report("FAILED")
    two.finish("a.txt")
    execute()
    ada("POST", f"{first['url']}/retry", status=200)
    assert states(first)[0] == "QUEUED"
    assert states(second) == ["FINISHED"] * 3


def test_what_is_reused_cannot_be_deleted(start, jobs, three, execute, ada):
    first = start()
    execute()
    second = start()
    problem = is_problem(ada("DELETE", first["url"]), 409)
    assert second["id"] in problem["runs"] or second["url"] in problem["runs"]
    output = jobs(second)[0]["outputs"][0]
    is_problem(ada("DELETE", output), 409)
    ada("DELETE", second["url"], status=200)
    ada("GET", output, status=200)
    ada("DELETE", first["url"], status=200)
    assert start()["status"] == "QUEUED"


def test_a_run_without_outputs_that_is_reused_cannot_be_deleted(ada, count, app, wsgi):
    pipeline, _ = pipeline_of(ada, {"function": count})
    first = ada("POST", pipeline["runs"], {}, status=201).json
    claimed(app, wsgi)[0].finish()
    assert ada("POST", pipeline["runs"], {}, status=201).json["status"] == "FINISHED"
    is_problem(ada("DELETE", first["url"]), 409)
    ada("DELETE", pipeline["url"], status=200)


def test_a_pipeline_is_deleted_with_what_its_runs_reuse(start, three, execute, ada):
    start()
    execute()
    start()
    assert ada("DELETE", three["url"], status=200).json["deleted"]["runs"] == 2


def test_a_job_whose_inputs_get_other_tags_while_it_runs_answers_nothing(ada, count, file, app, wsgi):
    pipeline, _ = pipeline_of(ada, {"function": count})
    ada("POST", pipeline["runs"], {"files": [file]}, status=201)
    [runner] = claimed(app, wsgi)
    ada("PATCH", file, {"tags": {"a": 1}}, status=200)
    runner.finish("a.txt")
    ada("PATCH", file, {"tags": {}}, status=200)
    assert ada("POST", pipeline["runs"], {"files": [file]}, status=201).json["status"] == "QUEUED"


def test_every_run_of_a_grid_is_answered(ada, count, file, execute):
    pipeline, [task, _] = pipeline_of(ada, {"function": count}, {"function": count})
    axes = [{"tasks": [task["url"]], "option": "by", "values": [1, 2, 3]}]
    for expected in ({"QUEUED": 3}, {"FINISHED": 3}):
        grid = ada("POST", pipeline["runs"], {"files": [file], "grid": axes}, status=201).json
        runs = [run["status"] for run in ada("GET", pipeline["runs"]).json["items"][:3]]
        assert {status: runs.count(status) for status in runs} == expected, grid
        execute()


def test_the_answers_to_fifty_runs_of_a_grid_take_as_many_statements_as_those_to_two(ada, count, file, execute, wsgi):
    """The ids of their jobs are one parameter: drivers limit the number of parameters."""
    costs = []
    for size in (2, 50):
        pipeline, [task, _] = pipeline_of(ada, {"function": count}, {"function": count})
        axes = [{"tasks": [task["url"]], "option": "by", "values": [size * 100 + value for value in range(size)]}]
        body = {"files": [file], "grid": axes}
        ada("POST", pipeline["runs"], body, status=201)
        assert execute() == 2 * size
        with statements(wsgi) as seen:
            again = ada("POST", pipeline["runs"], body, status=201).json
        assert again["progress"]["statuses"] == {"FINISHED": size}
        costs.append((len(seen), max(map(values_of_one, seen))))
    assert costs[0] == costs[1]


def values_of_one(execution):
    """The number of values of one execution of a statement."""
    _, parameters = execution
    return len(parameters[0]) if isinstance(parameters, list) else len(parameters)


def test_an_answered_job_has_no_key(start, execute, ada, db):
    """So the search for the first job with a key reads one row, however many jobs it has answered."""
    start()
    execute()
    for _ in range(3):
        start()
    again = start(reuse=False)
    ada("POST", f"{again['url']}/cancel", status=200)
    db.execute(sa.update(Job).where(Job.run_id == again["id"]).values(reuse=True))
    db.commit()
    assert ada("POST", f"{again['url']}/retry", status=200).json["status"] == "FINISHED"
    keys = sa.select(Job.reuse_key, sa.func.count()).where(Job.reuse_key.is_not(None)).group_by(Job.reuse_key)
    assert [number for _, number in db.execute(keys)] == [1, 1, 1]


def test_a_run_that_is_being_deleted_answers_nothing(ada, count, file, execute, wsgi):
    """A start does not wait for the deletion, which could wait for it."""
    if wsgi.registry.database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    pipeline, _ = pipeline_of(ada, {"function": count})
    first = ada("POST", pipeline["runs"], {"files": [file]}, status=201).json
    execute()
    with wsgi.registry.database.writing() as db:
        db.execute(sa.text("SELECT id FROM runs WHERE id = :id FOR UPDATE"), {"id": first["id"]})
        run = ada("POST", pipeline["runs"], {"files": [file]}, status=201).json
        db.rollback()
    assert run["status"] == "QUEUED"


def test_a_waiting_job_reuses_when_it_is_queued(start, states, execute, db, ada):
    first = start()
    second = start(depends_on=[first["url"]])
    assert execute() == 3
    assert states(second) == ["FINISHED"] * 3
    assert db.scalars(sa.select(Job.reused_from_id).where(Job.run_id == second["id"]).order_by(Job.id)).all() == [
        job["id"] for job in ada("GET", first["jobs"]).json["items"]
    ]
