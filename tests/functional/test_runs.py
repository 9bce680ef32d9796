"""Runs: start, idempotency, immutability, status, cancellation and deletion."""

import shutil

import pytest

from tests.conftest import archive_of
from tests.support import ROOT, claimed, is_problem, pipeline_of


@pytest.fixture
def files(ada):
    """The URLs of three files of ada."""
    return [ada.upload(f"{name}.txt", name.encode(), status=201).json["url"] for name in "abc"]


@pytest.fixture
def pipeline(ada, helloworld):
    """A pipeline of two tasks, one after the other."""
    return pipeline_of(ada, {"function": helloworld, "arguments": {"greeting": "Hi"}}, {"function": helloworld})


@pytest.fixture
def start(ada, files, pipeline):
    """Start a run of the pipeline, by default over the first file."""

    def started(over=None, status=201, **headers):
        body = {"files": files[:1] if over is None else over}
        return ada("POST", pipeline[0]["runs"], body, status=status, headers=headers)

    return started


def jobs_of(client, run):
    return client("GET", run["jobs"], status=200).json["items"]


def names_of(client, job):
    """The names of the input files of a job."""
    shown = client("GET", job["url"], status=200).json
    return [client("GET", url, status=200).json["name"] for url in shown["inputs"]]


class TestStart:
    """A run is created with all its jobs."""

    def test_creates_one_job_per_task(self, ada, files, pipeline, start):
        made = start(files[:2])
        run = made.json
        assert made.headers["Location"] == run["url"]
        assert run == {
            "id": run["id"],
            "url": f"{pipeline[0]['runs']}/{run['id']}",
            "pipeline": pipeline[0]["url"],
            "created": run["created"],
            "jobs": f"{run['url']}/jobs",
            "status": "QUEUED",
            "progress": {"jobs": 2, "over": 0, "statuses": {"QUEUED": 1, "PENDING": 1}},
            "grid": None,
            "files": files[:2],
            "changes": None,
            "rerun_of": None,
            "warnings": ["No scheduler is running."],
            "events": f"{run['url']}/events",
        }
        assert ada("GET", run["url"], status=200).json == run
        first, second = jobs_of(ada, run)
        assert [first["position"], second["position"]] == [1, 2]
        assert [first["status"], second["status"]] == ["QUEUED", "PENDING"]
        shown = [ada("GET", job["url"]).json for job in (first, second)]
        assert [job["task"] for job in shown] == [task["url"] for task in pipeline[1]]
        assert [job["function"] for job in shown] == [task["function"] for task in pipeline[1]]
        assert [job["arguments"] for job in shown] == [task["arguments"] for task in pipeline[1]]
        assert [job["inputs"] for job in shown] == [files[:2], []]
        assert [job["after"] for job in shown] == [[], [first["url"]]]

    def test_requires_an_enabled_pipeline(self, ada, pipeline, start):
        ada("PATCH", pipeline[0]["url"], {"enabled": False}, status=200)
        is_problem(start(status=409), 409)

    def test_requires_a_task(self, ada, files):
        empty = pipeline_of(ada)[0]
        is_problem(ada("POST", empty["runs"], {"files": files}), 409)

    def test_requires_existing_files(self, files, start):
        is_problem(start([files[0], f"{files[0]}000", f"{files[1]}000"], status=422), 422, "files.1", "files.2")

    @pytest.mark.parametrize("url", ["", "x", "/api/v1/users/ada/pipelines/1", "/api/v1/users/ada/files/x/content"])
    def test_requires_urls_of_files(self, url, start):
        is_problem(start([url], status=422), 422, "files.0")

    def test_requires_files_that_the_first_tasks_accept(self, ada, files, start):
        other = ada.upload("picture.png", b"", status=201).json["url"]
        is_problem(start([files[0], other], status=422), 422, "files")

    def test_a_rejected_run_leaves_nothing(self, ada, pipeline, start):
        start(["x"], status=422)
        assert ada("GET", pipeline[0]["runs"]).json["items"] == []
        assert ada("GET", "jobs").json["items"] == []


class TestIdempotencyKey:
    """The same key returns the same run."""

    def test_the_same_key_returns_the_same_run(self, ada, pipeline, start):
        first = start(**{"Idempotency-Key": "k 1"})
        again = start(status=200, **{"Idempotency-Key": "k 1"})
        assert again.json == first.json
        assert again.headers["Location"] == first.headers["Location"]
        assert len(ada("GET", pipeline[0]["runs"]).json["items"]) == 1

    def test_returns_the_run_even_if_the_pipeline_has_changed(self, ada, pipeline, start):
        first = start(**{"Idempotency-Key": "k"}).json
        ada("PATCH", pipeline[0]["url"], {"enabled": False}, status=200)
        assert start(status=200, **{"Idempotency-Key": "k"}).json["url"] == first["url"]

    def test_the_same_key_with_other_files_is_a_conflict(self, files, start):
        start(files[:2], **{"Idempotency-Key": "k"})
        for other in ([files[0]], files, [files[1], files[0]]):
            is_problem(start(other, status=409, **{"Idempotency-Key": "k"}), 409)

    def test_another_key_or_none_starts_another_run(self, ada, pipeline, start):
        made = [start(**headers).json["id"] for headers in ({"Idempotency-Key": "k"}, {"Idempotency-Key": "K"}, {}, {})]
        assert len(set(made)) == 4

    def test_belongs_to_the_pipeline(self, ada, files, start, helloworld):
        first = start(**{"Idempotency-Key": "k"}).json
        other, _ = pipeline_of(ada, {"function": helloworld})
        made = ada("POST", other["runs"], {"files": files}, headers={"Idempotency-Key": "k"}, status=201).json
        assert made["id"] != first["id"]

    @pytest.mark.parametrize("key", ["", "x" * 201, "é", "a\tb"])
    def test_must_have_1_to_200_printable_characters(self, key, start):
        problem = is_problem(start(status=422, **{"Idempotency-Key": key}), 422, "Idempotency-Key")
        assert problem["errors"][0]["location"] == "header"

    def test_can_have_200_characters(self, start):
        start(**{"Idempotency-Key": "x" * 200})


@pytest.fixture
def register(root, tmp_path):
    """Register another version of the sample module."""

    def registered(text):
        folder = tmp_path / text
        shutil.copytree(ROOT / "modules" / "helloworld", folder)
        (folder / "main.py").write_text(f"# {text}\n")
        fields = {"name": "helloworld"}
        made = root.form("modules", fields, "archive", "m.tar.gz", archive_of(folder), status=201)
        return made.json["registered"]

    return registered


class TestFrozen:
    """Changes after the start of a run do not affect its jobs."""

    def test_a_run_keeps_the_tasks_and_arguments_that_it_was_started_with(
        self, ada, pipeline, start, helloworld, app, wsgi
    ):
        run = start().json
        before = [ada("GET", job["url"]).json for job in jobs_of(ada, run)]
        first, second = pipeline[1]
        ada("PATCH", first["url"], {"arguments": {"greeting": "Bye"}, "timeout": 5}, status=200)
        ada("PATCH", second["url"], {"position": 1}, status=200)
        ada("POST", pipeline[0]["tasks"], {"function": helloworld, "position": 1}, status=201)
        ada("PATCH", pipeline[0]["url"], {"name": "other", "enabled": False}, status=200)
        assert [ada("GET", job["url"]).json for job in jobs_of(ada, run)] == before
        ada("DELETE", first["url"], status=200)
        after = [ada("GET", job["url"]).json for job in jobs_of(ada, run)]
        assert after == [before[0] | {"task": None}, before[1]]
        [runner] = claimed(app, wsgi)
        assert runner("GET", runner.url, status=200).json["arguments"] == {"greeting": "Hi", "excited": False}

    def test_a_run_keeps_the_version_of_the_module(self, ada, pipeline, start, register, app, wsgi):
        old = ada("GET", "modules/helloworld").json["version"]
        run = start().json
        new = register("two")
        assert new != old
        assert ada("GET", "modules/helloworld").json["version"] == new
        for job in jobs_of(ada, run):
            assert job["function"] == f"{old}/functions/say_hello"
        [runner] = claimed(app, wsgi)
        module = runner("GET", runner.url, status=200).json["module"]
        assert old.endswith(module["version"])
        assert b"# two" not in runner("GET", module["archive"], status=200).body
        assert start().json["id"] != run["id"]

    def test_a_task_keeps_its_version_until_it_is_changed(self, ada, pipeline, register, helloworld):
        old = ada("GET", "modules/helloworld").json["version"]
        new = register("two")
        task = pipeline[1][0]
        assert ada("PATCH", task["url"], {"timeout": 9}, status=200).json["function"].startswith(old)
        assert ada("PATCH", task["url"], {"function": helloworld}, status=200).json["function"].startswith(new)


class TestGraph:
    """The outputs of a job are the inputs of its dependents."""

    def test_a_chain_passes_outputs_on(self, ada, start, app, wsgi):
        run = start().json
        claimed(app, wsgi)[0].finish("x.txt", "y.txt")
        first, second = jobs_of(ada, run)
        assert names_of(ada, second) == ["x.txt", "y.txt"]
        assert ada("GET", first["url"]).json["outputs"] == ada("GET", second["url"]).json["inputs"]

    @pytest.mark.parametrize("finishes_first", [0, 1])
    def test_inputs_are_in_the_order_of_the_parents(self, finishes_first, ada, files, helloworld, app, wsgi):
        graph, [one, two, _] = pipeline_of(ada, *({"function": helloworld, "after": after} for after in ([], [], [])))
        task = ada("GET", graph["tasks"]).json["items"][2]
        ada("PATCH", task["url"], {"after": [two["url"], one["url"]]}, status=200)
        run = ada("POST", graph["runs"], {"files": files[:1]}, status=201).json
        runners = claimed(app, wsgi, 9)
        assert len(runners) == 2
        for index in (finishes_first, 1 - finishes_first):
            assert claimed(app, wsgi) == []
            runners[index].finish(f"b{index}.txt", f"a{index}.txt")
        assert names_of(ada, jobs_of(ada, run)[2]) == ["b0.txt", "a0.txt", "b1.txt", "a1.txt"]
        [last] = claimed(app, wsgi)
        inputs = last("GET", last.url, status=200).json["inputs"]
        assert [each["name"] for each in inputs] == ["b0.txt", "a0.txt", "b1.txt", "a1.txt"]
        assert [each["number"] for each in inputs] == [1, 2, 3, 4]

    def test_a_branch_that_starts_from_the_files_is_queued_immediately(self, ada, files, helloworld, app, wsgi):
        graph, _ = pipeline_of(ada, {"function": helloworld}, {"function": helloworld, "after": []})
        run = ada("POST", graph["runs"], {"files": files}, status=201).json
        assert [job["status"] for job in jobs_of(ada, run)] == ["QUEUED", "QUEUED"]
        for runner in claimed(app, wsgi, 2):
            shown = runner("GET", runner.url).json
            assert [each["name"] for each in shown["inputs"]] == ["a.txt", "b.txt", "c.txt"]

    def test_duplicate_input_names_get_numbers(self, ada, start, app, wsgi):
        names = ["a.txt", "a.txt", "a_2.txt", "a.tar.txt", "a.tar.txt", "a.txt", ".txt", ".txt"]
        start([ada.upload(name, b"", status=201).json["url"] for name in names])
        [runner] = claimed(app, wsgi)
        taken = [each["name"] for each in runner("GET", runner.url).json["inputs"]]
        assert taken == [
            "a.txt",
            "a_2.txt",
            "a_2_2.txt",
            "a.tar.txt",
            "a.tar_2.txt",
            "a_3.txt",
            ".txt",
            ".txt_2",
        ]

    def test_the_same_file_can_be_used_twice(self, ada, files, start, app, wsgi):
        assert start([files[0], files[0]]).json["files"] == [files[0], files[0]]
        [runner] = claimed(app, wsgi)
        assert [each["name"] for each in runner("GET", runner.url).json["inputs"]] == ["a.txt", "a_2.txt"]


class TestStatus:
    """The status of a run is computed from those of its jobs."""

    def test_changes_from_queued_to_running_to_finished(self, ada, start, app, wsgi):
        run = start().json
        seen = []
        for _ in range(2):
            seen.append(ada("GET", run["url"]).json)
            [runner] = claimed(app, wsgi)
            seen.append(ada("GET", run["url"]).json)
            runner.finish("x.txt")
        seen.append(ada("GET", run["url"]).json)
        assert [each["status"] for each in seen] == ["QUEUED", "RUNNING", "RUNNING", "RUNNING", "FINISHED"]
        assert [each["progress"]["over"] for each in seen] == [0, 0, 1, 1, 2]
        assert seen[2]["progress"] == {"jobs": 2, "over": 1, "statuses": {"FINISHED": 1, "QUEUED": 1}}
        for place in ("runs", run["pipeline"] + "/runs"):
            [listed] = ada("GET", place).json["items"]
            assert listed.items() <= seen[-1].items()

    @pytest.mark.parametrize(("ending", "status"), [("FAILED", "FAILED"), ("CANCELLED", "CANCELLED")])
    def test_is_that_of_the_job_that_did_not_finish(self, ending, status, ada, start, app, wsgi):
        run = start().json
        claimed(app, wsgi)[0].report(ending, reason="So it was.")
        shown = ada("GET", run["url"]).json
        assert (shown["status"], shown["progress"]["over"]) == (status, 2)


class TestCancel:
    """Waiting jobs are cancelled immediately, running jobs at the next heartbeat."""

    def test_waiting_jobs_are_cancelled(self, ada, start, app, wsgi):
        run = start().json
        assert ada("POST", f"{run['url']}/cancel", status=200).json["status"] == "CANCELLED"
        for job in jobs_of(ada, run):
            assert (job["status"], job["reason"]) == ("CANCELLED", "Cancelled before it ran.")
            assert job["ended"] is not None
        assert claimed(app, wsgi) == []

    def test_running_jobs_are_cancelled_by_their_runner(self, ada, start, app, wsgi):
        run = start().json
        [runner] = claimed(app, wsgi)
        for _ in range(2):
            shown = ada("POST", f"{run['url']}/cancel", status=200).json
            assert shown["progress"]["statuses"] == {"RUNNING": 1, "CANCELLED": 1}
        assert runner("POST", f"{runner.url}/heartbeat", {}, status=200).json == {"cancel": True}
        runner.report("CANCELLED", reason="Killed.")
        assert ada("GET", run["url"]).json["status"] == "CANCELLED"

    @pytest.mark.parametrize("ending", ["FINISHED", "FAILED", "CANCELLED"])
    def test_ended_jobs_do_not_change(self, ending, ada, helloworld, files, app, wsgi):
        pipeline, _ = pipeline_of(ada, {"function": helloworld})
        run = ada("POST", pipeline["runs"], {"files": files}, status=201).json
        claimed(app, wsgi)[0].report(ending)
        before = ada("GET", run["url"]).json
        assert before["status"] == ending
        is_problem(ada("POST", f"{run['url']}/cancel"), 409)
        assert ada("GET", run["url"]).json == before


class TestDelete:
    """A run that has ended is deleted with its jobs and their outputs."""

    @pytest.fixture
    def finished(self, ada, start, app, wsgi):
        """A run with two finished jobs, each with one file and a log."""
        run = start().json
        for name in ("x.txt", "y.txt"):
            [runner] = claimed(app, wsgi)
            runner("PUT", f"{runner.url}/log?offset=0", body=b"log", status=200)
            runner.finish(name)
        return run

    def test_deletes_jobs_and_their_files(self, ada, files, finished):
        gone = ada("DELETE", finished["url"], status=200).json["deleted"]
        assert gone == {"runs": 1, "jobs": 2, "files": 2}
        assert [each["url"] for each in ada("GET", "files").json["items"]] == files[::-1]
        assert ada("GET", "jobs").json["items"] == ada("GET", "runs").json["items"] == []
        is_problem(ada("GET", finished["url"]), 404)
        is_problem(ada("DELETE", finished["url"]), 404)
        ada("DELETE", files[0], status=200)

    def test_is_a_conflict_until_all_jobs_have_ended(self, ada, start, app, wsgi):
        run = start().json
        waiting = [job["id"] for job in jobs_of(ada, run)]
        assert is_problem(ada("DELETE", run["url"]), 409)["jobs"] == waiting
        [runner] = claimed(app, wsgi)
        assert is_problem(ada("DELETE", run["url"]), 409)["jobs"] == waiting
        runner.report("FAILED")
        gone = ada("DELETE", run["url"], status=200).json["deleted"]
        assert gone == {"runs": 1, "jobs": 2, "files": 0}

    def test_is_a_conflict_while_another_run_uses_its_outputs(self, ada, finished, start):
        made = ada("GET", "files?kind=OUTPUT").json["items"][0]["url"]
        user = start([made]).json
        before = ada("GET", finished["url"]).json
        assert is_problem(ada("DELETE", finished["url"]), 409)["runs"] == [user["id"]]
        assert ada("GET", finished["url"]).json == before
        ada("POST", f"{user['url']}/cancel", status=200)
        ada("DELETE", user["url"], status=200)
        ada("DELETE", finished["url"], status=200)

    def test_keeps_files_whose_parents_it_deletes(self, ada, finished):
        made = ada("GET", "files?kind=OUTPUT").json["items"][0]
        form = ada.form("users/ada/files", {"parent": made["url"]}, "file", "child.txt", b"", status=201)
        assert form.json["parent"] == made["url"]
        ada("DELETE", finished["url"], status=200)
        assert ada("GET", form.json["url"]).json == form.json | {"parent": None}

    def test_a_pipeline_is_deleted_with_runs_that_use_each_other(self, ada, finished, start):
        made = ada("GET", "files?kind=OUTPUT").json["items"][0]["url"]
        user = start([made]).json
        ada("POST", f"{user['url']}/cancel", status=200)
        gone = ada("DELETE", finished["pipeline"], status=200).json["deleted"]
        assert gone == {"pipelines": 1, "tasks": 2, "grids": 0, "runs": 2, "jobs": 4, "files": 2}
