"""The cost of a request is limited: parameters, stored JSON, the size of a page."""

import json
from contextlib import ExitStack

import pytest
import sqlalchemy as sa

from mlapi.errors import Busy
from mlapi.http.slow import SlowWork
from mlapi.models import User
from tests.support import PASSWORD, Client, another_app, claimed, is_problem, pipeline_of

LIMIT = 65536


def of_size(size):
    """An object of this size in bytes as compact JSON."""
    value = {"a": "é" * ((size - 8) // 2) + "x" * (size % 2)}
    assert len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()) == size
    return value


@pytest.fixture
def file(ada):
    return ada.upload("a.txt", b"x", status=201).json["url"]


@pytest.fixture
def run(ada, helloworld):
    """A run of one task, which is queued."""
    pipeline, _ = pipeline_of(ada, {"function": helloworld})
    return ada("POST", pipeline["runs"], {"files": []}, status=201).json


def is_accepted(answer):
    assert answer.status_int == 200, answer.text


def is_too_large(answer, name):
    (error,) = is_problem(answer, 422)["errors"]
    assert (error["name"], error["description"]) == (name, f"Must have at most {LIMIT} bytes of JSON.")


@pytest.mark.parametrize("extra", [0, 1])
def test_the_tags_of_a_file_are_limited(ada, file, extra):
    answer = ada("PATCH", file, {"tags": of_size(LIMIT + extra)})
    is_too_large(answer, "tags") if extra else is_accepted(answer)


@pytest.mark.parametrize("extra", [0, 1])
def test_the_metrics_of_a_job_are_limited(app, wsgi, run, extra):
    (runner,) = claimed(app, wsgi)
    answer = runner.report("FAILED", metrics=of_size(LIMIT + extra))
    is_too_large(answer, "metrics") if extra else is_accepted(answer)


def test_the_tags_of_an_output_are_limited(app, wsgi, run):
    (runner,) = claimed(app, wsgi)
    sha256 = runner.put(b"x")
    output = {"name": "a", "sha256": sha256, "tags": of_size(LIMIT + 1), "origin": "created"}
    is_too_large(runner.report(outputs=[output]), "outputs.0.tags")


def test_the_arguments_of_a_task_are_limited(ada, helloworld):
    pipeline, _ = pipeline_of(ada)
    answer = ada("POST", pipeline["tasks"], {"function": helloworld, "arguments": of_size(LIMIT + 1)})
    is_too_large(answer, "arguments")


def test_the_limits_are_settings(wsgi, ada, file, tmp_path):
    with another_app(wsgi, tmp_path, tags_limit=100) as app:
        small = Client(app, token=ada.headers["Authorization"].split()[1])
        is_problem(small("PATCH", file, {"tags": of_size(101)}), 422, "tags")
        small("PATCH", file, {"tags": of_size(100)}, status=200)


def test_a_page_ends_at_its_limit_in_bytes_and_the_next_pages_have_the_rest(ada, root):
    for number in range(40):
        file = ada.upload(f"{number}", b"x", status=201).json
        ada("PATCH", file["url"], {"tags": of_size(LIMIT)}, status=200)
    for caller, url in ((ada, "users/ada/files?limit=200"), (root, "files?limit=200&kind=INPUT")):
        names, pages = [], 0
        while url:
            answer = caller("GET", url, status=200)
            assert len(answer.body) < 2**20 + LIMIT + 10_000
            names += [item["name"] for item in answer.json["items"]]
            url, pages = answer.json["next"], pages + 1
        assert names == [str(number) for number in reversed(range(40))]
        assert pages == 3


def test_the_tags_that_an_unchanged_output_inherits_are_limited(app, wsgi, ada, file, helloworld):
    pipeline, _ = pipeline_of(ada, {"function": helloworld})
    ada("POST", pipeline["runs"], {"files": [file]}, status=201)
    (runner,) = claimed(app, wsgi)
    ada("PATCH", file, {"tags": {"a": "x" * (LIMIT - 100)}}, status=200)
    output = {"name": "a", "sha256": runner.put(b"x"), "tags": {"b": "x" * 200}, "origin": "unchanged", "input": 1}
    is_too_large(runner.report(outputs=[output]), "outputs.0.tags")
    ada("PATCH", file, {"tags": {}}, status=200)
    is_accepted(runner.report(outputs=[output]))


def test_the_document_of_an_attempt_has_the_first_page_of_its_inputs(app, wsgi, ada, helloworld):
    files = [ada.upload(f"{number}.txt", b"x", status=201).json["url"] for number in range(40)]
    for file in files:
        ada("PATCH", file, {"tags": of_size(LIMIT)}, status=200)
    pipeline, _ = pipeline_of(ada, {"function": helloworld})
    ada("POST", pipeline["runs"], {"files": files}, status=201)
    (runner,) = claimed(app, wsgi)
    answer = runner("GET", runner.url, status=200)
    assert len(answer.body) < 2**20 + LIMIT + 10_000
    names, following = [item["name"] for item in answer.json["inputs"]], answer.json["more_inputs"]
    while following:
        page = runner("GET", following, status=200).json
        names += [item["name"] for item in page["items"]]
        following = page["next"]
    assert names == [f"{number}.txt" for number in range(40)]


def test_a_login_does_not_wait_for_writers(wsgi, ada, nobody):
    with wsgi.registry.database.writing.begin() as db:
        db.execute(sa.update(User).values(role=User.role))
        tokens = nobody("POST", "auth/token", {"name": "ada", "password": PASSWORD}, status=200).json
        nobody("POST", "auth/token/refresh", {"refresh_token": tokens["refresh_token"]}, status=200)


def test_a_page_has_an_item_however_small_its_limit(wsgi, ada, tmp_path):
    for number in range(3):
        ada.upload(f"{number}", b"x", status=201)
    with another_app(wsgi, tmp_path, page_limit=1) as app:
        small = Client(app, token=ada.headers["Authorization"].split()[1])
        page = small("GET", "files", status=200).json
        assert [item["name"] for item in page["items"]] == ["2"]
        assert [item["name"] for item in small("GET", page["next"]).json["items"]] == ["1"]


def test_many_parameters_are_rejected(ada, nobody):
    for caller in (ada, nobody):
        answer = caller("GET", "files?" + "&".join("a" * 15_000))
        assert is_problem(answer, 400)["detail"] == "The query string must have at most 100 parameters."


def test_slow_work_leaves_threads_for_other_requests(wsgi, ada, nobody, root):
    said = {"name": "ada", "password": "x"}
    slots = wsgi.registry.mlapi.threads - 2
    with ExitStack() as busy:
        for _ in range(slots - 1):
            busy.enter_context(wsgi.registry.slow_work.slot())
        is_problem(nobody("POST", "auth/token", said), 401)
        with wsgi.registry.slow_work.slot():
            for answer in (
                nobody("POST", "auth/token", said),
                root("POST", "users", {"name": "bob", "password": PASSWORD}),
            ):
                assert is_problem(answer, 503)["detail"] == "The server is busy. Retry later."
                assert answer.headers["Retry-After"] == "1"
            ada("GET", "files", status=200)
        is_problem(nobody("POST", "auth/token", said), 401)


def test_a_single_thread_may_do_slow_work():
    slow_work = SlowWork(1)
    with slow_work.slot(), pytest.raises(Busy), slow_work.slot():
        pass
    with slow_work.slot():
        pass
