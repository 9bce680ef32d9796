"""Retries: by the service after transient failures, and by users."""

import datetime

import pytest
import sqlalchemy as sa

from mlapi import check
from mlapi.models import Attempt, Job, attempts
from mlapi.models.backoff import Retries
from tests.support import claimed, is_problem, pipeline_of


@pytest.fixture(autouse=True)
def invariants_hold(wsgi, app):
    """Check the invariants at the end of every test."""
    yield
    with wsgi.registry.database.reading() as db:
        assert list(check.of_tables(db)) == []


@pytest.fixture
def start(ada, helloworld):
    """Start a run of these tasks; by default of three, one after the other."""

    def started(*tasks, **body):
        pipeline, _ = pipeline_of(ada, *({"function": helloworld, **task} for task in tasks or ({}, {}, {})))
        file = ada.upload("a.txt", b"a", status=201).json["url"]
        return ada("POST", pipeline["runs"], {"files": [file], **body}, status=201).json

    return started


@pytest.fixture
def jobs(ada):
    """The documents of the jobs of a run."""
    return lambda run: [ada("GET", job["url"]).json for job in ada("GET", run["jobs"]).json["items"]]


@pytest.fixture
def states(jobs):
    return lambda run: [job["status"] for job in jobs(run)]


@pytest.fixture
def ready(wsgi):
    """End the backoff of all jobs; returns its seconds."""

    def waited():
        with wsgi.registry.database.writing.begin() as db:
            [(until, queued)] = db.execute(
                sa.select(Job.not_before, Job.queued).where(Job.not_before.is_not(None))
            ).all()
            db.execute(sa.update(Job).values(not_before=None))
            return (until - queued) / datetime.timedelta(seconds=1)

    return waited


class TestTransientFailures:
    """Failures that a job declares as transient are tried again, later and later."""

    def test_an_exit_code(self, start, jobs, ready, app, wsgi):
        run = start({"retry_on": [75], "attempts": 3})
        for number, seconds in ((1, 10), (2, 20)):
            [runner] = claimed(app, wsgi)
            assert runner.report("FAILED", reason="Busy.", exit_code=75).json == {"status": "QUEUED"}
            [job] = jobs(run)
            reason = f"Failed in attempt {number} (failure {number} of 3); queued again. Busy."
            assert job["reason"].startswith(reason)
            assert job["failures"] == number
            assert claimed(app, wsgi) == []
            assert round(ready()) == seconds
        [runner] = claimed(app, wsgi)
        assert runner.report("FAILED", reason="Busy.", exit_code=75).json == {"status": "FAILED"}
        assert jobs(run)[0]["reason"] == "Failed in 3 of 3 attempts. Last: busy."

    def test_a_time_out(self, start, states, app, wsgi):
        run = start({"retry_on": ["timeout"]})
        claimed(app, wsgi)[0].report("FAILED", reason="Too slow.", failure="timeout")
        assert states(run) == ["QUEUED"]

    def test_a_lost_worker(self, start, states, ready, app, wsgi):
        run = start({"retry_on": ["worker_lost"], "attempts": 2})
        for expected in ("QUEUED", "FAILED"):
            [runner] = claimed(app, wsgi)
            runner("POST", f"{runner.url}/heartbeat", {}, status=200)
            with wsgi.registry.database.writing.begin() as db:
                attempts.lose(db, db.get_one(Attempt, runner.claim.attempt_id).fence, Retries(), "Gone.")
            assert states(run) == [expected]
            assert expected == "FAILED" or round(ready()) == 10

    @pytest.mark.parametrize(
        ("declared", "more"),
        [
            (None, {"exit_code": 75}),
            ([75], {"exit_code": 1}),
            ([75], {}),
            ([75], {"failure": "timeout"}),
            ([137], {"failure": "timeout", "exit_code": 137}),
            (["timeout", "worker_lost"], {"exit_code": 75}),
        ],
    )
    def test_others_are_final(self, declared, more, start, states, app, wsgi):
        run = start({"retry_on": declared})
        claimed(app, wsgi)[0].report("FAILED", **more)
        assert states(run) == ["FAILED"]

    def test_are_not_retried_if_the_job_is_cancelled(self, start, states, ada, app, wsgi):
        run = start({"retry_on": [75]})
        [runner] = claimed(app, wsgi)
        ada("POST", f"{run['url']}/cancel", status=200)
        runner.report("FAILED", exit_code=75)
        assert states(run) == ["CANCELLED"]

    def test_the_attempt_has_its_exit_code_and_a_repeated_report_the_same_response(self, start, db, app, wsgi):
        start({"retry_on": [75]})
        [runner] = claimed(app, wsgi)
        answers = [runner.report("FAILED", exit_code=75).json for _ in range(2)]
        assert answers[0] == answers[1] == {"status": "QUEUED"}
        assert db.execute(sa.select(Attempt.status, Attempt.exit_code)).one() == ("FAILED", 75)

    @pytest.mark.parametrize(("name", "value"), [("exit_code", "75"), ("exit_code", 2**63), ("failure", "bored")])
    def test_a_report_has_a_valid_failure(self, name, value, start, app, wsgi):
        start()
        is_problem(claimed(app, wsgi)[0].report("FAILED", **{name: value}), 422, name)

    def test_the_delay_doubles_up_to_the_cap(self):
        delays = [Retries(3, 10, 60).delay(failures) for failures in (1, 2, 3, 4, 100, 10_000)]
        assert delays == [10, 20, 40, 60, 60, 60]


class TestJob:
    """A user retries a job."""

    def test_runs_again_and_revives_what_was_cancelled_after_it(self, start, jobs, states, ada, app, wsgi):
        run = start()
        claimed(app, wsgi)[0].finish("a.txt")
        [runner] = claimed(app, wsgi)
        runner.report("FAILED", reason="broken")
        before = jobs(run)
        assert states(run) == ["FINISHED", "FAILED", "CANCELLED"]
        retried = ada("POST", f"{before[1]['url']}/retry", status=200).json
        assert states(run) == ["FINISHED", "QUEUED", "PENDING"]
        assert (retried["failures"], retried["started"], retried["ended"]) == (0, None, None)
        assert "broken" not in (retried["reason"] or "")
        assert retried["inputs"] == before[1]["inputs"]
        for _ in range(2):
            [runner] = claimed(app, wsgi, 9)
            runner.finish("a.txt")
        assert states(run) == ["FINISHED"] * 3
        assert [job["attempt"] for job in jobs(run)] == [1, 2, 1]

    def test_leaves_earlier_attempts_as_they_ended_and_counts_failures_anew(self, start, jobs, ada, db, app, wsgi):
        run = start({"retry_on": [75], "attempts": 1})
        claimed(app, wsgi)[0].report("FAILED", exit_code=75)
        [before] = db.execute(sa.select(Attempt.__table__)).all()
        db.rollback()
        [job] = jobs(run)
        assert job["failures"] == 1
        ada("POST", f"{job['url']}/retry", status=200)
        assert jobs(run)[0]["failures"] == 0
        assert db.execute(sa.select(Attempt.__table__)).all() == [before]

    def test_revives_the_runs_that_depend_on_it(self, start, jobs, states, ada, app, wsgi):
        first = start()
        second = start(depends_on=[first["url"]])
        third = start(depends_on=[second["url"]])
        claimed(app, wsgi)[0].report("FAILED")
        assert states(third) == ["CANCELLED"] * 3
        ada("POST", f"{jobs(first)[0]['url']}/retry", status=200)
        assert [states(run)[0] for run in (first, second, third)] == ["QUEUED", "PENDING", "PENDING"]
        for _ in range(9):
            [runner] = claimed(app, wsgi, 9)
            runner.finish("a.txt")
        assert states(third) == ["FINISHED"] * 3

    def test_does_not_revive_what_another_failed_parent_prevents(self, start, jobs, states, ada, app, wsgi):
        run = start({"after": []}, {"after": []}, {})
        pipeline, tasks = ada("GET", run["pipeline"]).json, []
        tasks = ada("GET", pipeline["tasks"]).json["items"]
        ada("PATCH", tasks[2]["url"], {"after": [tasks[0]["url"], tasks[1]["url"]]}, status=200)
        run = ada("POST", pipeline["runs"], {"files": ada("GET", run["url"]).json["files"]}, status=201).json
        for runner in claimed(app, wsgi, 9):
            runner.report("FAILED")
        assert states(run) == ["FAILED", "FAILED", "CANCELLED"]
        ada("POST", f"{jobs(run)[0]['url']}/retry", status=200)
        assert states(run) == ["QUEUED", "FAILED", "CANCELLED"]
        ada("POST", f"{jobs(run)[1]['url']}/retry", status=200)
        claimed(app, wsgi)
        assert states(run)[:2] == ["RUNNING", "QUEUED"]

    def test_is_a_conflict_unless_it_failed_or_was_cancelled(self, start, jobs, ada, app, wsgi):
        run = start()

        def refused(index, status):
            before = jobs(run)
            problem = is_problem(ada("POST", f"{before[index]['url']}/retry"), 409)
            assert problem["detail"] == f"Only a job that is FAILED or CANCELLED can be retried: it is {status}."
            assert jobs(run) == before

        refused(0, "QUEUED")
        refused(1, "PENDING")
        [runner] = claimed(app, wsgi)
        refused(0, "RUNNING")
        runner.finish("a.txt")
        refused(0, "FINISHED")

    def test_is_a_conflict_if_an_earlier_job_did_not_finish(self, start, jobs, ada, app, wsgi):
        run = start()
        other = start(depends_on=[run["url"]])
        claimed(app, wsgi)[0].report("FAILED")
        for job, before in ((jobs(run)[1], jobs(run)[0]), (jobs(other)[0], jobs(run)[2])):
            problem = is_problem(ada("POST", f"{job['url']}/retry"), 409)
            assert f"Job {before['id']} (say_hello) must finish before" in problem["detail"]

    def test_of_a_cancelled_job(self, start, jobs, states, ada, app, wsgi):
        run = start()
        [runner] = claimed(app, wsgi)
        ada("POST", f"{jobs(run)[0]['url']}/cancel", status=200)
        runner.report("CANCELLED")
        ada("POST", f"{jobs(run)[0]['url']}/retry", status=200)
        assert states(run) == ["QUEUED", "PENDING", "PENDING"]
        [runner] = claimed(app, wsgi)
        assert runner("POST", f"{runner.url}/heartbeat", {}).json == {"cancel": False}


class TestRun:
    """A user retries a run."""

    def test_runs_all_that_failed_and_keeps_what_finished(self, start, jobs, states, ada, app, wsgi):
        run = start({"after": []}, {"after": []}, {"after": []}, {})
        one, two, three = claimed(app, wsgi, 9)
        one.finish("a.txt")
        two.report("FAILED")
        three.report("FAILED")
        before = jobs(run)
        assert ada("POST", f"{run['url']}/retry", status=200).json["status"] == "RUNNING"
        assert states(run) == ["FINISHED", "QUEUED", "QUEUED", "PENDING"]
        assert jobs(run)[0] == before[0]

    def test_is_a_conflict_unless_it_failed_or_was_cancelled(self, start, states, ada, app, wsgi):
        run = start({})
        for status in ("QUEUED", "RUNNING", "FINISHED"):
            problem = is_problem(ada("POST", f"{run['url']}/retry"), 409)
            assert problem["detail"] == f"Only a run that is FAILED or CANCELLED can be retried: it is {status}."
            if status == "QUEUED":
                [runner] = claimed(app, wsgi)
            elif status == "RUNNING":
                runner.finish("a.txt")

    def test_of_a_cancelled_run(self, start, states, ada, app, wsgi):
        run = start()
        ada("POST", f"{run['url']}/cancel", status=200)
        ada("POST", f"{run['url']}/retry", status=200)
        assert states(run) == ["QUEUED", "PENDING", "PENDING"]

    def test_requires_that_the_jobs_on_which_it_depends_did_not_fail(self, start, states, ada, app, wsgi):
        first = start({})
        second = start({}, depends_on=[first["url"]])
        claimed(app, wsgi)[0].report("FAILED")
        is_problem(ada("POST", f"{second['url']}/retry"), 409)
        ada("POST", f"{first['url']}/retry", status=200)
        assert (states(first), states(second)) == (["QUEUED"], ["PENDING"])
