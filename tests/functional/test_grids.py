"""Grids: one run for each combination of values of arguments."""

from collections import Counter

import pytest
import sqlalchemy as sa

from mlapi import check
from mlapi.models import Job, JobInput, Run, runs
from tests.functional.test_statements import statements
from tests.support import claimed, is_problem, pipeline_of


@pytest.fixture
def file(ada):
    """The URL of a file of ada."""
    return ada.upload("a.txt", b"a", status=201).json["url"]


@pytest.fixture
def pipeline(ada, helloworld):
    """A pipeline of three tasks, one after the other."""
    return pipeline_of(ada, *({"function": helloworld} for _ in range(3)))


@pytest.fixture
def start(ada, file, pipeline):
    """A function that starts a grid of the pipeline; axes are `(positions, option, values)`."""

    def started(*axes, status=201, headers=None, **body):
        grid = [
            {"tasks": [pipeline[1][position - 1]["url"] for position in positions], "option": option, "values": values}
            for positions, option, values in axes
        ]
        body = {"files": [file], "grid": grid, **body}
        return ada("POST", pipeline[0]["runs"], body, status=status, headers=headers or {})

    return started


def runs_of(client, grid):
    """The documents of the runs of a grid, oldest first."""
    listed = client("GET", f"{grid['runs']}?limit=200", status=200).json["items"]
    return [client("GET", run["url"]).json for run in reversed(listed)]


def test_has_one_run_for_each_combination(ada, pipeline, start, file):
    answer = start(([1, 3], "greeting", ["Hi", "Yo"]), ([3], "excited", [False, True]), priority=4)
    grid, url = answer.json, pipeline[0]["url"]
    assert answer.headers["Location"] == grid["url"]
    assert grid == {
        "id": grid["id"],
        "url": f"{url}/grids/{grid['id']}",
        "pipeline": url,
        "created": grid["created"],
        "axes": [
            {"tasks": [pipeline[1][0]["url"], pipeline[1][2]["url"]], "option": "greeting", "values": ["Hi", "Yo"]},
            {"tasks": [pipeline[1][2]["url"]], "option": "excited", "values": [False, True]},
        ],
        "runs": f"{grid['url']}/runs",
        "progress": {"runs": 4, "over": 0, "statuses": {"QUEUED": 4}},
        "warnings": ["No scheduler is running."],
    }
    assert ada("GET", grid["url"], status=200).json == grid
    del grid["progress"], grid["warnings"]
    assert ada("GET", pipeline[0]["grids"], status=200).json["items"] == [grid]
    chosen = []
    for run in runs_of(ada, grid):
        jobs = [ada("GET", job["url"]).json for job in ada("GET", run["jobs"]).json["items"]]
        assert (run["grid"], run["files"], [job["status"] for job in jobs]) == (
            grid["url"],
            [file],
            ["QUEUED", "PENDING", "PENDING"],
        )
        assert [job["inputs"] for job in jobs] == [[file], [], []]
        assert [job["after"] for job in jobs] == [[], [jobs[0]["url"]], [jobs[1]["url"]]]
        assert jobs[1]["arguments"] == {"greeting": "Hello", "excited": False}
        assert jobs[0]["arguments"] == {"greeting": jobs[2]["arguments"]["greeting"], "excited": False}
        assert run["changes"] == {
            "priority": 4,
            "jobs": [
                {"position": 1, "arguments": {"greeting": jobs[0]["arguments"]["greeting"]}},
                {"position": 3, "arguments": jobs[2]["arguments"]},
            ],
        }
        chosen.append(tuple(jobs[2]["arguments"].values()))
    assert chosen == [("Hi", False), ("Hi", True), ("Yo", False), ("Yo", True)]


def test_its_changes_apply_to_all_combinations(ada, pipeline, start):
    change = {"task": pipeline[1][0]["url"], "arguments": {"excited": True}, "timeout": 7}
    grid = start(([1], "greeting", ["a", "b"]), tasks=[change]).json
    for run, greeting in zip(runs_of(ada, grid), "ab", strict=True):
        job = ada("GET", ada("GET", run["jobs"]).json["items"][0]["url"]).json
        assert (job["arguments"], job["timeout"]) == ({"greeting": greeting, "excited": True}, 7)
        changed = {"position": 1, "arguments": {"excited": True, "greeting": greeting}, "timeout": 7}
        assert run["changes"] == {"jobs": [changed]}


@pytest.mark.parametrize(
    ("axes", "fields"),
    [
        ([([1], "no", ["a"])], ["grid.0.option"]),
        ([([1], "greeting", ["a", 1, None])], ["grid.0.values.1", "grid.0.values.2"]),
        ([([1], "greeting", [])], ["grid.0.values"]),
        ([([], "greeting", ["a"])], ["grid.0.tasks"]),
        ([([1], "greeting", ["a"]), ([2, 1], "greeting", ["b"])], ["grid.1.option"]),
        ([([1, 1], "greeting", ["a"])], ["grid.0.option"]),
        ([([1], "greeting", ["a"] * 1001)], ["grid.0.values"]),
        ([([1], "greeting", ["a"] * 101), ([2], "greeting", ["a"] * 10)], ["grid"]),
        ([([1], "greeting", ["a"])] * 11, ["grid"]),
        ([], ["grid"]),
        ([([1], "greeting", ["a", 1] * 20), ([2], "greeting", [1] * 50)], ["grid"]),
        ([([1, 1], "greeting", [1])], ["grid.0.option", "grid.0.values.0"]),
    ],
)
def test_rejects_axes_that_do_not_fit(axes, fields, ada, pipeline, start):
    is_problem(start(*axes, status=422), 422, *fields)
    assert ada("GET", pipeline[0]["grids"]).json["items"] == ada("GET", pipeline[0]["runs"]).json["items"] == []


def test_rejects_tasks_of_other_pipelines_and_other_shapes(ada, pipeline, helloworld, start):
    _, [other] = pipeline_of(ada, {"function": helloworld})
    foreign = {"tasks": [other["url"], f"{pipeline[0]['tasks']}/{other['id']}"], "option": "greeting", "values": ["a"]}
    is_problem(start(status=422, grid=[foreign]), 422, "grid.0.tasks.0", "grid.0.tasks.1")
    is_problem(start(status=422, grid={"greeting": ["a"]}), 422, "grid")
    is_problem(start(status=422, grid=[{"option": "greeting", "values": ["a"]}]), 422, "grid.0.tasks")
    is_problem(start(status=422, grid=[{**foreign, "more": 1}]), 422, "grid.0.more")


def test_is_limited_in_rows(ada, pipeline, file, start, monkeypatch):
    problem = is_problem(start(([1], "greeting", ["a"] * 1000), status=422, files=[file] * 200), 422, "grid")
    rows = 1000 * (3 + 2 + 200 + 200)
    assert problem["errors"][0]["description"].startswith(f"Would create {rows} jobs, files, inputs, parents and")
    monkeypatch.setattr(runs, "ROWS", 2 * (3 + 2 + 1 + 1))
    start(([1], "greeting", ["a", "b"]))
    is_problem(start(([1], "greeting", ["a", "b", "c"]), status=422), 422, "grid")


def test_is_limited_in_jobs(ada, pipeline, start, monkeypatch):
    monkeypatch.setattr(runs, "JOBS", 3 * 2)
    start(([1], "greeting", ["a", "b"]))
    problem = is_problem(start(([1], "greeting", ["a", "b", "c"]), status=422), 422, "grid")
    assert problem["errors"][0]["description"] == "Would create 9 jobs; at most 6 are possible."


def test_a_run_or_a_rerun_is_limited_in_the_jobs_on_which_it_depends(ada, helloworld, monkeypatch):
    """A dependency on a run is one on each of its last jobs."""
    wide, _ = pipeline_of(ada, *({"function": helloworld, "after": []} for _ in range(4)))
    earlier = ada("POST", wide["runs"], {}, status=201).json
    monkeypatch.setattr(runs, "ROWS", 4 + 4 * 4)
    later = ada("POST", wide["runs"], {"depends_on": [earlier["url"]]}, status=201).json
    monkeypatch.setattr(runs, "ROWS", 4 + 4 * 4 - 1)
    is_problem(ada("POST", wide["runs"], {"depends_on": [earlier["url"]]}), 422, "depends_on")
    is_problem(ada("POST", f"{later['url']}/rerun", {"depends_on": [earlier["url"]]}), 422, "depends_on")


def test_is_limited_in_bytes(ada, pipeline, start):
    """The arguments of a task are those of a job in every run."""
    large = {"task": pipeline[1][1]["url"], "arguments": {"greeting": "x" * 60_000}}
    problem = is_problem(start(([1], "greeting", ["a"] * 1000), status=422, tasks=[large]), 422, "grid")
    assert problem["errors"][0]["description"].endswith(f"at most {64 * 2**20} bytes.")
    assert ada("GET", pipeline[0]["grids"]).json["items"] == []


def test_an_idempotency_key_covers_the_grid(ada, pipeline, start, file):
    key, axis = {"Idempotency-Key": "k"}, ([1], "greeting", ["a", "b"])
    made = start(axis, headers=key)
    ada("PATCH", pipeline[0]["url"], {"enabled": False}, status=200)
    again = start(axis, status=200, headers=key)
    assert again.json == made.json
    assert len(ada("GET", pipeline[0]["runs"]).json["items"]) == 2
    is_problem(start(([1], "greeting", ["a", "c"]), status=409, headers=key), 409)
    is_problem(start(axis, status=409, headers=key, priority=1), 409)
    is_problem(ada("POST", pipeline[0]["runs"], {"files": [file]}, headers=key), 409)


def test_is_cancelled_as_one(ada, start, app, wsgi):
    grid = start(([1], "greeting", ["a", "b", "c"])).json
    one, two = claimed(app, wsgi, 2)
    one.report("FAILED")
    cancelled = ada("POST", f"{grid['url']}/cancel", status=200).json
    assert cancelled["progress"] == {"runs": 3, "over": 2, "statuses": {"FAILED": 1, "RUNNING": 1, "CANCELLED": 1}}
    assert two("POST", f"{two.url}/heartbeat", {}, status=200).json == {"cancel": True}
    two.report("CANCELLED")
    assert ada("GET", grid["url"]).json["progress"]["statuses"] == {"FAILED": 1, "CANCELLED": 2}
    is_problem(ada("POST", f"{grid['url']}/cancel"), 409)


def test_is_deleted_with_its_runs(ada, pipeline, start, wsgi):
    grid, other = (start(([1], "greeting", ["a", "b"])).json for _ in range(2))
    is_problem(ada("DELETE", grid["url"]), 409)
    ada("POST", f"{grid['url']}/cancel", status=200)
    ada("DELETE", runs_of(ada, grid)[0]["url"], status=200)
    assert ada("GET", grid["url"]).json["progress"]["runs"] == 1
    assert ada("DELETE", grid["url"], status=200).json["deleted"] == {"grids": 1, "runs": 1, "jobs": 3, "files": 0}
    is_problem(ada("GET", grid["url"]), 404)
    assert [grid["id"] for grid in ada("GET", pipeline[0]["grids"]).json["items"]] == [other["id"]]
    ada("POST", f"{other['url']}/cancel", status=200)
    assert ada("DELETE", pipeline[0]["url"], status=200).json["deleted"]["grids"] == 1
    with wsgi.registry.database.reading() as db:
        assert list(check.of_tables(db)) == []


def test_the_start_of_a_thousand_runs_executes_as_many_statements_as_that_of_two(ada, pipeline, start, wsgi, db):
    costs = []
    for number in (2, 1000):
        with statements(wsgi) as seen:
            grid = start(([1], "greeting", [str(value) for value in range(number)])).json
        costs.append(len(seen))
        assert grid["progress"]["runs"] == number
        of_grid = sa.select(Job.arguments, Job.position, JobInput.number).outerjoin(JobInput).join(Run)
        rows = db.execute(of_grid.where(Run.grid_id == grid["id"]).order_by(Run.id, Job.position)).all()
        assert Counter((row.position, row.number) for row in rows) == {
            (1, 1): number,
            (2, None): number,
            (3, None): number,
        }
        assert [row.arguments["greeting"] for row in rows[::3]] == [str(value) for value in range(number)]
        db.rollback()
    assert costs[0] == costs[1] <= 26


def test_is_listed_for_its_owner_only(ada, bob, start):
    grid = start(([1], "greeting", ["a"])).json
    for url in (grid["url"], grid["runs"], grid["pipeline"] + "/grids"):
        is_problem(bob("GET", url), 404)
    is_problem(bob("POST", f"{grid['url']}/cancel"), 404)
