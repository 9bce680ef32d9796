"""The attempts of a job and their logs, as its owner reads them: over HTTP, from the database and from the store."""

import pytest
import sqlalchemy as sa

from mlapi.check import of_rows_without_blobs, of_tables
from mlapi.execution import archive
from mlapi.execution.archive import archive_logs
from mlapi.models import Attempt, LogPiece, attempts, logs
from mlapi.models.backoff import Retries
from mlapi.models.blobs import referenced
from tests.functional.test_statements import statements
from tests.support import claimed, is_problem, pipeline_of


@pytest.fixture
def runner(ada, helloworld, app, wsgi):
    """The runner of the only job of a run."""
    pipeline, _ = pipeline_of(ada, {"function": helloworld})
    ada("POST", pipeline["runs"], {"files": []}, status=201)
    [runner] = claimed(app, wsgi)
    return runner


@pytest.fixture
def job(ada, runner):
    """A function that reads the document of the job."""
    return lambda: ada("GET", f"jobs/{runner.claim.job_id}", status=200).json


def write(runner, *pieces):
    """Append pieces to the log of an attempt."""
    offset = 0
    for piece in pieces:
        runner("PUT", f"{runner.url}/log?offset={offset}", body=piece, status=200)
        offset += len(piece)


def lose(runner, wsgi):
    """End an attempt whose worker is lost."""
    with wsgi.registry.database.writing.begin() as db:
        attempts.beat(db, runner.claim.fence, 60)
        attempts.lose(db, runner.claim.fence, Retries(3), "It was lost.")


def test_every_attempt_of_a_job_is_shown(runner, job, ada, bob, app, wsgi):
    assert ada("GET", job()["attempts"], status=200).json["items"][0]["ended"] is None
    write(runner, b"first")
    lose(runner, wsgi)
    [second] = claimed(app, wsgi)
    write(second, b"second")
    second.report("FAILED", reason="It broke.")
    first, last = ada("GET", job()["attempts"], status=200).json["items"]
    assert first == {
        "url": f"{job()['url']}/attempts/1",
        "job": job()["url"],
        "number": 1,
        "worker": "tests",
        "status": "LOST",
        "reason": "It was lost.",
        "started": first["started"],
        "ended": first["ended"],
        "exit_code": None,
        "usage": {"peak_memory": None, "cpu_seconds": None, "wall_seconds": None},
        "metrics": f"{first['url']}/metrics",
        "log": f"{first['url']}/log",
        "log_size": 5,
    }
    assert (last["number"], last["status"], last["reason"]) == (2, "FAILED", "It broke.")
    assert ada("GET", last["url"], status=200).json == last
    assert [ada("GET", attempt["log"]).body for attempt in (first, last)] == [b"first", b"second"]
    for url in (first["url"], first["log"], job()["attempts"]):
        is_problem(bob("GET", url), 404)
    for number in (0, 3, "01", "x"):
        is_problem(ada("GET", f"{job()['attempts']}/{number}"), 404)


USAGE = {"peak_memory": 2**40, "cpu_seconds": 1.5, "wall_seconds": 2}


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "CANCELLED", "RETURNED"])
def test_an_attempt_has_what_its_function_used(status, runner, job, ada):
    for _ in range(2):  # A runner repeats a report whose response was lost.
        assert runner.report(status, usage=USAGE).status_int == 200
    assert ada("GET", f"{job()['attempts']}/1").json["usage"] == USAGE


@pytest.mark.parametrize("name", USAGE)
def test_what_was_used_is_a_number_or_null(name, runner, job, ada):
    for value in (-1, "1", True, [], {}):
        is_problem(runner.report(usage={name: value}), 422, f"usage.{name}")
    is_problem(runner.report(usage={"gpu_seconds": 1}), 422, "usage.gpu_seconds")
    assert runner.report(usage={name: None}).status_int == 200
    assert ada("GET", f"{job()['attempts']}/1").json["usage"] == dict.fromkeys(USAGE)


def ranged(client, url, header, status, query=""):
    """A range of a log."""
    return client("GET", f"{url}{query}", headers={"Range": header}, status=status)


@pytest.fixture(params=["pieces", "blob"])
def log(request, runner, job, wsgi):
    """The URL of a log of ten bytes in three pieces, or as a blob."""
    write(runner, b"0123", b"456", b"789")
    if request.param == "blob":
        runner.report("FAILED")
        assert archive_logs(wsgi.registry.database, wsgi.registry.store, age=-1) == 1
    return job()["log"]


def test_a_log_is_read_by_ranges(log, ada):
    for start in range(10):
        for stop in range(start + 1, 13):
            found = ranged(ada, log, f"bytes={start}-{stop - 1}", 206)
            assert found.body == b"0123456789"[start:stop]
            assert found.headers["Content-Range"] == f"bytes {start}-{min(stop, 10) - 1}/10"
    assert ranged(ada, log, "bytes=-4", 206).body == b"6789"
    assert ranged(ada, log, "bytes=7-", 206, "?offset=2").body == b"9"
    for ignored in ("bytes=x", "bytes=0-1,3-4", "bytes=0-1, 0-3", "bytes=5-2"):
        assert ranged(ada, log, ignored, 200).body == b"0123456789"
    assert ada("GET", f"{log}?offset=6", status=200).body == b"6789"
    head = ada("HEAD", log, status=200)
    assert (head.body, head.headers["Content-Length"], head.headers["Accept-Ranges"]) == (b"", "10", "bytes")


@pytest.mark.parametrize(("header", "query", "size"), [("bytes=10-", "", 10), ("bytes=0-", "?offset=99", 0)])
def test_a_range_beyond_the_end_of_a_log_is_refused(header, query, size, log, ada):
    response = ranged(ada, log, header, 416, query)
    is_problem(response, 416)
    assert response.headers["Content-Range"] == f"bytes */{size}"


def test_a_log_is_followed(runner, job, ada):
    read, url = b"", job()["log"]
    is_problem(ranged(ada, url, "bytes=0-", 416), 416)
    for piece in (b"one\n", b"two\n", b"three\n"):
        runner("PUT", f"{runner.url}/log?offset={len(read)}", body=piece, status=200)
        read += ranged(ada, url, f"bytes={len(read)}-", 206).body
        is_problem(ranged(ada, url, f"bytes={len(read)}-", 416), 416)
    assert read == b"one\ntwo\nthree\n"


def test_a_large_log_is_read_in_windows(runner, job, ada, wsgi, monkeypatch):
    monkeypatch.setattr(logs, "WINDOW", 5)
    pieces = [b"%03d" % number for number in range(50)]
    write(runner, *pieces)
    with statements(wsgi) as seen:
        assert ada("GET", job()["log"]).body == b"".join(pieces)
    assert len([statement for statement, _ in seen if "log_pieces" in statement]) > 20
    assert ranged(ada, job()["log"], "bytes=100-130", 206).body == b"".join(pieces)[100:131]


def test_a_log_that_becomes_a_blob_while_it_is_sent_is_complete(runner, job, wsgi, monkeypatch):
    monkeypatch.setattr(logs, "WINDOW", 3)
    write(runner, b"abc", b"def", b"ghi")
    runner.report("FAILED")
    database, store = wsgi.registry.database, wsgi.registry.store
    sent = logs.chunks(database.reading, store, runner.claim.attempt_id, 0, 9)
    assert next(sent) == b"abc"
    assert archive_logs(database, store, age=-1) == 1
    assert b"".join(sent) == b"defghi"


def pieces(database):
    """The number of pieces of all logs."""
    with database.reading() as db:
        return db.scalar(sa.select(sa.func.count()).select_from(LogPiece))


def test_the_logs_of_ended_attempts_become_blobs_and_the_database_shrinks(runner, job, ada, app, wsgi, monkeypatch):
    monkeypatch.setattr(archive, "BATCH", 1)
    database, store = wsgi.registry.database, wsgi.registry.store
    write(runner, b"first ", b"log")
    lose(runner, wsgi)
    [second] = claimed(app, wsgi)
    write(second, b"second")
    assert archive_logs(database, store) == 0, "the attempt ended less than ten minutes ago"
    assert archive_logs(database, store, age=-1) == 1, "the other attempt is running"
    assert pieces(database) == 1
    second.report("FAILED")
    assert archive_logs(database, store, age=-1) == 1
    assert archive_logs(database, store, age=-1) == pieces(database) == 0
    assert [ada("GET", f"{job()['attempts']}/{number}/log").body for number in (1, 2)] == [b"first log", b"second"]
    assert ada("GET", job()["log"]).body == b"second"
    with database.reading() as reader:
        digests = list(reader.scalars(sa.select(Attempt.log_sha256).order_by(Attempt.id)))
        assert referenced(database, digests) == set(digests)
        assert list(of_tables(reader)) == []
        assert list(of_rows_without_blobs(reader, store)) == []
    ada("DELETE", job()["run"], status=200)
    assert referenced(database, digests) == set()


def test_a_log_of_a_deleted_run_is_skipped(runner, job, ada, wsgi, monkeypatch):
    database, store = wsgi.registry.database, wsgi.registry.store
    write(runner, b"log")
    runner.report("FAILED")
    found = logs.settled

    def late(*arguments):
        """Delete the run between the list of logs and the reading of one."""
        rows = found(*arguments)
        ada("DELETE", job()["run"], status=200)
        return rows

    monkeypatch.setattr(logs, "settled", late)
    assert archive_logs(database, store, age=-1) == 0
