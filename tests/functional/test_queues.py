"""Queues over HTTP: their jobs, locks, limits and deletion; which workers serve them, and why jobs wait."""

from concurrent.futures import ThreadPoolExecutor, wait
from datetime import datetime

import pytest
import sqlalchemy as sa

from mlapi.models import Event, Job, Task, attempts, deletion, dispatch, queues, workers
from mlapi.models.base import clock
from mlapi.models.workers import Offer
from tests.support import API, is_problem, pipeline_of


@pytest.fixture
def gpu(root):
    """The document of a queue."""
    return root("POST", "queues", {"name": "gpu"}, status=201).json


@pytest.fixture
def worker(wsgi, app):
    """A function that sends the heartbeat of a worker that offers this."""

    def beat(name="tests", **offer):
        with wsgi.registry.database.writing.begin() as session:
            workers.beat(session, name, "here", "1", Offer(**offer))

    return beat


@pytest.fixture
def queued(ada, helloworld, wsgi):
    """A function that queues jobs of ada with these columns; returns their ids."""
    pipeline, _ = pipeline_of(ada, {"function": helloworld})
    file = ada.upload("a.txt", b"a", status=201).json["url"]

    def start(count=1, queue=None, **columns):
        ids = []
        for _ in range(count):
            run = ada("POST", pipeline["runs"], {"files": [file]}, status=201).json
            ids += [job["id"] for job in ada("GET", run["jobs"], status=200).json["items"]]
        with wsgi.registry.database.writing.begin() as session:
            if queue is not None:
                columns["queue_id"] = queues.ids(session, [queue])[queue]
            if columns:
                session.execute(sa.update(Job).where(Job.id.in_(ids)).values(**columns))
        return ids

    return start


@pytest.fixture
def claim(wsgi):
    """A function that claims jobs for a worker; returns their ids in the order in which they are taken."""

    def take(worker="tests", most=1):
        ids = []
        for _ in range(most):
            with wsgi.registry.database.writing.begin() as session:
                ids += [taken.job_id for taken in attempts.claim(session, worker, 1, 60)]
        return ids

    return take


@pytest.fixture
def reason(ada):
    """A function that returns the reason of a job, which is the same in a list."""

    def read(job):
        document = ada("GET", f"jobs/{job}", status=200).json
        [listed] = [item for item in ada("GET", "jobs", status=200).json["items"] if item["id"] == job]
        assert listed["reason"] == document["reason"]
        return document["reason"]

    return read


class TestDocuments:
    def test_there_is_always_a_default_queue(self, ada):
        [queue] = ada("GET", "queues", status=200).json["items"]
        assert (queue["name"], queue["locked"], queue["limit"], queue["waiting"]) == ("default", False, None, 0)
        assert ada("GET", queue["url"], status=200).json == queue

    def test_a_queue_is_created_changed_and_deleted_by_administrators(self, root, ada):
        body = {"name": "gpu", "description": "Two cards", "limit": 2, "timeout": 60, "attempts": 1}
        body["resources"] = {"cpus": 0.5, "memory": 2**30, "gpus": 1}
        made = root("POST", "queues", body, status=201)
        assert made.json.items() >= body.items()
        assert made.headers["Location"] == made.json["url"]
        url = made.json["url"]
        changed = root("PATCH", url, {"limit": None, "resources": None, "timeout": 3.5}, status=200).json
        assert (changed["limit"], changed["resources"], changed["timeout"], changed["attempts"]) == (None, None, 3.5, 1)
        assert ada("GET", url, status=200).json == changed
        for method, place, json in (("POST", "queues", {"name": "x"}), ("PATCH", url, {}), ("DELETE", url, None)):
            is_problem(ada(method, place, json), 403)
        assert root("DELETE", url, status=200).json == {"deleted": {"queues": 1}, "moved": {"tasks": 0, "jobs": 0}}
        is_problem(ada("GET", url), 404)
        root("POST", "queues", {"name": "gpu"}, status=201)

    def test_a_queue_shows_its_jobs_and_the_living_workers_that_serve_it(self, ada, gpu, queued, claim, worker, db):
        jobs = queued(3, "gpu")
        before = ada("GET", gpu["url"], status=200).json
        assert (before["waiting"], before["running"], before["workers"]) == (3, 0, [])
        assert before["waiting_since"] == ada("GET", f"jobs/{jobs[0]}").json["queued"]
        worker("all", queues=["*"])
        worker("cards", queues=["gpu", "other"])
        worker("none", queues=["other"])
        worker("old", queues=["gpu"])
        db.execute(sa.update(workers.Worker).where(workers.Worker.name == "old").values(heartbeat=clock(-60)))
        db.commit()
        claim("cards")
        after = ada("GET", gpu["url"], status=200).json
        assert (after["waiting"], after["running"], after["workers"]) == (2, 1, ["all", "cards"])
        assert after["waiting_since"] == ada("GET", f"jobs/{jobs[1]}").json["queued"]
        listed = {queue["name"]: queue for queue in ada("GET", "queues", status=200).json["items"]}
        assert listed["gpu"] == after
        assert listed["default"]["workers"] == ["all"]

    def test_workers_are_shown_to_administrators(self, root, ada, worker, queued, claim):
        worker("a b%c", queues=["gpu"], slots=2, cpus=4, memory=2**33, gpus=1)
        [document] = root("GET", "workers", status=200).json["items"]
        assert root("GET", document["url"], status=200).json == document
        assert (document["name"], document["queues"], document["slots"], document["alive"]) == (
            "a b%c",
            ["gpu"],
            2,
            True,
        )
        assert (document["cpus"], document["memory"], document["gpus"], document["running"]) == (4, 2**33, 1, 0)
        is_problem(ada("GET", "workers"), 403)
        is_problem(ada("GET", document["url"]), 404)
        worker()
        queued()
        claim()
        assert root("GET", "workers/tests", status=200).json["running"] == 1


class TestBadInput:
    @pytest.mark.parametrize(
        ("field", "values"),
        {
            "name": ["", "A", "a b", "é", "x" * 64, "a/b"],
            "limit": [0, -1, 1.5, "2", True],
            "timeout": ["banana", -1, 0, 10 * 365 * 86400],
            "attempts": [0, -1, 101, "3"],
            "resources": [{"gpus": -1}, {"cpus": 0}, {"cpus": "2"}, {"memory": 1.5}, {"disks": 1}, []],
            "description": ["x" * 1001, None],
        }.items(),
    )
    def test_a_bad_value_is_an_error_of_its_field(self, field, values, root):
        for value in values:
            errors = is_problem(root("POST", "queues", {"name": "q", field: value}), 422)["errors"]
            assert {error["name"].split(".")[0] for error in errors} == {field}, value
        assert len(root("GET", "queues").json["items"]) == 1

    def test_a_name_that_is_taken_is_a_conflict(self, root, gpu):
        assert (
            is_problem(root("POST", "queues", {"name": "gpu"}), 409)["detail"] == "The queue name gpu is already taken."
        )
        is_problem(root("PATCH", gpu["url"], {"name": "other"}), 422, "name")

    @pytest.mark.parametrize(
        "target", ["nothing", f"{API}/queues/nothing", "gpu", f"{API}/queues/gpu", "%20", "", "a/b"]
    )
    def test_a_queue_moves_only_to_another_queue(self, target, root, gpu):
        is_problem(root("DELETE", f"{gpu['url']}?move_to={target}"), 422, "move_to")
        root("GET", gpu["url"], status=200)


class TestLocks:
    def test_locks_are_idempotent_and_recorded_once(self, root, ada, gpu, db):
        for method, locked in (("PUT", True), ("PUT", True), ("DELETE", False), ("DELETE", False)):
            assert root(method, f"{gpu['url']}/lock", status=200).json["locked"] is locked
            is_problem(ada(method, f"{gpu['url']}/lock"), 403)
        actions = db.scalars(sa.select(Event.action).where(Event.kind == "queue").order_by(Event.id)).all()
        assert actions == ["create", "lock", "unlock"]

    def test_a_locked_queue_starts_no_jobs(self, root, gpu, queued, claim, reason, worker):
        worker()
        job, other = *queued(1, "gpu"), *queued(1)
        root("PUT", f"{gpu['url']}/lock", status=200)
        assert claim(most=2) == [other]
        assert reason(job) == "Queue gpu is locked."
        root("DELETE", f"{gpu['url']}/lock", status=200)
        assert claim() == [job]

    def test_a_locked_or_deleted_queue_takes_no_run(self, gpu, root, ada, helloworld):
        pipeline, _ = pipeline_of(ada, {"function": helloworld})
        body = {"files": [ada.upload("a.txt", b"a", status=201).json["url"]], "queue": gpu["url"]}
        run = ada("POST", pipeline["runs"], body, status=201).json
        ada("POST", f"{run['url']}/cancel", status=200)
        root("PUT", f"{gpu['url']}/lock", status=200)
        for url, content in ((pipeline["runs"], body), (f"{run['url']}/rerun", {})):
            assert is_problem(ada("POST", url, content), 409)["detail"] == "Queue gpu is locked."
        root("DELETE", gpu["url"], status=200)
        is_problem(ada("POST", pipeline["runs"], body), 422, "queue")
        assert is_problem(ada("POST", f"{run['url']}/rerun", {}), 409)["detail"] == "The queue no longer exists."
        ada("POST", f"{run['url']}/rerun", {"queue": f"{API}/queues/default"}, status=201)

    def test_no_job_of_a_queue_starts_after_the_answer_to_its_lock(self, root, gpu, queued, claim, wsgi, worker):
        worker()
        jobs = queued(2, "gpu")
        with wsgi.registry.database.writing.begin() as session, ThreadPoolExecutor(1) as pool:
            [taken] = attempts.claim(session, "tests", 1, 60)
            locked = meanwhile(wsgi, pool, lambda: root("PUT", f"{gpu['url']}/lock", status=200))
            assert not locked.done()
            session.commit()
            assert locked.result(60).json["running"] == 1
        assert taken.job_id == jobs[0]
        assert claim() == []


class TestDeletion:
    def test_the_default_queue_stays(self, root):
        is_problem(root("DELETE", "queues/default"), 409)
        is_problem(root("DELETE", "queues/default?move_to=gpu"), 409)

    def test_waiting_jobs_and_tasks_keep_a_queue_or_move(self, root, ada, gpu, queued, claim, worker, db):
        worker("cards", queues=["gpu"])
        running, waiting = queued(2, "gpu")
        claim("cards")
        is_problem(root("DELETE", gpu["url"]), 409)
        deleted = root("DELETE", f"{gpu['url']}?move_to=default", status=200).json
        assert deleted["moved"] == {"tasks": 0, "jobs": 2}
        for job in (running, waiting):
            assert ada("GET", f"jobs/{job}").json["queue"].endswith("/queues/default")
        assert claim("cards") == []
        other = root("POST", "queues", {"name": "gpu"}, status=201).json
        db.execute(sa.update(Task).values(queue_id=queues.ids(db, ["gpu"])["gpu"]))
        db.commit()
        is_problem(root("DELETE", other["url"]), 409)
        moved = root("DELETE", f"{other['url']}?move_to={API}/queues/default", status=200).json["moved"]
        assert moved == {"tasks": 1, "jobs": 0}

    def test_ended_jobs_do_not_change_and_count_as_of_no_queue(self, root, ada, gpu, queued, claim, worker, db):
        worker()
        ended, retried = queued(2, "gpu")
        for job in (ended, retried):
            ada("POST", f"{ada('GET', f'jobs/{job}').json['url']}/cancel", status=200)
        root("PUT", f"{gpu['url']}/lock", status=200)
        root("DELETE", gpu["url"], status=200)
        assert ada("GET", f"jobs/{ended}").json["queue"] is None
        assert [queue["name"] for queue in ada("GET", "queues").json["items"]] == ["default"]
        assert root("POST", "queues", {"name": "gpu"}, status=201).json["waiting"] == 0
        document = ada("POST", f"{ada('GET', f'jobs/{retried}').json['url']}/retry", status=200).json
        assert document["queue"].endswith("/queues/default")
        worker("cards", queues=["gpu"])
        worker("plain", queues=["default"])
        assert (claim("cards"), claim("plain")) == ([], [retried])

    def test_a_run_that_starts_while_its_queue_is_deleted_is_a_conflict(self, ada, gpu, helloworld, wsgi):
        pipeline, _ = pipeline_of(ada, {"function": helloworld, "queue": gpu["url"]})
        body = {"files": [ada.upload("a.txt", b"a", status=201).json["url"]]}
        database = wsgi.registry.database
        with database.writing.begin() as session, ThreadPoolExecutor(1) as pool:
            deletion.delete_queue(session, queues.ids(session, ["gpu"])["gpu"], "default")
            started = meanwhile(wsgi, pool, lambda: ada("POST", pipeline["runs"], body))
            session.commit()
            answer = started.result(60)
        if database.lateral:
            assert is_problem(answer, 409)["detail"] == "The queue no longer exists."
        else:  # In SQLite, the request reads the tasks when the deletion is committed.
            assert answer.status_int == 201

    def test_jobs_that_move_have_an_event_and_wait_in_a_locked_queue(self, root, ada, gpu, queued, reason, worker):
        worker()
        [job] = queued(1, "gpu")
        other = root("POST", "queues", {"name": "other"}, status=201).json
        root("PUT", f"{other['url']}/lock", status=200)
        root("DELETE", f"{gpu['url']}?move_to=other", status=200)
        assert reason(job) == "Queue other is locked."
        event = ada("GET", f"{ada('GET', f'jobs/{job}').json['url']}/events", status=200).json["items"][-1]
        assert (event["actor"], event["action"], event["data"]) == ("user:root", "change", {"queue": "other"})

    def test_a_queue_does_not_move_to_itself(self, root, gpu):
        [error] = is_problem(root("DELETE", f"{gpu['url']}?move_to=gpu"), 422, "move_to")["errors"]
        assert error["description"] == "Must be another queue than the one that is deleted."


at = datetime.fromisoformat


class TestClaims:
    def test_jobs_are_claimed_by_priority_within_a_queue_and_by_age_among_queues(self, gpu, queued, claim, worker):
        worker()
        low, normal, first, other = *queued(1, "gpu", rank=5), *queued(1, "gpu"), *queued(1, "gpu", rank=-5), *queued()
        assert claim(most=5) == [first, normal, low, other]

    def test_a_worker_claims_from_the_queues_that_it_serves(self, gpu, queued, claim, worker):
        cards, plain = *queued(1, "gpu"), *queued()
        worker("cards", queues=["gpu"])
        worker("plain", queues=["default", "nothing"])
        assert claim("plain", 2) == [plain]
        assert claim("cards", 2) == [cards]

    def test_one_claim_takes_the_oldest_heads_of_the_queues(self, gpu, queued, wsgi, worker):
        worker()
        ids = [job for queue in ("gpu", None, "gpu", None, None) for job in queued(1, queue)]
        with wsgi.registry.database.reading() as db:
            assert dispatch.heads(db, "tests", 4) == ids[:4]
            assert dispatch.heads(db, "tests", 9) == ids
            assert dispatch.heads(db, "tests", 9, skipped=ids[1:3]) == [ids[0], *ids[3:]]

    def test_a_job_that_needs_more_than_the_machine_has_is_skipped(self, queued, claim, worker, reason):
        large, small = *queued(1, gpus=4, cpus=2.5, memory=10), *queued(1, cpus=2, memory=2**20)
        worker("tests", cpus=2, memory=2**30, gpus=0)
        assert claim(most=2) == [small]
        assert reason(large) == "No worker has the resources (cpus: 2.5, memory: 10, gpus: 4)."
        worker("large", cpus=2.5, memory=10, gpus=4)
        assert reason(large) is None
        assert claim("large") == [large]

    @pytest.mark.parametrize("head", [{"gpus": 5}, {"gpus": 5, "rank": -100}, {"not_before": at("2100-01-01")}])
    def test_jobs_that_cannot_start_hide_none_behind_them(self, head, queued, claim, worker, db):
        worker("tests", gpus=4)
        [first] = queued(1, **head)
        row = dict(db.execute(sa.select(Job.__table__).where(Job.id == first)).mappings().one())
        del row["id"]
        db.execute(sa.insert(Job), [{**row, "position": number} for number in range(2, 151)])
        db.commit()
        behind = queued(1, gpus=4)
        assert claim(most=2) == behind

    def test_jobs_of_different_needs_are_claimed_by_priority_and_age(self, queued, claim, worker):
        worker("tests", cpus=4, memory=2**30, gpus=1)
        needs = ({"gpus": 1}, {}, {"cpus": 2, "memory": 10}, {"cpus": 2, "memory": 5}, {"gpus": 0}, {"gpus": 1})
        jobs = [job for need in needs for job in queued(1, **need)]
        preferred = queued(1, cpus=0.5, gpus=1, rank=-1)
        due = queued(1, not_before=at("2000-01-01"))
        assert claim(most=9) == [*preferred, *jobs, *due]

    def test_jobs_whose_time_has_come_are_claimed_by_that_time(self, queued, claim, worker):
        worker()
        jobs = [job for time in ("2000-01-02", "2000-01-01") for job in queued(1, not_before=at(time))] + queued()
        assert claim(most=3) == [jobs[1], jobs[0], jobs[2]]

    def test_a_job_waits_for_the_time_of_its_next_attempt(self, queued, claim, worker, reason):
        worker()
        later, now = *queued(1, not_before=at("2100-01-02T03:04:05"), reason="Worker lost."), *queued()
        assert claim(most=2) == [now]
        assert reason(later) == "Worker lost. Waits until 2100-01-02T03:04:05Z before its next attempt."
        past = queued(1, not_before=at("2000-01-01"))
        assert claim() == past

    def test_a_limit_holds_and_says_so(self, root, gpu, queued, claim, worker, reason, wsgi):
        worker()
        root("PATCH", gpu["url"], {"limit": 2}, status=200)
        jobs = queued(3, "gpu")
        with wsgi.registry.database.writing.begin() as session:
            assert [taken.job_id for taken in attempts.claim(session, "tests", 10, 60)] == jobs[:2]
        assert claim() == []
        assert reason(jobs[2]) == "The limit of 2 running jobs of queue gpu is reached."
        root("PATCH", gpu["url"], {"limit": 3}, status=200)
        assert claim() == jobs[2:]

    def test_claims_at_once_never_exceed_a_limit(self, root, gpu, queued, wsgi, worker):
        worker("one")
        worker("two")
        root("PATCH", gpu["url"], {"limit": 2}, status=200)
        limited = queued(4, "gpu")
        [plain] = queued()
        first, second = claims_at_once(wsgi, 3)
        assert sorted(first + second) == [*limited[:2], plain]

    def test_claims_at_once_take_different_jobs(self, queued, wsgi, worker):
        worker("one")
        worker("two")
        jobs = queued(4)
        assert claims_at_once(wsgi, 2) == [jobs[:2], jobs[2:]]


def claims_at_once(wsgi, most):
    """The jobs of two claims, of which the second begins before the first is committed."""
    database = wsgi.registry.database
    with ThreadPoolExecutor(1) as pool, database.writing.begin() as session:
        first = attempts.claim(session, "one", most, 60)

        def claim():
            with database.writing.begin() as other:
                return attempts.claim(other, "two", most, 60)

        second = meanwhile(wsgi, pool, claim)
        session.commit()
        return [[taken.job_id for taken in claims] for claims in (first, second.result(60))]


def meanwhile(wsgi, pool, function):
    """Call a function in another thread while a transaction is open, until it waits for this transaction or ends."""
    called = pool.submit(function)
    if wsgi.registry.database.lateral:  # In SQLite, another transaction begins when the first has ended.
        with wsgi.registry.database.reading() as monitor:
            while not called.done() and not monitor.scalar(sa.text(WAITING)):
                wait([called], 0.002)
    return called


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


class TestReasons:
    def test_a_job_of_a_queue_that_nobody_serves_says_so(self, gpu, queued, worker, reason):
        [job] = queued(1, "gpu")
        assert reason(job) == "No scheduler is running."
        worker(queues=["default"])
        assert reason(job) == "No worker serves queue gpu."
        worker("cards", queues=["gpu"])
        assert reason(job) is None

    def test_the_answer_to_a_run_warns_of_queues_and_resources_that_nobody_serves(self, ada, gpu, helloworld, worker):
        worker("tests", queues=["default"], cpus=2, gpus=0)
        of_gpu, [task] = pipeline_of(ada, {"function": helloworld, "queue": gpu["url"]})
        file = ada.upload("a.txt", b"a", status=201).json["url"]
        body = {"files": [file]}
        run = ada("POST", of_gpu["runs"], body, status=201).json
        assert run["warnings"] == ["No worker serves queue gpu."]
        axis = {"tasks": [task["url"]], "option": "greeting", "values": ["a", "b"]}
        assert ada("POST", of_gpu["runs"], {**body, "grid": [axis]}, status=201).json["warnings"] == run["warnings"]
        pipeline, _ = pipeline_of(ada, *({"function": helloworld, "resources": {"gpus": count}} for count in (4, 0)))
        assert ada("POST", pipeline["runs"], body, status=201).json["warnings"] == [
            "No worker has the resources (gpus: 4)."
        ]
        pipeline, _ = pipeline_of(ada, {"function": helloworld, "resources": {"cpus": 2}})
        assert ada("POST", pipeline["runs"], body, status=201).json["warnings"] == []

    def test_the_answer_to_a_run_warns_of_jobs_that_wait_for_others(self, ada, root, gpu, helloworld, worker):
        worker("tests", queues=["default"], gpus=0)
        root("POST", "queues", {"name": "other"}, status=201)
        pipeline, [task] = pipeline_of(ada, {"function": helloworld})
        for settings in ({"queue": gpu["url"]}, {"resources": {"gpus": 4}}):
            ada("POST", pipeline["tasks"], {"function": helloworld, "after": [task["url"]], **settings}, status=201)
        body = {"files": [ada.upload("a.txt", b"a", status=201).json["url"]]}
        run = ada("POST", pipeline["runs"], body, status=201).json
        expected = ["No worker has the resources (gpus: 4).", "No worker serves queue gpu."]
        assert run["warnings"] == expected
        simple, _ = pipeline_of(ada, {"function": helloworld, "queue": f"{API}/queues/other"})
        after = ada("POST", simple["runs"], {**body, "depends_on": [run["url"]]}, status=201).json
        assert after["warnings"] == ["No worker serves queue other."]
        worker("all", queues=["*"], gpus=4)
        assert ada("GET", run["url"]).json["warnings"] == ada("GET", after["url"]).json["warnings"] == []

    def test_a_pending_job_names_the_first_that_it_waits_for(self, ada, helloworld, queued, reason, db, worker, claim):
        worker()
        [before] = queued()
        pipeline, [task] = pipeline_of(ada, {"function": helloworld, "after": []})
        for after in ([], None, [task["url"]]):
            ada("POST", pipeline["tasks"], {"function": helloworld, "after": after}, status=201)
        file = ada.upload("a.txt", b"a", status=201).json["url"]
        run = ada("POST", pipeline["runs"], {"files": [file]}, status=201).json
        first, second, third, fourth = [job["id"] for job in ada("GET", run["jobs"]).json["items"]]
        assert (reason(third), reason(fourth)) == (f"Waits for job {second}.", f"Waits for job {first}.")
        db.execute(sa.text(f"INSERT INTO job_dependencies (job_id, dependency_id) VALUES ({third}, {before})"))
        db.commit()
        assert reason(third) == f"Waits for job {before}."
