"""Reruns: new runs of the jobs that an earlier run had."""

import pytest

from mlapi import check
from tests.support import API, claimed, is_problem, pipeline_of

KEPT = ("function", "arguments", "timeout", "queue", "priority", "attempt_limit", "resources", "patterns", "retry_on")


@pytest.fixture(autouse=True)
def invariants_hold(wsgi, app):
    """Check the invariants at the end of every test."""
    yield
    with wsgi.registry.database.reading() as db:
        assert list(check.of_tables(db)) == []


@pytest.fixture
def files(ada):
    return [ada.upload(name, b"a", status=201).json["url"] for name in ("a.txt", "b.txt")]


@pytest.fixture
def graph(ada, helloworld):
    """A pipeline of three tasks, of which the last takes the outputs of both others, and its tasks."""
    how = {"timeout": 7, "attempts": 2, "priority": 3, "resources": {"cpus": 1}, "retry_on": [75]}
    pipeline, tasks = pipeline_of(
        ada, {"function": helloworld, "arguments": {"excited": True}, **how}, {"function": helloworld, "after": []}
    )
    after = [task["url"] for task in tasks]
    last = {"function": helloworld, "after": after, "inputs": {after[0]: ["*.txt"]}}
    return pipeline, [*tasks, ada("POST", pipeline["tasks"], last, status=201).json]


@pytest.fixture
def run(ada, graph, files):
    return ada("POST", graph[0]["runs"], {"files": files[:1]}, status=201).json


@pytest.fixture
def jobs(ada):
    """The documents of the jobs of a run."""
    return lambda run: [ada("GET", job["url"]).json for job in ada("GET", run["jobs"]).json["items"]]


def test_has_the_jobs_of_the_run_and_not_the_tasks_of_today(run, graph, jobs, ada, helloworld):
    pipeline, tasks = graph
    ada("DELETE", tasks[2]["url"], status=200)
    ada("PATCH", tasks[0]["url"], {"arguments": {"greeting": "Bye"}, "timeout": 9, "priority": 0}, status=200)
    ada("POST", pipeline["tasks"], {"function": helloworld}, status=201)
    ada("POST", pipeline["tasks"], {"function": helloworld}, status=201)
    answer = ada("POST", f"{run['url']}/rerun", {}, status=201)
    again = answer.json
    assert answer.headers["Location"] == again["url"] != run["url"]
    assert (again["rerun_of"], again["files"], again["changes"]) == (run["url"], run["files"], None)
    assert ada("GET", run["url"]).json["rerun_of"] is None
    old, new = jobs(run), jobs(again)
    assert [{name: job[name] for name in KEPT} for job in old] == [{name: job[name] for name in KEPT} for job in new]
    positions = {job["url"]: job["position"] for job in [*old, *new]}
    assert [[positions[url] for url in job["after"]] for job in new] == [[], [], [1, 2]]
    assert [job["task"] for job in new] == [tasks[0]["url"], tasks[1]["url"], None]
    assert [job["status"] for job in new] == ["QUEUED", "QUEUED", "PENDING"]
    assert new[0]["inputs"] == run["files"]


def test_with_other_files_arguments_and_priority(run, files, jobs, ada):
    change = {"position": 1, "arguments": {"greeting": "Bye"}}
    body = {"files": files, "jobs": [change], "priority": 5}
    again = ada("POST", f"{run['url']}/rerun", body, status=201).json
    assert again["files"] == files
    assert again["changes"]["jobs"] == [change]
    assert jobs(again)[0]["arguments"] == {"excited": True, "greeting": "Bye"}
    assert [job["priority"] for job in jobs(again)] == [5, 5, 5]
    third = ada("POST", f"{again['url']}/rerun", {}, status=201).json
    assert jobs(third)[0]["arguments"] == jobs(again)[0]["arguments"]


def test_in_another_queue(run, jobs, ada, root):
    queue = root("POST", "queues", {"name": "gpu"}, status=201).json["url"]
    again = ada("POST", f"{run['url']}/rerun", {"queue": queue}, status=201).json
    assert {job["queue"] for job in jobs(again)} == {queue}
    root("PUT", f"{queue}/lock", status=200)
    is_problem(ada("POST", f"{again['url']}/rerun", {}), 409)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"jobs": [{"position": 4}, {"position": 0}]}, ["jobs.0.position", "jobs.1.position"]),
        ({"jobs": [{"position": 1}, {"position": 1}]}, ["jobs.1.position"]),
        ({"jobs": [{"arguments": {}}]}, ["jobs.0.position"]),
        ({"files": [f"{API}/users/ada/files/9999999"]}, ["files.0"]),
        ({"depends_on": [f"{API}/jobs/9999999"]}, ["depends_on.0"]),
        ({"queue": f"{API}/queues/nothing"}, ["queue"]),
        ({"jobs": [{"position": 2, "queue": f"{API}/queues/nothing"}]}, ["jobs.0.queue"]),
        ({"files": "x"}, ["files"]),
    ],
)
def test_a_bad_request_names_its_errors(body, fields, run, ada):
    is_problem(ada("POST", f"{run['url']}/rerun", body), 422, *fields)


def test_arguments_fit_the_function_of_then(run, ada):
    problem = is_problem(
        ada("POST", f"{run['url']}/rerun", {"jobs": [{"position": 2, "arguments": {"excited": 1}}]}), 422
    )
    assert [error["name"] for error in problem["errors"]] == ["jobs.0.arguments.excited"]


def test_requires_an_enabled_pipeline(run, graph, ada):
    ada("PATCH", graph[0]["url"], {"enabled": False}, status=200)
    is_problem(ada("POST", f"{run['url']}/rerun", {}), 409)


def test_a_repeated_idempotency_key_returns_the_same_run(run, ada):
    key = {"Idempotency-Key": "k"}
    again = [ada("POST", f"{run['url']}/rerun", {}, headers=key, status=status).json["id"] for status in (201, 200)]
    assert again[0] == again[1]
    is_problem(ada("POST", f"{run['url']}/rerun", {"priority": 1}, headers=key), 409)


def test_outlives_the_run_that_it_repeats(run, ada, app, wsgi):
    again = ada("POST", f"{run['url']}/rerun", {}, status=201).json
    ada("POST", f"{run['url']}/cancel", status=200)
    ada("DELETE", run["url"], status=200)
    assert ada("GET", again["url"]).json["rerun_of"] is None
    assert len(claimed(app, wsgi, 9)) == 2


def test_reuses_results_where_that_is_wanted(run, ada, app, wsgi):
    for _ in range(2):
        for runner in claimed(app, wsgi, 9):
            runner.finish("a.txt")
    assert ada("POST", f"{run['url']}/rerun", {}, status=201).json["status"] == "QUEUED"
    assert ada("POST", f"{run['url']}/rerun", {"reuse": True}, status=201).json["status"] == "FINISHED"


def test_its_changes_take_precedence_over_those_of_the_run(run, graph, ada, jobs, app, wsgi):
    for _ in range(2):
        for runner in claimed(app, wsgi, 9):
            runner.finish("a.txt")
    frozen = ada("POST", graph[0]["runs"], {"files": run["files"], "reuse": False, "priority": 4}, status=201).json
    assert {job["status"] for job in jobs(frozen)} == {"QUEUED", "PENDING"}
    again = ada("POST", f"{frozen['url']}/rerun", {"reuse": True, "priority": None}, status=201).json
    assert (again["status"], again["changes"]) == ("FINISHED", {"reuse": True, "priority": None})
    assert {job["priority"] for job in jobs(again)} == {0}
    part = {"reuse": True, "jobs": [{"position": 2, "reuse": None}]}
    states = [job["status"] for job in jobs(ada("POST", f"{frozen['url']}/rerun", part, status=201).json)]
    assert states == ["FINISHED", "QUEUED", "PENDING"]
