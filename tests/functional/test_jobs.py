"""Jobs and attempts over HTTP, without processes: claim, heartbeat, log, outputs and report."""

import hashlib

import pytest
import sqlalchemy as sa

from mlapi.check import of_tables
from mlapi.models import Attempt, Job, Worker, attempts, workers
from mlapi.models.backoff import Retries
from mlapi.models.base import clock
from mlapi.models.slots import allowance
from tests.support import HOST, Runner, claimed, is_problem, picky, pipeline_of


@pytest.fixture
def files(ada):
    return [ada.upload(f"{name}.txt", name.encode(), status=201).json["url"] for name in "ab"]


@pytest.fixture
def run(ada, files, helloworld):
    """A run of two tasks, one after the other, over two files."""
    ada("PATCH", files[0], {"tags": {"mine": 1}}, status=200)
    pipeline, _ = pipeline_of(ada, {"function": helloworld, "timeout": 7}, {"function": helloworld})
    return ada("POST", pipeline["runs"], {"files": files}, status=201).json


@pytest.fixture
def both(ada, run):
    """The documents of both jobs of the run."""
    return lambda: [ada("GET", job["url"], status=200).json for job in ada("GET", run["jobs"]).json["items"]]


@pytest.fixture
def runner(app, wsgi, run):
    """The runner of the first job of the run."""
    return claimed(app, wsgi)[0]


@pytest.fixture(autouse=True)
def invariants_hold(wsgi, app):
    """Check the invariants at the end of every test."""
    yield
    with wsgi.registry.database.reading() as db:
        assert list(of_tables(db)) == []


@pytest.fixture
def lose(wsgi):
    """Lose the worker of an attempt, as the scheduler does."""

    def lost(runner, most=3):
        with wsgi.registry.database.writing.begin() as db:
            return attempts.lose(db, db.get_one(Attempt, runner.claim.attempt_id).fence, Retries(most), "Not heard of.")

    return lost


def tell(runner, what, **more):
    """The requests of a runner that are fenced by its attempt."""
    if what == "heartbeat":
        return runner("POST", f"{runner.url}/heartbeat", {})
    if what == "log":
        return runner("PUT", f"{runner.url}/log?offset=0", body=b"late")
    if what == "metrics":
        return runner("PUT", f"{runner.url}/metrics?offset=0", {"points": []})
    if what == "outputs":
        return runner("POST", f"{runner.url}/outputs", body=b"late")
    return runner.report(**more)


FENCED = ("heartbeat", "log", "metrics", "outputs", "report")


class TestAttempt:
    """The document of an attempt has everything that its runner needs."""

    def test_shows_what_to_run(self, runner, ada, both, wsgi):
        shown = runner("GET", runner.url, status=200).json
        settings = wsgi.registry.mlapi
        version = ada("GET", "modules/helloworld").json["version"]
        assert shown["module"].pop("size") > 0
        assert [each.pop("sha256") for each in shown["inputs"]] == [
            hashlib.sha256(each).hexdigest() for each in (b"a", b"b")
        ]
        url = f"http://{HOST}{runner.url}"
        assert shown == {
            "url": url,
            "job": both()[0]["url"],
            "number": 1,
            "status": "RUNNING",
            "worker": "tests",
            "function": "say_hello",
            "arguments": {"greeting": "Hello", "excited": False},
            "command": ["python", "main.py"],
            "timeout": 7,
            "heartbeat": settings.job_heartbeat,
            "lease": settings.job_lease,
            "delivery_timeout": settings.delivery_timeout,
            "log_limit": settings.log_limit,
            "log_piece_limit": settings.log_piece_limit,
            "report_limit": settings.report_limit,
            "metrics_limit": settings.metrics_limit,
            "points_limit": settings.points_limit,
            "names_limit": 1000,
            "tags_limit": settings.tags_limit,
            "module": {
                "name": "helloworld",
                "version": version.rpartition("/")[2],
                "archive": f"{url}/module",
            },
            "inputs": [
                {
                    "url": f"{url}/inputs/1",
                    "number": 1,
                    "name": "a.txt",
                    "tags": {"mine": 1},
                    "size": 1,
                    "content": f"{url}/inputs/1",
                },
                {
                    "url": f"{url}/inputs/2",
                    "number": 2,
                    "name": "b.txt",
                    "tags": {},
                    "size": 1,
                    "content": f"{url}/inputs/2",
                },
            ],
            "more_inputs": None,
        }

    def test_has_the_default_time_limit_if_the_task_has_none(self, runner, app, wsgi):
        runner.finish("x.txt")
        [second] = claimed(app, wsgi)
        assert second("GET", second.url).json["timeout"] == wsgi.registry.mlapi.job_timeout

    def test_provides_the_inputs_and_the_module(self, runner):
        shown = runner("GET", runner.url).json
        assert [runner("GET", each["content"], status=200).body for each in shown["inputs"]] == [b"a", b"b"]
        archive = runner("GET", shown["module"]["archive"], status=200).body
        assert hashlib.sha256(archive).hexdigest() == shown["module"]["version"]
        for number in (0, 3, "01", "x"):
            is_problem(runner("GET", f"{runner.url}/inputs/{number}"), 404)

    def test_is_shown_in_the_job(self, runner, both):
        first, second = both()
        assert (first["status"], first["attempt"], first["reason"]) == ("RUNNING", 1, None)
        assert first["started"] >= first["queued"] >= first["created"]
        assert (second["status"], second["attempt"], second["started"]) == ("PENDING", 0, None)


class TestHeartbeat:
    """A heartbeat renews the lease and returns whether cancellation is requested."""

    def test_renews_the_lease(self, runner, wsgi):
        def lease():
            with wsgi.registry.database.reading() as db:
                return db.scalar(sa.select(Job.lease_until).where(Job.id == runner.claim.job_id))

        before = lease()
        assert tell(runner, "heartbeat").json == {"cancel": False}
        assert lease() > before

    def test_returns_whether_cancellation_is_requested(self, runner, ada, both):
        shown = ada("POST", f"{both()[0]['url']}/cancel", status=200).json
        assert (shown["status"], shown["cancel_requested"]) == ("RUNNING", True)
        assert [tell(runner, "heartbeat").json for _ in range(2)] == [{"cancel": True}] * 2

    def test_returns_nothing_else(self, runner):
        is_problem(runner("POST", f"{runner.url}/heartbeat", {"status": "FINISHED"}), 422, "status")


class TestLog:
    """The log can only be appended to."""

    @pytest.fixture
    def put(self, runner):
        return lambda offset, text: runner("PUT", f"{runner.url}/log?offset={offset}", body=text)

    def test_is_read_unchanged(self, put, ada, both):
        text = "grüße\n".encode() + b"\xff\x00\r\n"
        assert put(0, text[:3]).json == {"offset": 3}
        assert put(3, text[3:]).json == {"offset": len(text)}
        for offset in range(len(text) + 2):
            read = ada("GET", f"{both()[0]['log']}?offset={offset}", status=200)
            assert read.body == text[offset:]
            assert read.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert ada("GET", both()[0]["log"]).body == text

    def test_is_empty_before_the_job_runs(self, ada, both):
        assert ada("GET", both()[1]["log"], status=200).body == b""

    @pytest.mark.parametrize("offset", [0, 2, 4])
    def test_is_continued_only_at_its_end(self, offset, put, ada, both):
        put(0, b"abc")
        assert is_problem(put(offset, b"x"), 409)["offset"] == 3
        assert ada("GET", both()[0]["log"]).body == b"abc"

    def test_accepts_an_empty_piece(self, put):
        assert put(0, b"").json == put(0, b"").json == {"offset": 0}

    def test_has_a_limit(self, put, ada, both, wsgi):
        limit, piece = wsgi.registry.mlapi.log_limit, wsgi.registry.mlapi.log_piece_limit
        for offset in range(0, limit, piece):
            assert put(offset, b"x" * piece).json == {"offset": offset + piece}
        for beyond in (limit, 2**63 - 1):
            assert is_problem(put(beyond, b"x"), 409)["limit"] == limit
        is_problem(put(0, b"x" * (piece + 1)), 413)
        assert len(ada("GET", both()[0]["log"]).body) == limit

    @pytest.mark.parametrize("query", ["", "?offset=", "?offset=-1", "?offset=x", "?offset=9223372036854775808"])
    def test_requires_an_offset(self, query, runner):
        is_problem(runner("PUT", f"{runner.url}/log{query}", body=b"x"), 422, "offset")

    def test_is_that_of_the_current_attempt(self, put, lose, runner, ada, both, app, wsgi):
        put(0, b"first")
        lose(runner)
        assert ada("GET", both()[0]["log"]).body == b"first"
        [second] = claimed(app, wsgi)
        assert ada("GET", both()[0]["log"]).body == b""
        second("PUT", f"{second.url}/log?offset=0", body=b"second", status=200)
        assert ada("GET", both()[0]["log"]).body == b"second"


class TestReport:
    """The report of an attempt is accepted once, and records all results."""

    def test_finished_creates_files_with_their_lineage(self, runner, ada, both, files):
        outputs = [
            {"name": "new.txt", "sha256": runner.put(b"new"), "tags": {"l": "en"}, "origin": "created"},
            {
                "name": "a.txt",
                "sha256": runner.put(b"a"),
                "tags": {"x": 1},
                "origin": "unchanged",
                "input": 1,
            },
            {"name": "b.txt", "sha256": runner.put(b"B!"), "tags": {}, "origin": "modified", "input": 2},
        ]
        metrics = {"accuracy": 0.5, "nested": {"list": [1, None, True, "x"]}}
        answer = runner.report(metrics=metrics, outputs=outputs)
        assert (answer.status_int, answer.json) == (200, {"status": "FINISHED"})
        job, _ = both()
        assert (job["status"], job["reason"], job["metrics"]) == ("FINISHED", None, metrics)
        assert job["ended"] >= job["started"]
        made = [ada("GET", url, status=200).json for url in job["outputs"]]
        assert [file["name"] for file in made] == ["new.txt", "a.txt", "b.txt"]
        assert [file["parent"] for file in made] == [None, *files]
        assert [file["tags"] for file in made] == [{"l": "en"}, {"mine": 1, "x": 1}, {}]
        assert [file["sha256"] for file in made] == [output["sha256"] for output in outputs]
        assert [file["size"] for file in made] == [3, 1, 2]
        assert {(file["kind"], file["job"]) for file in made} == {("OUTPUT", job["url"])}
        assert [ada("GET", file["content"]).body for file in made] == [b"new", b"a", b"B!"]
        assert ada("GET", f"files?job={job['id']}").json["items"] == made[::-1]

    def test_finished_queues_dependent_jobs(self, runner, both, app, wsgi):
        assert claimed(app, wsgi) == []
        runner.finish("x.txt", "y.txt")
        first, second = both()
        assert (second["status"], second["inputs"]) == ("QUEUED", first["outputs"])
        [child] = claimed(app, wsgi)
        shown = child("GET", child.url).json
        assert [each["name"] for each in shown["inputs"]] == ["x.txt", "y.txt"]
        assert [child("GET", each["content"]).body for each in shown["inputs"]] == [b"x.txt", b"y.txt"]

    def test_finished_without_outputs_queues_dependent_jobs(self, runner, both):
        runner.finish()
        assert [job["status"] for job in both()] == ["FINISHED", "QUEUED"]

    @pytest.mark.parametrize("ending", ["FAILED", "CANCELLED"])
    def test_another_status_cancels_dependent_jobs_with_a_reason(self, ending, runner, ada, both):
        assert runner.report(ending, reason="Killed by signal 9.", metrics={"a": 1}).status_int == 200
        first, second = both()
        assert (first["status"], first["reason"]) == (ending, "Killed by signal 9.")
        assert (first["metrics"], first["outputs"]) == ({}, [])
        assert second["status"] == "CANCELLED"
        assert f"job {first['id']} (say_hello)" in second["reason"]
        assert ending in second["reason"]
        assert second["ended"] is not None
        assert ada("GET", "files?kind=OUTPUT").json["items"] == []

    def test_a_missing_required_output_is_a_failure(self, root, ada, files, app, wsgi):
        pipeline, _ = pipeline_of(ada, {"function": picky(root)})
        run = ada("POST", pipeline["runs"], {"files": files}, status=201).json
        [runner] = claimed(app, wsgi)
        output = {"name": "x.txt", "sha256": runner.put(b""), "tags": {}, "origin": "created"}
        assert runner.report(outputs=[output]).json == {"status": "FAILED"}
        [job] = ada("GET", run["jobs"]).json["items"]
        assert "'model.*'" in job["reason"]
        assert ada("GET", "files?kind=OUTPUT").json["items"] == []

    def test_required_outputs_are_accepted(self, root, ada, files, app, wsgi):
        pipeline, _ = pipeline_of(ada, {"function": picky(root)})
        run = ada("POST", pipeline["runs"], {"files": files}, status=201).json
        claimed(app, wsgi)[0].finish("model.npz")
        assert ada("GET", run["url"]).json["status"] == "FINISHED"

    def test_refers_to_existing_uploads_and_inputs(self, runner, both):
        good = {"name": "x", "sha256": runner.put(b"x"), "tags": {}, "origin": "modified", "input": 1}
        bad = [good, good | {"sha256": "0" * 64}, good | {"input": 3}]
        is_problem(runner.report(outputs=bad), 422, "outputs.1.sha256", "outputs.2.input")
        assert both()[0]["status"] == "RUNNING"
        assert runner.report(outputs=[good]).status_int == 200

    @pytest.mark.parametrize("digest", ["another's", "a file's", "gone with an earlier attempt"])
    def test_refers_to_uploads_of_its_own_attempt(self, digest, runner, lose, ada, app, wsgi):
        sha256 = runner.put(b"secret")
        lose(runner)
        if digest == "a file's":
            sha256 = ada.upload("secret.txt", b"another secret", status=201).json["sha256"]
        [second] = claimed(app, wsgi)
        output = {"name": "x", "sha256": sha256, "tags": {}, "origin": "created"}
        is_problem(second.report(outputs=[output]), 422, "outputs.0.sha256")

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "..\\x", "a\nb", "x" * 256])
    def test_contains_no_paths(self, name, runner):
        output = {"name": name, "sha256": runner.put(b"x"), "tags": {}, "origin": "created"}
        is_problem(runner.report(outputs=[output]), 422, "outputs.0.name")

    @pytest.mark.parametrize("status", ["QUEUED", "RUNNING", "PENDING", "LOST", "finished"])
    def test_requires_a_final_status(self, status, runner):
        is_problem(runner.report(status), 422, "status")

    @pytest.mark.parametrize("first", ["FINISHED", "FAILED", "CANCELLED"])
    @pytest.mark.parametrize("second", FENCED)
    def test_can_be_sent_once(self, first, second, runner, both):
        runner.report(first, reason="So it was.")
        before = both()
        is_problem(tell(runner, second, status="FAILED", reason="Otherwise."), 409)
        assert both() == before

    @pytest.mark.parametrize(
        ("report", "answer"),
        [
            ({"status": "FINISHED", "metrics": {"b": 1, "a": [2.5, "ä"]}}, "FINISHED"),
            ({"status": "FAILED", "reason": "So it was."}, "FAILED"),
            ({"status": "CANCELLED", "reason": None}, "CANCELLED"),
            ({"status": "RETURNED", "reason": "Stopped.", "fault": None}, "QUEUED"),
            ({"status": "RETURNED", "reason": "Disk full.", "fault": "worker"}, "QUEUED"),
        ],
    )
    def test_again_has_the_same_response(self, report, answer, runner, both, app, wsgi):
        if report["status"] == "FINISHED":
            output = {"name": "x", "sha256": runner.put(b"x"), "tags": {"t": 1}, "origin": "created"}
            report = {**report, "outputs": [output]}
        first = runner("POST", f"{runner.url}/report", report, status=200)
        before = both()
        for again in (report, dict(reversed(report.items()))):
            assert runner("POST", f"{runner.url}/report", again, status=200).json == first.json == {"status": answer}
        is_problem(runner("POST", f"{runner.url}/report", {**report, "reason": "Otherwise."}), 409)
        assert both() == before
        if answer == "QUEUED":
            [other] = claimed(app, wsgi)
            assert runner("POST", f"{runner.url}/report", report, status=200).json == first.json
            is_problem(other("POST", f"{runner.url}/report", report), 404)
            assert other.report(status="FAILED").json == {"status": "FAILED"}

    def test_of_missing_outputs_has_the_same_response_again(self, root, files, app, wsgi):
        pipeline, _ = pipeline_of(root, {"function": picky(root)})
        mine = [root.upload(f"{name}.txt", b"", status=201).json["url"] for name in "ab"]
        root("POST", pipeline["runs"], {"files": mine}, status=201)
        [runner] = claimed(app, wsgi)
        assert [runner.report().json for _ in range(2)] == [{"status": "FAILED"}] * 2

    def test_may_be_larger_than_other_bodies(self, runner, wsgi):
        limit = wsgi.registry.mlapi.body_limit
        sha256 = runner.put(b"x")
        tags = {"text": "x" * 60_000}
        outputs = [
            {"name": f"{number}", "sha256": sha256, "tags": tags, "origin": "created"}
            for number in range(limit // 60_000)
        ]
        assert runner.report(outputs=outputs).json == {"status": "FINISHED"}

    def test_has_a_limit(self, runner, wsgi):
        is_problem(runner.report(reason="x" * wsgi.registry.mlapi.report_limit), 413)


class TestOutputs:
    """An output is uploaded before it is reported."""

    def test_is_stored_by_its_digest(self, runner):
        for _ in range(2):
            answer = runner("POST", f"{runner.url}/outputs", body=b"bytes", status=201)
            assert answer.json == {"sha256": hashlib.sha256(b"bytes").hexdigest(), "size": 5}

    def test_is_not_a_file_before_the_report(self, runner, ada):
        runner.put(b"bytes")
        assert ada("GET", "files?kind=OUTPUT").json["items"] == []


class TestLost:
    """The job of a lost worker is queued again, until it has too many attempts."""

    def test_is_queued_again_with_a_reason(self, runner, lose, both, app, wsgi):
        assert lose(runner) is True
        job, after = both()
        assert (job["status"], job["attempt"]) == ("QUEUED", 1)
        assert "lost" in job["reason"]
        assert after["status"] == "PENDING"
        [second] = claimed(app, wsgi)
        shown = second("GET", second.url).json
        assert (shown["number"], shown["job"]) == (2, job["url"])
        assert both()[0]["reason"] is None
        second.finish("x.txt")
        assert [job["status"] for job in both()] == ["FINISHED", "QUEUED"]

    def test_fails_after_three_attempts(self, runner, lose, both, app, wsgi):
        for number in (1, 2, 3):
            assert runner.claim.number == number
            tell(runner, "heartbeat")
            assert lose(runner) is True
            runner = next(iter(claimed(app, wsgi)), None)
        job, after = both()
        assert (job["status"], job["attempt"]) == ("FAILED", 3)
        assert "3 attempts" in job["reason"]
        assert (after["status"], f"job {job['id']} " in after["reason"]) == ("CANCELLED", True)

    def test_is_cancelled_if_cancellation_was_requested(self, runner, lose, ada, both):
        ada("POST", f"{both()[0]['url']}/cancel", status=200)
        lose(runner)
        assert [job["status"] for job in both()] == ["CANCELLED", "CANCELLED"]

    def test_cannot_read_anything(self, runner, lose):
        job = runner("GET", runner.url, status=200).json
        places = [job["module"]["archive"], job["inputs"][0]["content"]]
        assert [runner("GET", url).status_int for url in places] == [200, 200]
        lose(runner)
        for url in places:
            is_problem(runner("GET", url), 404)

    @pytest.mark.parametrize("what", FENCED)
    @pytest.mark.parametrize("since", ["nobody", "another"])
    def test_cannot_change_anything(self, since, what, runner, lose, both, app, wsgi):
        put = runner.put(b"x")
        lose(runner)
        if since == "another":
            claimed(app, wsgi)
        before = both()
        output = {"name": "x", "sha256": put, "tags": {}, "origin": "created"}
        is_problem(tell(runner, what, outputs=[output]), 409)
        assert both() == before
        assert lose(runner) is False

    def test_cannot_act_for_the_next_attempt(self, runner, lose, app, wsgi):
        lose(runner)
        [second] = claimed(app, wsgi)
        is_problem(runner("POST", f"{second.url}/heartbeat", {}), 404)
        assert tell(second, "heartbeat").status_int == 200

    def test_is_detected_when_the_lease_has_expired(self, run, app, wsgi):
        [late] = claimed(app, wsgi, lease=-1)
        with wsgi.registry.database.reading() as db:
            assert attempts.expired(db) == [late.claim.attempt_id]
        assert tell(late, "heartbeat").status_int == 200  # Late, but the job has no other attempt.
        with wsgi.registry.database.reading() as db:
            assert attempts.expired(db) == []

    def test_is_detected_without_a_lease(self, runner, wsgi, lose):
        with wsgi.registry.database.writing.begin() as db:
            db.execute(sa.update(Job).values(lease_until=None))
            assert attempts.expired(db) == [runner.claim.attempt_id]
        lose(runner)


class TestUnfetched:
    """An attempt that is lost before its runner has fetched the job costs nothing."""

    def test_never_fails_the_job(self, runner, lose, both, app, wsgi):
        for number in range(1, 7):
            assert runner.claim.number == number
            runner("GET", runner.url, status=200)
            assert lose(runner) is True
            [runner] = claimed(app, wsgi)
        tell(runner, "heartbeat")
        lose(runner)
        job = both()[0]
        assert (job["status"], job["attempt"], job["failures"]) == ("QUEUED", 7, 1)
        assert job["reason"].startswith("Worker lost in attempt 7 (failure 1 of 3); queued again.")

    def test_counts_as_fetched_from_the_first_heartbeat(self, runner, wsgi):
        def fetched():
            with wsgi.registry.database.reading() as db:
                return db.scalar(sa.select(Attempt.fetched))

        assert fetched() is None
        tell(runner, "heartbeat")
        first = fetched()
        assert first is not None
        tell(runner, "heartbeat")
        assert fetched() == first


def returned(runner, fault=None, reason="No space left on device.", status=200):
    """Hand a job back; returns the response."""
    body = {"status": "RETURNED", "reason": reason, "fault": fault}
    return runner("POST", f"{runner.url}/report", body, status=status)


@pytest.fixture
def worker(wsgi, app):
    """The row of the worker that claims jobs in these tests; a function that reads it, or changes it first."""

    def read(**changed):
        with wsgi.registry.database.writing.begin() as db:
            if changed:
                db.execute(sa.update(Worker).values(**changed))
            row = sa.select(Worker.health, Worker.faults, Worker.reason)
            blocked = (Worker.blocked_until > clock()).label("blocked")
            return db.execute(row.add_columns(blocked)).one()

    with wsgi.registry.database.writing.begin() as db:
        workers.beat(db, "tests", "here", "1")
    return read


class TestReturned:
    """A runner that is stopped, or whose machine fails, hands its job back."""

    @pytest.mark.parametrize("fault", [None, "worker"])
    def test_queues_the_job_again_without_a_failure(self, fault, runner, both, app, wsgi, db, worker):
        for number in range(1, 6):
            tell(runner, "heartbeat")
            put = runner.put(b"x")
            assert returned(runner, fault).json == {"status": "QUEUED"}
            job, after = both()
            assert (job["status"], job["attempt"], job["failures"], job["outputs"]) == ("QUEUED", number, 0, [])
            assert job["reason"] == f"Handed back in attempt {number}; queued again. No space left on device."
            assert after["status"] == "PENDING"
            output = {"name": "x", "sha256": put, "tags": {}, "origin": "created"}
            is_problem(tell(runner, "report", outputs=[output]), 409)
            [runner] = claimed(app, wsgi)
        attempt = db.execute(sa.select(Attempt.status, Attempt.reason, Attempt.fault).order_by(Attempt.id)).first()
        assert tuple(attempt) == ("RETURNED", "No space left on device.", fault)

    def test_is_cancelled_if_cancellation_was_requested(self, runner, ada, both):
        ada("POST", f"{both()[0]['url']}/cancel", status=200)
        assert returned(runner).json == {"status": "CANCELLED"}
        assert [job["status"] for job in both()] == ["CANCELLED", "CANCELLED"]

    def test_refused_by_the_service_fails_at_last(self, runner, both, worker, app, wsgi):
        for _ in range(wsgi.registry.mlapi.job_attempts - 1):
            assert returned(runner, "service").json == {"status": "QUEUED"}
            [runner] = claimed(app, wsgi)
        assert returned(runner, "service").json == {"status": "FAILED"}
        assert both()[0]["reason"].startswith("Handed back in 3 of 3 attempts. Last: ")
        assert worker().faults == 0

    @pytest.mark.parametrize("fault", ["job", "", 1, ["worker"]])
    def test_has_no_other_faults(self, fault, runner):
        is_problem(returned(runner, fault, status=None), 422, "fault")

    def test_counts_against_the_worker_only_by_a_fault_of_the_machine(self, runner, worker, app, wsgi):
        returned(runner, None, "The runner was stopped.")
        assert tuple(worker()) == ("healthy", 0, None, None)
        [runner] = claimed(app, wsgi)
        returned(runner, "worker")
        assert tuple(worker()) == ("failing", 1, "No space left on device.", True)

    def test_blocks_the_worker_longer_with_every_fault(self, worker, wsgi):
        for faults, seconds in ((0, 1), (1, 2), (3, 8), (6, 60), (50, 60)):
            worker(faults=faults, blocked_until=None)
            with wsgi.registry.database.writing.begin() as session:
                now = session.scalar(sa.select(clock()))
                workers.count_fault(session, "tests", "full")
                until = session.scalar(sa.select(Worker.blocked_until))
            assert seconds <= (until - now).total_seconds() < seconds + 10

    def test_faults_that_end_together_count_once(self, ada, run, helloworld, worker, app, wsgi):
        file = ada.upload("b.txt", b"Bob", status=201).json
        pipeline, _ = pipeline_of(ada, *({"function": helloworld, "after": []} for _ in range(3)))
        ada("POST", pipeline["runs"], {"files": [file["url"]]}, status=201)
        for each in claimed(app, wsgi, 3):
            returned(each, "worker")
        assert worker().faults == 1

    def test_a_failing_worker_tries_one_other_job_at_a_time(self, ada, run, helloworld, worker, app, wsgi):
        file = ada.upload("b.txt", b"Bob", status=201).json
        pipeline, _ = pipeline_of(ada, *({"function": helloworld, "after": []} for _ in range(3)))
        ada("POST", pipeline["runs"], {"files": [file["url"]]}, status=201)

        def allowed():
            with wsgi.registry.database.reading() as db:
                found = allowance(db, "tests", 4)
                return found.jobs, found.trial

        assert allowed() == (4, False)
        [sick] = claimed(app, wsgi)
        returned(sick, "worker")
        assert allowed() == (0, True)
        worker(blocked_until=clock(-1))
        assert allowed() == (1, True)
        with wsgi.registry.database.writing.begin() as session:
            [claim] = attempts.claim(session, "tests", 1, 60, trial=True)
        assert claim.job_id != sick.claim.job_id
        assert allowed() == (0, True)
        for seconds, jobs in ((-1, 0), (-30, 1)):
            with wsgi.registry.database.writing.begin() as session:
                fetched = sa.update(Attempt).where(Attempt.id == claim.attempt_id)
                session.execute(fetched.values(fetched=clock(seconds)))
            assert allowed() == (jobs, True)
        Runner(app, wsgi, claim).finish("x")
        assert tuple(worker()) == ("healthy", 0, None, None)
        assert allowed() == (4, False)

    def test_a_job_that_its_worker_returns_while_it_completes_others_fails(
        self, ada, run, runner, both, helloworld, worker, app, wsgi
    ):
        file = ada.upload("b.txt", b"Bob", status=201).json
        pipeline, _ = pipeline_of(ada, *({"function": helloworld, "after": []} for _ in range(9)))
        ada("POST", pipeline["runs"], {"files": [file["url"]]}, status=201)
        for failures in (0, 1, 2, 3):
            assert returned(runner, "worker").json["status"] == ("FAILED" if failures == 3 else "QUEUED")
            assert both()[0]["failures"] == failures
            worker(blocked_until=clock(-1))
            with wsgi.registry.database.writing.begin() as session:
                [claim] = attempts.claim(session, "tests", 1, 60, trial=True)
            Runner(app, wsgi, claim).report("FAILED", reason="It fails.")
            [runner] = claimed(app, wsgi)
        job = both()[0]
        assert job["reason"] == "Handed back in 3 of 4 attempts. Last: no space left on device."


class TestCancel:
    """A waiting job is cancelled immediately, a running job at the next heartbeat."""

    def test_cancels_dependent_jobs(self, ada, both, app, wsgi):
        first, _ = both()
        assert ada("POST", f"{first['url']}/cancel", status=200).json["status"] == "CANCELLED"
        first, second = both()
        assert first["reason"] == "Cancelled before it ran."
        assert (second["status"], f"job {first['id']} " in second["reason"]) == ("CANCELLED", True)
        assert claimed(app, wsgi) == []

    def test_does_not_change_parents(self, ada, both, app, wsgi):
        ada("POST", f"{both()[1]['url']}/cancel", status=200)
        assert [job["status"] for job in both()] == ["QUEUED", "CANCELLED"]
        claimed(app, wsgi)[0].finish("x.txt")
        assert [job["status"] for job in both()] == ["FINISHED", "CANCELLED"]

    def test_that_is_too_late_changes_nothing(self, runner, ada, both):
        ada("POST", f"{both()[0]['url']}/cancel", status=200)
        runner.finish("x.txt")
        assert [job["status"] for job in both()] == ["FINISHED", "QUEUED"]

    @pytest.mark.parametrize("ending", ["FINISHED", "FAILED", "CANCELLED"])
    def test_ended_jobs_do_not_change(self, ending, runner, ada, both):
        runner.report(ending)
        before = both()
        problem = is_problem(ada("POST", f"{before[0]['url']}/cancel"), 409)
        assert problem["status"] == 409
        assert ending in problem["detail"]
        assert both() == before


class TestClaims:
    """A claim takes the oldest queued jobs, each once."""

    def test_claims_the_oldest_first_up_to_the_limit(self, ada, files, helloworld, app, wsgi):
        pipeline, _ = pipeline_of(ada, {"function": helloworld})
        for _ in range(5):
            ada("POST", pipeline["runs"], {"files": files}, status=201)
        waiting = [job["id"] for job in ada("GET", "jobs?status=QUEUED").json["items"]][::-1]
        taken = [[runner.claim.job_id for runner in claimed(app, wsgi, most)] for most in (2, 1, 9, 9)]
        assert taken == [waiting[:2], waiting[2:3], waiting[3:], []]

    def test_by_two_workers_never_share_a_job(self, ada, files, helloworld, wsgi):
        if wsgi.registry.database.engine.dialect.name == "sqlite":
            pytest.skip("SQLite has one writer at a time")
        pipeline, _ = pipeline_of(ada, {"function": helloworld})
        for _ in range(4):
            ada("POST", pipeline["runs"], {"files": files}, status=201)
        writing = wsgi.registry.database.writing
        with writing.begin() as one, writing.begin() as two:
            taken = [[claim.job_id for claim in attempts.claim(db, "tests", 3, 60)] for db in (one, two)]
        assert [len(each) for each in taken] == [3, 1]
        assert len({*taken[0], *taken[1]}) == 4


def test_jobs_can_be_filtered_by_status_function_and_module(ada, run, runner):
    def found(query):
        return [job["position"] for job in ada("GET", f"jobs?{query}", status=200).json["items"]]

    assert found("status=RUNNING") == [1]
    assert found("status=PENDING") == [2]
    assert found("status=FAILED") == []
    assert found("module=helloworld&function=say_hello") == [2, 1]
    assert found("module=other") == found("function=other") == []
    [listed] = ada("GET", f"{run['jobs']}?status=RUNNING").json["items"]
    assert listed["id"] == runner.claim.job_id
    is_problem(ada("GET", "jobs?status=running"), 422, "status")


def test_a_runner_of_a_deleted_run_finds_nothing(runner, ada, run):
    runner.report("FAILED")
    ada("DELETE", run["url"], status=200)
    for what in ("", "/module", "/inputs/1"):
        is_problem(runner("GET", runner.url + what), 404)
    for what in FENCED:
        is_problem(tell(runner, what), 404)
