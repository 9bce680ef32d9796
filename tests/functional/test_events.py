"""Events: who did what to a run and its jobs, and when; a reader misses none."""

import pytest
import sqlalchemy as sa

from mlapi.models import events
from tests.support import claimed, is_problem, pipeline_of


@pytest.fixture
def started(ada, helloworld):
    """A function that starts a run of two tasks, one after the other."""

    def start():
        pipeline, _ = pipeline_of(ada, {"function": helloworld}, {"function": helloworld})
        file = ada.upload("a.txt", b"Ada", status=201).json["url"]
        return ada("POST", pipeline["runs"], {"files": [file]}, status=201).json

    return start


def summary(items):
    """The actors and actions of events, and the statuses to which jobs have moved."""
    return [(event["actor"], event["action"], event["data"].get("status")) for event in items]


def of(client, resource, query=""):
    """The events of a resource."""
    return client("GET", f"{resource['events']}{query}", status=200).json["items"]


def test_a_run_lists_all_its_changes_and_who_made_them(ada, app, wsgi, started):
    run = started()
    [runner] = claimed(app, wsgi)
    runner.finish("made.txt")
    url = ada("GET", run["jobs"]).json["items"][1]["url"]
    ada("POST", f"{url}/cancel", status=200)
    found = of(ada, run)
    first, second = runner.claim.job_id, int(url.rpartition("/")[2])
    assert summary(found) == [
        ("user:ada", "create", None),
        ("service", "move", "RUNNING"),
        (f"attempt:{runner.claim.attempt_id}", "output", None),
        (f"attempt:{runner.claim.attempt_id}", "move", "FINISHED"),
        (f"attempt:{runner.claim.attempt_id}", "move", "QUEUED"),
        ("user:ada", "cancel", None),
        ("user:ada", "move", "CANCELLED"),
    ]
    assert [event["subject"].rpartition("/")[2] for event in found] == [
        str(number) for number in (run["id"], first, first, first, second, second, second)
    ]
    assert found[1]["data"] == {"status": "RUNNING", "attempt": 1, "reason": None}
    assert found[2]["data"] == {"files": 1}
    assert found[-1]["data"]["reason"] == "Cancelled before it ran."
    assert of(ada, ada("GET", url).json) == found[4:]


def test_events_are_read_on_from_a_number(ada, app, wsgi, started):
    run = started()
    claimed(app, wsgi)
    other = started()
    everything = of(ada, run)
    assert of(ada, run, f"?after={everything[0]['number']}") == everything[1:]
    assert of(ada, run, f"?after={everything[-1]['number']}") == []
    assert of(ada, run, "?after=9000000000000000000") == []
    page = ada("GET", f"{run['events']}?limit=1").json
    assert page["items"] == everything[:1]
    assert ada("GET", page["next"]).json == {"items": everything[1:], "next": None}
    assert summary(of(ada, other)) == [("user:ada", "create", None)]
    for query in ("after=-1", "after=x", "limit=0", "limit=201"):
        is_problem(ada("GET", f"{run['events']}?{query}"), 422, query.partition("=")[0])


def test_an_event_that_is_committed_late_is_not_missed(ada, wsgi, started):
    run, database = started(), wsgi.registry.database
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    last = of(ada, run)[-1]["number"]
    with database.acting("first") as first, database.acting("second") as second:
        events.record(first, "noted", "run", run["id"], run["id"])
        events.record(second, "noted", "run", run["id"], run["id"])
        second.commit()
        assert of(ada, run, f"?after={last}") == [], "the first one may still appear before the second"
        first.commit()
    assert [event["actor"] for event in of(ada, run, f"?after={last}")] == ["first", "second"]


def test_an_event_with_a_lower_number_that_is_committed_later_is_read_after_the_others(ada, wsgi, started):
    run, database = started(), wsgi.registry.database
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    last = of(ada, run)[-1]["number"]
    with database.acting("early") as early, database.acting("late") as late:
        early.execute(sa.select(events.transaction_id()))
        events.record(late, "noted", "run", run["id"], run["id"])
        events.record(early, "noted", "run", run["id"], run["id"])
        early.commit()
        [first] = of(ada, run, f"?after={last}")
        late.commit()
    [second] = of(ada, run, f"?after={first['number']}")
    assert (first["actor"], second["actor"]) == ("early", "late")
    assert second["number"] < first["number"]


def test_a_cancellation_that_is_refused_leaves_no_event(ada, started):
    run = started()
    ada("POST", f"{run['url']}/cancel", status=200)
    found = of(ada, run)
    assert summary(found)[1:] == [("user:ada", "cancel", None)] + 2 * [("user:ada", "move", "CANCELLED")]
    ada("POST", f"{run['url']}/cancel", status=409)
    assert of(ada, run) == found


def test_a_retry_names_the_user_and_the_jobs_that_wait_again(ada, app, wsgi, started):
    run = started()
    [runner] = claimed(app, wsgi)
    runner.report("FAILED", reason="It broke.")
    last = of(ada, run)[-1]["number"]
    ada("POST", f"{run['url']}/retry", status=200)
    first, second = (job["id"] for job in ada("GET", run["jobs"]).json["items"])
    found = of(ada, run, f"?after={last}")
    assert {event["actor"] for event in found} == {"user:ada"}
    assert [(event["action"], event["data"].get("status"), event["subject"].rpartition("/")[2]) for event in found] == [
        ("retry", None, str(run["id"])),
        ("move", "PENDING", str(first)),
        ("move", "PENDING", str(second)),
        ("move", "QUEUED", str(first)),
    ]
    [runner] = claimed(app, wsgi)
    runner.report("FAILED")
    last = of(ada, run)[-1]["number"]
    ada("POST", f"{run['jobs']}/{first}/retry", status=200)
    assert summary(of(ada, run, f"?after={last}"))[0] == ("user:ada", "retry", None)
    assert of(ada, run, f"?after={last}")[0]["subject"] == f"{run['jobs']}/{first}"


def test_a_job_that_waits_for_another_run_is_queued_by_the_attempt_that_ended_it(ada, app, wsgi, helloworld):
    pipeline, _ = pipeline_of(ada, {"function": helloworld})
    file = ada.upload("a.txt", b"Ada", status=201).json["url"]
    older = ada("POST", pipeline["runs"], {"files": [file]}, status=201).json
    newer = ada("POST", pipeline["runs"], {"files": [file], "depends_on": [older["url"]]}, status=201).json
    assert summary(of(ada, newer)) == [("user:ada", "create", None)]
    [runner] = claimed(app, wsgi)
    runner.finish()
    assert summary(of(ada, newer))[1:] == [(f"attempt:{runner.claim.attempt_id}", "move", "QUEUED")]


def test_a_job_that_is_answered_by_an_earlier_one_is_finished_without_an_attempt(ada, app, wsgi, helloworld):
    pipeline, _ = pipeline_of(ada, {"function": helloworld, "reuse": True})
    body = {"files": [ada.upload("a.txt", b"Ada", status=201).json["url"]]}
    ada("POST", pipeline["runs"], body, status=201)
    [runner] = claimed(app, wsgi)
    runner.finish("made.txt", metrics={"loss": 0.5})
    again = ada("POST", pipeline["runs"], body, status=201).json
    found = of(ada, again)
    assert summary(found) == [("user:ada", "create", None), ("user:ada", "move", "FINISHED")]
    assert found[1]["data"] == {"status": "FINISHED", "attempt": 0, "reason": None}
    [job] = ada("GET", again["jobs"]).json["items"]
    job = ada("GET", job["url"]).json
    assert ada("GET", job["attempts"]).json["items"] == []
    [loss] = ada("GET", f"{job['url']}/metrics").json["series"]
    assert (loss["name"], loss["last"]["value"]) == ("loss", 0.5)


def test_every_run_of_a_grid_has_its_events(ada, helloworld, app, wsgi):
    pipeline, [task] = pipeline_of(ada, {"function": helloworld})
    file = ada.upload("a.txt", b"Ada", status=201).json["url"]
    axis = {"tasks": [task["url"]], "option": "greeting", "values": ["a", "b", "c"]}
    grid = ada("POST", pipeline["runs"], {"files": [file], "grid": [axis]}, status=201).json
    [runner] = claimed(app, wsgi)
    runner.finish()
    ada("POST", f"{grid['url']}/cancel", status=200)
    runs = ada("GET", grid["runs"], status=200).json["items"]
    events_of = {run["id"]: of(ada, ada("GET", run["url"]).json) for run in runs}
    cancelled = [("user:ada", "create", None), ("user:ada", "cancel", None), ("user:ada", "move", "CANCELLED")]
    assert sorted(len(found) for found in events_of.values()) == [3, 3, 3]
    assert [summary(found) for found in events_of.values()].count(cancelled) == 2
    assert {
        event["data"]["grid"] for found in events_of.values() for event in found if event["action"] == "cancel"
    } == {grid["id"]}


def test_a_queue_lists_who_changed_and_locked_it(root, ada):
    queue = root("POST", "queues", {"name": "gpu"}, status=201).json
    root("PATCH", queue["url"], {"limit": 2}, status=200)
    root("PUT", f"{queue['url']}/lock", status=200)
    root("PUT", f"{queue['url']}/lock", status=200)
    root("DELETE", f"{queue['url']}/lock", status=200)
    found = of(ada, queue)
    assert [(event["actor"], event["action"], event["kind"], event["subject"]) for event in found] == [
        ("user:root", action, "queue", queue["url"]) for action in ("create", "change", "lock", "unlock")
    ]
    assert found[1]["data"] == {"name": "gpu", "changes": {"limit": 2}}
    assert of(ada, queue, f"?after={found[2]['number']}") == found[3:]


def test_a_second_cancellation_of_a_running_job_is_no_event(ada, app, wsgi, started):
    run = started()
    [runner] = claimed(app, wsgi)
    url = f"{run['url']}/jobs/{runner.claim.job_id}"
    for _ in range(2):
        assert ada("POST", f"{url}/cancel", status=200).json["cancel_requested"] is True
    runner.report("CANCELLED")
    is_problem(ada("POST", f"{url}/cancel"), 409)
    actions = [event["action"] for event in of(ada, ada("GET", url).json)]
    assert actions == ["move", "cancel", "move"]
