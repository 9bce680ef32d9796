"""Metrics over HTTP: what runners record, and series of at most a thousand points."""

import pytest

from mlapi.models.metrics import NAMES, numbers
from tests.support import Runner as HttpRunner
from tests.support import another_app, claimed, is_problem, pipeline_of


@pytest.fixture
def runner(ada, helloworld, app, wsgi):
    """The runner of the only job of a run."""
    pipeline, _ = pipeline_of(ada, {"function": helloworld})
    ada("POST", pipeline["runs"], {"files": []}, status=201)
    [runner] = claimed(app, wsgi)
    return runner


def point(step, value=0.5, name="loss", time=1_700_000_000.25):
    """A point, as a runner sends it."""
    return {"name": name, "value": value, "step": step, "time": time}


def put(runner, offset, points):
    """Record points."""
    return runner("PUT", f"{runner.url}/metrics?offset={offset}", {"points": points})


@pytest.fixture
def series(ada, runner):
    """A function that reads the series of the job."""

    def read(query=""):
        url = ada("GET", f"jobs/{runner.claim.job_id}").json["url"]
        return ada("GET", f"{url}/metrics{query}", status=200).json["series"]

    return read


def test_points_are_read_as_they_were_recorded(runner, series, ada, bob):
    assert series() == series("?name=loss") == []
    assert put(runner, 0, [point(1, 3), point(1, 9.5, "accuracy"), point(None, -1e300)]).json == {"offset": 3}
    accuracy, loss = series()
    last = {"number": 3, "step": None, "value": -1e300, "time": "2023-11-14T22:13:20.250000Z"}
    assert loss == {"name": "loss", "count": 2, "last": last, "points": []}
    assert accuracy["name"] == "accuracy"
    [named] = series("?name=loss")
    assert named == {**loss, "points": [{**last, "number": 1, "step": 1, "value": 3}, last]}
    assert series("?name=loss&after=1")[0]["points"] == [last]
    assert series("?name=loss&after=3")[0]["points"] == []
    assert series("?name=other") == []
    url = ada("GET", f"jobs/{runner.claim.job_id}").json["url"]
    is_problem(bob("GET", f"{url}/metrics"), 404)
    for query in ("points=0", "points=1001", "after=x", "points=1.5"):
        is_problem(ada("GET", f"{url}/metrics?{query}"), 422, query.partition("=")[0])


def test_points_are_appended_only_at_the_end(runner, series):
    assert put(runner, 0, [point(0), point(1)]).json == {"offset": 2}
    for offset in (0, 1, 3):
        assert is_problem(put(runner, offset, [point(0), point(1)]), 409)["offset"] == 2
    assert put(runner, 2, []).json == {"offset": 2}
    assert put(runner, 2, [point(2)]).json == {"offset": 3}
    assert [one["step"] for one in series("?name=loss")[0]["points"]] == [0, 1, 2]


def test_a_long_series_is_thinned_and_keeps_its_last_point(runner, series):
    for offset in range(0, 3000, 1000):
        put(runner, offset, [point(step) for step in range(offset, offset + 1000)])
    for most in (1, 2, 7, 999, 1000):
        [found] = series(f"?name=loss&points={most}")
        steps = [one["step"] for one in found["points"]]
        assert found["count"] == 3000
        assert most / 2 <= len(steps) <= most
        distance = -(-3000 // most)
        assert steps == list(range(2999, -1, -distance))[::-1], "the steps have the same distance"
    assert len(series("?name=loss")[0]["points"]) == 1000
    assert [one["step"] for one in series("?name=loss&after=2997")[0]["points"]] == [2997, 2998, 2999]


def test_the_number_of_points_is_limited(runner, app, wsgi, tmp_path):
    is_problem(put(runner, 0, [point(0)] * 1001), 422, "points")
    with another_app(wsgi, tmp_path, points_limit=3) as small:
        limited = HttpRunner(small, small.app, runner.claim)
        assert put(limited, 0, [point(0)] * 3).status_int == 200
        assert is_problem(put(limited, 3, [point(0)]), 409)["limit"] == 3
        assert limited("GET", limited.url).json["points_limit"] == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 201},
        {"name": "a\0"},
        {"name": 1},
        {"value": "1"},
        {"value": None},
        {"value": True},
        {"step": 1.5},
        {"step": True},
        {"step": 2**63},
        {"time": None},
        {"time": -1},
        {"time": 1e12},
        {"more": 1},
    ],
)
def test_a_wrong_point_is_an_error(wrong, runner, series):
    is_problem(put(runner, 0, [point(0), {**point(1), **wrong}]), 422, "points.1")
    assert series() == []
    for other in ([], "x", None):
        is_problem(put(runner, 0, [other]), 422, "points.0")


def test_the_numbers_of_the_report_are_metrics_without_a_step(runner, series, ada):
    put(runner, 0, [point(1, 3)])
    metrics = {"loss": 2, "robust": {"accuracy": 0.5, "at": {"0.1": 7}}, "name": "x", "good": True, "all": [1]}
    assert runner.report(metrics=metrics).status_int == 200
    assert ada("GET", f"jobs/{runner.claim.job_id}").json["metrics"] == metrics
    found = {one["name"]: (one["count"], one["last"]["step"], one["last"]["value"]) for one in series()}
    assert found == {"loss": (2, None, 2), "robust.accuracy": (1, None, 0.5), "robust.at.0.1": (1, None, 7)}
    ada("DELETE", ada("GET", f"jobs/{runner.claim.job_id}").json["run"], status=200)


def test_many_numbers_of_a_report_are_limited(runner, series):
    put(runner, 0, [point(1, name="last")])
    metrics = {**{f"m{number}": number for number in range(NAMES + 10)}, "x" * 201: 1, "last": 2}
    assert len(list(numbers(metrics))) == NAMES + 12
    assert runner.report(metrics=metrics).status_int == 200
    found = {one["name"]: one["count"] for one in series()}
    assert len(found) == NAMES
    assert (found["last"], found["m0"], found[f"m{NAMES - 2}"]) == (2, 1, 1)


def test_the_number_of_names_is_limited(runner, series):
    many = [point(1, name=f"m{number}") for number in range(NAMES)]
    put(runner, 0, many[1:])
    assert is_problem(put(runner, NAMES - 1, [point(1, name="m0"), point(1, name="other")]), 409)["limit"] == NAMES
    assert put(runner, NAMES - 1, [point(1, name="m0"), point(2, name="m1")]).json == {"offset": NAMES + 1}
    assert is_problem(put(runner, NAMES + 1, [point(1)]), 409)["limit"] == NAMES
    assert len(series()) == NAMES


def test_earlier_attempts_keep_their_metrics(runner, series, ada, bob, app, wsgi):
    put(runner, 0, [point(1, 3)])
    runner.report("FAILED")
    url = ada("GET", f"jobs/{runner.claim.job_id}").json["url"]
    ada("POST", f"{url}/retry", status=200)
    [again] = claimed(app, wsgi)
    put(again, 0, [point(1, 4)])
    for number, value in ((1, 3), (2, 4)):
        attempt = ada("GET", f"{url}/attempts/{number}").json
        [found] = ada("GET", f"{attempt['metrics']}?name=loss", status=200).json["series"]
        assert [one["value"] for one in found["points"]] == [value]
        is_problem(bob("GET", attempt["metrics"]), 404)
    assert series()[0]["last"]["value"] == 4
    is_problem(ada("GET", f"{url}/attempts/3/metrics"), 404)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_a_value_that_is_no_finite_number_is_an_error(value, runner, series):
    body = f'{{"points": [{{"name": "a", "value": {value}, "step": 1, "time": 1}}]}}'.encode()
    headers = {"Content-Type": "application/json"}
    is_problem(runner("PUT", f"{runner.url}/metrics?offset=0", body=body, headers=headers), 400)
    assert series() == []


def test_a_huge_cursor_is_after_all_points_or_an_error(runner, series, ada):
    put(runner, 0, [point(1)])
    [found] = series(f"?name=loss&after={2**63 - 1}")
    assert (found["count"], found["points"]) == (1, [])
    url = ada("GET", f"jobs/{runner.claim.job_id}").json["url"]
    for after in (2**63, 10**30, -1):
        is_problem(ada("GET", f"{url}/metrics?name=loss&after={after}"), 422, "after")
