"""Dependencies between runs: the first jobs of a run wait for jobs of older runs."""

import pytest

from mlapi import check
from tests.functional.test_statements import statements
from tests.support import API, Client, claimed, is_problem, pipeline_of


@pytest.fixture(autouse=True)
def invariants_hold(wsgi, app):
    """Check the invariants at the end of every test."""
    yield
    with wsgi.registry.database.reading() as db:
        assert list(check.of_tables(db)) == []


@pytest.fixture
def file(ada):
    return ada.upload("a.txt", b"a", status=201).json["url"]


@pytest.fixture
def start(ada, file, helloworld):
    """Start a run of two jobs, one after the other, that depends on others."""
    pipeline, _ = pipeline_of(ada, {"function": helloworld}, {"function": helloworld})

    def started(*named, status=201):
        body = {"files": [file], "depends_on": list(named)}
        return ada("POST", pipeline["runs"], body, status=status)

    return started


@pytest.fixture
def jobs(ada):
    """The documents of the jobs of a run."""
    return lambda run: [ada("GET", job["url"]).json for job in ada("GET", run["jobs"]).json["items"]]


@pytest.fixture
def states(jobs):
    return lambda run: [job["status"] for job in jobs(run)]


def test_a_run_starts_when_the_run_on_which_it_depends_has_finished(start, jobs, states, app, wsgi):
    first = start().json
    second = start(first["url"]).json
    assert states(second) == ["PENDING", "PENDING"]
    assert jobs(second)[0]["depends_on"] == [jobs(first)[1]["url"]]
    for _ in range(2):
        assert states(second) == ["PENDING", "PENDING"]
        [runner] = claimed(app, wsgi, 9)
        runner.finish("a.txt")
    assert states(second) == ["QUEUED", "PENDING"]
    assert jobs(second)[0]["inputs"] == jobs(first)[0]["inputs"]


def test_a_run_waits_for_single_jobs_and_for_several_runs(start, jobs, states, app, wsgi):
    first, second = start().json, start().json
    third = start(jobs(first)[0]["url"], f"{API}/jobs/{jobs(second)[0]['id']}", second["url"]).json
    assert len(jobs(third)[0]["depends_on"]) == 3
    for runner in claimed(app, wsgi, 2):
        runner.finish("a.txt")
        assert states(third) == ["PENDING", "PENDING"]
    [_, last] = claimed(app, wsgi, 2)
    assert last.claim.job_id == jobs(second)[1]["id"]
    last.finish("a.txt")
    assert states(third) == ["QUEUED", "PENDING"]


def test_a_run_that_depends_on_a_finished_run_is_queued_at_once(start, states, app, wsgi):
    first = start().json
    for _ in range(2):
        claimed(app, wsgi)[0].finish("a.txt")
    assert states(start(first["url"]).json) == ["QUEUED", "PENDING"]


@pytest.mark.parametrize("end", ["FAILED", "cancelled run", "cancelled job"])
def test_what_depends_on_a_job_that_did_not_finish_is_cancelled_with_the_reason(
    end, start, jobs, states, ada, app, wsgi
):
    first = start().json
    second = start(first["url"]).json
    third = start(second["url"]).json
    if end == "FAILED":
        claimed(app, wsgi)[0].report("FAILED", reason="broken")
    else:
        ada("POST", f"{first['url'] if end == 'cancelled run' else jobs(first)[0]['url']}/cancel", status=200)
    assert states(second) == states(third) == ["CANCELLED", "CANCELLED"]
    before = jobs(first)[1]["id"]
    reason = f"Not run: job {before} (say_hello), on which it depends, is CANCELLED."
    assert jobs(second)[0]["reason"] == reason
    assert f"job {jobs(second)[1]['id']} " in jobs(third)[0]["reason"]


@pytest.mark.parametrize("end", ["FAILED", "CANCELLED"])
def test_a_run_cannot_depend_on_a_job_that_did_not_finish(end, start, jobs, states, app, wsgi, ada):
    first = start().json
    claimed(app, wsgi)[0].report(end)
    for url in (first["url"], jobs(first)[0]["url"]):
        problem = is_problem(start(url, status=409), 409)
        assert f"Job {jobs(first)[0]['id']} of `depends_on` is {end}" in problem["detail"]
    ada("POST", f"{first['url']}/retry", status=200)
    assert states(start(first["url"]).json) == ["PENDING", "PENDING"]


def test_only_own_runs_and_jobs_can_be_dependencies(start, ada, bob, root, file, helloworld):
    pipeline, _ = pipeline_of(bob, {"function": helloworld})
    foreign = bob("POST", pipeline["runs"], {}, status=201).json
    job = bob("GET", foreign["jobs"]).json["items"][0]
    urls = [foreign["url"], job["url"], f"{API}/runs/{foreign['id']}", f"{API}/jobs/{job['id']}", f"{API}/jobs/9999999"]
    named = [f"depends_on.{index}" for index in range(len(urls))]
    is_problem(start(*urls, status=422), 422, *named)
    is_problem(start(file, "x", status=422), 422, "depends_on.0", "depends_on.1")
    own = start().json
    is_problem(start(*[own["url"]] * 101, status=422), 422, "depends_on")


def test_a_url_below_another_pipeline_or_run_is_no_dependency(start, jobs, ada, helloworld):
    one, two = start().json, start().json
    other, _ = pipeline_of(ada, {"function": helloworld})
    job = jobs(one)[0]["url"]
    urls = [
        one["url"].replace(one["pipeline"], other["url"]),
        one["url"].replace(one["pipeline"], f"{API}/users/ada/pipelines/9999999"),
        job.replace(one["url"], two["url"]),
        job.replace(one["pipeline"], other["url"]),
    ]
    for url in urls:
        is_problem(ada("GET", url), 404)
    is_problem(start(*urls, status=422), 422, *(f"depends_on.{index}" for index in range(len(urls))))
    start(one["url"], job, status=201)


def test_a_waiting_run_can_be_cancelled_and_deleted(start, states, ada, app, wsgi):
    first = start().json
    second = start(first["url"]).json
    ada("POST", f"{second['url']}/cancel", status=200)
    assert states(second) == ["CANCELLED", "CANCELLED"]
    ada("DELETE", second["url"], status=200)
    third = start(first["url"]).json
    ada("POST", f"{first['url']}/cancel", status=200)
    ada("DELETE", first["url"], status=200)
    ada("POST", f"{third['url']}/retry", status=200)
    assert states(third) == ["QUEUED", "PENDING"]


def test_dependencies_belong_to_the_request_of_an_idempotency_key(ada, file, helloworld):
    pipeline, _ = pipeline_of(ada, {"function": helloworld})
    first = ada("POST", pipeline["runs"], {}, status=201).json
    key = {"Idempotency-Key": "k"}
    body = {"depends_on": [first["url"]]}
    again = [ada("POST", pipeline["runs"], body, headers=key, status=status).json["id"] for status in (201, 200)]
    assert again[0] == again[1]
    is_problem(ada("POST", pipeline["runs"], {}, headers=key), 409)


def test_every_run_of_a_grid_waits(ada, start, states, file, helloworld):
    first = start().json
    pipeline, [task] = pipeline_of(ada, {"function": helloworld})
    axes = [{"tasks": [task["url"]], "option": "greeting", "values": ["a", "b"]}]
    body = {"files": [file], "grid": axes, "depends_on": [first["url"]]}
    ada("POST", pipeline["runs"], body, status=201)
    runs = ada("GET", pipeline["runs"]).json["items"]
    assert [states(run) for run in runs] == [["PENDING"], ["PENDING"]]
    ada("POST", f"{first['url']}/cancel", status=200)
    assert [states(run) for run in runs] == [["CANCELLED"], ["CANCELLED"]]


@pytest.mark.parametrize("end", ["FINISHED", "FAILED"])
def test_the_end_of_a_job_takes_as_many_statements_for_fifty_dependent_runs_as_for_two(
    end, ada, start, states, file, helloworld, app, wsgi
):
    pipeline, [task, _] = pipeline_of(ada, {"function": helloworld}, {"function": helloworld})
    costs, after = [], {"FINISHED": ["QUEUED", "PENDING"], "FAILED": ["CANCELLED", "CANCELLED"]}[end]
    for size in (2, 50):
        first = start().json
        claimed(app, wsgi)[0].finish("a.txt")
        axes = [{"tasks": [task["url"]], "option": "greeting", "values": [str(value) for value in range(size)]}]
        body = {"files": [file], "grid": axes, "depends_on": [first["url"]]}
        runs = ada("POST", pipeline["runs"], body, status=201).json["runs"]
        last = start(ada("GET", runs).json["items"][0]["url"]).json
        [runner] = claimed(app, wsgi)
        with statements(wsgi) as seen:
            runner.report(end)
        costs.append(len(seen))
        assert [states(run) for run in ada("GET", f"{runs}?limit=100").json["items"]] == [after] * size
        assert states(last) == (["PENDING", "PENDING"] if end == "FINISHED" else after)
        claimed(app, wsgi, 100)
    assert costs[0] == costs[1]


def test_a_run_that_waits_for_two_is_advanced_after_both(start, states, ada, app, wsgi):
    """Two ways of different length lead from the first run to the last."""
    first = start().json
    middle = start(first["url"]).json
    last = start(first["url"], middle["url"]).json
    for _ in range(2):
        claimed(app, wsgi)[0].finish("a.txt")
    assert (states(middle), states(last)) == (["QUEUED", "PENDING"], ["PENDING", "PENDING"])
    ada("POST", f"{middle['url']}/cancel", status=200)
    assert states(last) == ["CANCELLED", "CANCELLED"]
    ada("POST", f"{middle['url']}/retry", status=200)
    assert (states(middle), states(last)) == (["QUEUED", "PENDING"], ["PENDING", "PENDING"])


def test_two_runs_that_end_at_once_start_the_one_that_waits_for_both(start, states, app, wsgi):
    """On PostgreSQL, the second of two concurrent reports sees the first: both lock the dependent run."""
    from tests.races import at_once

    runs = [start().json, start().json]
    third = start(*(run["url"] for run in runs)).json
    for runner in claimed(app, wsgi, 2):
        runner.finish("a.txt")
    last = claimed(app, wsgi, 2)
    for runner in last:
        runner.app = Client(app).app
    answers = at_once([lambda runner=runner: runner.report() for runner in last], 2)
    assert [answer.status_int for answer in answers] == [200, 200]
    assert states(third) == ["QUEUED", "PENDING"]
