"""How jobs are executed: the settings of tasks, and what a run changes of them."""

import pytest

from tests.support import API, claimed, is_problem, pipeline_of

SETTINGS = {
    "timeout": 60,
    "attempts": 5,
    "priority": -7,
    "resources": {"cpus": 1.5, "memory": 2**30, "gpus": 1},
    "inputs": ["*.txt"],
    "retry_on": [75, "worker_lost", "timeout"],
    "reuse": False,
}


@pytest.fixture
def gpu(root):
    """The URL of a queue with defaults."""
    made = {"name": "gpu", "timeout": 30, "attempts": 2, "resources": {"gpus": 1, "memory": 5}}
    return root("POST", "queues", made, status=201).json["url"]


@pytest.fixture
def file(ada):
    """The URL of a file of ada."""
    return ada.upload("a.txt", b"a", status=201).json["url"]


@pytest.fixture
def pipeline(ada, helloworld):
    """A pipeline of two tasks, one after the other."""
    return pipeline_of(ada, {"function": helloworld, "arguments": {"greeting": "Hi"}}, {"function": helloworld})


@pytest.fixture
def start(ada, file, pipeline):
    """A function that starts a run of the pipeline over the file; returns the response."""

    def started(status=201, **body):
        return ada("POST", pipeline[0]["runs"], {"files": [file], **body}, status=status)

    return started


def jobs_of(client, run):
    return [client("GET", job["url"]).json for job in client("GET", run["jobs"]).json["items"]]


class TestTasks:
    """A task has settings, which its jobs get."""

    def test_has_the_settings_of_the_body(self, ada, helloworld, pipeline, gpu):
        body = {"function": helloworld, "queue": gpu, **SETTINGS}
        task = ada("POST", pipeline[0]["tasks"], body, status=201).json
        assert {**task, **SETTINGS, "queue": gpu} == task

    def test_by_default_has_none(self, pipeline):
        assert {name: pipeline[1][0][name] for name in ("queue", *SETTINGS)} == dict.fromkeys(("queue", *SETTINGS))

    def test_is_changed_and_reset_by_null(self, ada, pipeline, gpu):
        task = pipeline[1][0]
        settings = {"queue": gpu, **SETTINGS}
        for name, value in settings.items():
            assert ada("PATCH", task["url"], {name: value}, status=200).json == {**task, name: value}, name
            assert ada("PATCH", task["url"], {name: None}, status=200).json == task, name

    def test_takes_the_longest_patterns(self, ada, pipeline):
        inputs = ["*" * 10 + "x" * 90] * 10
        assert ada("PATCH", pipeline[1][0]["url"], {"inputs": inputs}, status=200).json["inputs"] == inputs

    def test_names_patterns_by_parents(self, ada, pipeline):
        first, second = pipeline[1]
        inputs = {first["url"]: ["x*", "[ab].txt"]}
        assert ada("PATCH", second["url"], {"inputs": inputs}, status=200).json["inputs"] == inputs
        is_problem(ada("PATCH", second["url"], {"inputs": {second["url"]: ["*"]}}), 422, "inputs")
        is_problem(ada("PATCH", first["url"], {"inputs": {first["url"]: ["*"]}}), 422, "inputs")
        is_problem(ada("PATCH", second["url"], {"after": [], "inputs": inputs}), 422, "inputs")
        is_problem(ada("DELETE", first["url"]), 409)

    def test_whose_inputs_name_a_former_parent_cannot_run(self, ada, helloworld, pipeline, start):
        first, second = pipeline[1]
        ada("PATCH", second["url"], {"inputs": {first["url"]: ["x*"]}}, status=200)
        ada("POST", pipeline[0]["tasks"], {"function": helloworld, "position": 2}, status=201)
        assert "task 3" in is_problem(start(409), 409)["detail"]
        ada("PATCH", second["url"], {"inputs": None}, status=200)
        start(201)

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            *(({"timeout": value}, "timeout") for value in ("banana", -1, 0, 315_360_000, True)),
            *(({"attempts": value}, "attempts") for value in (0, 101, -1, 1.5, "3")),
            *(({"priority": value}, "priority") for value in (101, -101, 0.5, "high")),
            *(({"resources": value}, "resources") for value in ([], "all", 1)),
            *(({"resources": {"cpus": value}}, "resources.cpus") for value in (0, -1, "4", 1e300)),
            *(({"resources": {"memory": value}}, "resources.memory") for value in (0, 1.5, "1G", 2**60)),
            *(({"resources": {"gpus": value}}, "resources.gpus") for value in (-1, 0.5, 10**6)),
            ({"resources": {"tpus": 1}}, "resources.tpus"),
            *(
                ({"inputs": value}, "inputs")
                for value in ("*", 1, [1], [""], ["x" * 101], ["*" * 11], ["x" * 100] * 11, ["\0"], ["*"] * 101)
            ),
            *(({"inputs": {key: ["*"]}}, "inputs") for key in ("x", "", f"{API}/users/ada/files/1")),
            *(({"retry_on": [value]}, "retry_on.0") for value in (0, 256, -9, "oom", True, None, [])),
            *(({"reuse": value}, "reuse") for value in ("yes", 1)),
            *(({"queue": value}, "queue") for value in ("gpu", 1, f"{API}/queues/none", f"{API}/files/1")),
        ],
    )
    def test_rejects_what_is_not_valid(self, body, field, ada, helloworld, pipeline, start):
        task = pipeline[1][0]
        is_problem(ada("PATCH", task["url"], body), 422, field)
        is_problem(ada("POST", pipeline[0]["tasks"], {"function": helloworld, **body}), 422, field)
        is_problem(start(422, tasks=[{"task": task["url"], **body}]), 422, f"tasks.0.{field}")
        assert ada("GET", task["url"]).json == task


class TestRuns:
    """A run gives its jobs the settings of their tasks, with its changes and the defaults of their queues."""

    def test_jobs_have_the_settings_of_their_tasks_and_the_defaults_of_their_queues(self, ada, pipeline, gpu, start):
        first, second = pipeline[1]
        ada("PATCH", first["url"], SETTINGS, status=200)
        ada("PATCH", second["url"], {"queue": gpu, "resources": {"memory": 9}}, status=200)
        one, two = jobs_of(ada, start().json)
        assert (one["timeout"], one["attempt_limit"], one["priority"]) == (60, 5, -7)
        assert (one["resources"], one["retry_on"]) == (SETTINGS["resources"], SETTINGS["retry_on"])
        assert (one["patterns"], one["queue"]) == ({"*": ["*.txt"]}, f"http://localhost:6543{API}/queues/default")
        assert (two["queue"], two["timeout"], two["attempt_limit"], two["priority"]) == (gpu, 30, 2, 0)
        assert two["resources"] == {"cpus": None, "memory": 9, "gpus": 1}

    def test_changes_all_jobs_or_single_ones(self, ada, pipeline, gpu, start, app, wsgi):
        first, second = pipeline[1]
        ada("PATCH", second["url"], {"resources": {"cpus": 2}, "priority": 1}, status=200)
        default = f"http://localhost:6543{API}/queues/default"
        change = {"task": second["url"], "queue": default, "priority": 9, "resources": {"gpus": 2}, "timeout": 5}
        change |= {"arguments": {"excited": True}, "inputs": {first["url"]: ["*.npz"]}, "attempts": 4}
        run = start(queue=gpu, priority=3, tasks=[change]).json
        one, two = jobs_of(ada, run)
        assert (one["queue"], one["priority"], one["arguments"]) == (gpu, 3, first["arguments"])
        assert (two["queue"], two["priority"], two["timeout"], two["attempt_limit"]) == (default, 9, 5, 4)
        assert two["resources"] == {"cpus": 2, "memory": None, "gpus": 2}
        assert (two["arguments"], two["patterns"]) == ({"greeting": "Hello", "excited": True}, {"1": ["*.npz"]})
        del change["task"]
        assert run["changes"] == {"queue": gpu, "priority": 3, "jobs": [{"position": 2, **change}]}
        assert ada("GET", second["url"]).json["arguments"] == {"greeting": "Hello", "excited": False}

    def test_null_is_the_value_of_a_task_and_a_run_that_say_nothing(self, ada, pipeline, gpu, start):
        task = pipeline[1][0]["url"]
        ada("PATCH", task, {**SETTINGS, "queue": gpu}, status=200)
        null = dict.fromkeys(("queue", *SETTINGS))
        run = start(queue=gpu, priority=3, reuse=True, tasks=[{"task": task, **null}]).json
        job, _ = jobs_of(ada, run)
        default = f"http://localhost:6543{API}/queues/default"
        assert (job["queue"], job["timeout"], job["attempt_limit"], job["priority"]) == (default, None, None, 0)
        assert job["resources"] == dict.fromkeys(("cpus", "memory", "gpus"))
        assert (job["patterns"], job["retry_on"]) == (None, None)
        assert run["changes"] == {"queue": gpu, "priority": 3, "reuse": True, "jobs": [{"position": 1, **null}]}
        queued = {"task": task, "resources": None, "timeout": None}
        job, _ = jobs_of(ada, start(tasks=[queued]).json)
        assert (job["queue"], job["timeout"]) == (gpu, 30)
        assert job["resources"] == {"cpus": None, "memory": 5, "gpus": 1}
        run = start(queue=None, priority=None).json
        assert [(job["queue"], job["priority"]) for job in jobs_of(ada, run)] == [(default, 0)] * 2
        assert run["changes"] == {"queue": None, "priority": None}

    def test_arguments_are_checked(self, pipeline, start):
        task = pipeline[1][0]["url"]
        wrong = {"task": task, "arguments": {"greeting": 1, "no": 1}}
        is_problem(start(422, tasks=[wrong]), 422, "tasks.0.arguments.greeting", "tasks.0.arguments.no")

    def test_tasks_are_those_of_the_pipeline_once_each(self, ada, pipeline, helloworld, start):
        _, [other] = pipeline_of(ada, {"function": helloworld})
        task = pipeline[1][0]["url"]
        asked = [{"task": url} for url in (other["url"], task, f"{pipeline[0]['tasks']}/{other['id']}", task)]
        is_problem(start(422, tasks=asked), 422, "tasks.0.task", "tasks.2.task", "tasks.3.task")

    def test_an_unknown_queue_is_an_error_of_its_field(self, pipeline, start):
        none = f"{API}/queues/none"
        is_problem(
            start(422, queue=none, tasks=[{"task": pipeline[1][0]["url"], "queue": none}]),
            422,
            "queue",
            "tasks.0.queue",
        )

    def test_the_changes_do_not_name_a_deleted_queue_nor_a_new_one_of_its_name(self, ada, root, pipeline, gpu, start):
        run = start(queue=gpu, tasks=[{"task": pipeline[1][0]["url"], "queue": gpu}]).json
        assert run["changes"] == {"queue": gpu, "jobs": [{"position": 1, "queue": gpu}]}
        root("DELETE", f"{gpu}?move_to={API}/queues/default", status=200)
        gone = {"queue": None, "jobs": [{"position": 1, "queue": None}]}
        assert ada("GET", run["url"]).json["changes"] == gone
        root("POST", "queues", {"name": "gpu"}, status=201)
        assert ada("GET", run["url"]).json["changes"] == gone
        ada("POST", f"{run['url']}/cancel", status=200)

    def test_a_locked_queue_takes_no_runs(self, ada, root, pipeline, gpu, start):
        root("PUT", f"{gpu}/lock", status=200)
        for body in ({"queue": gpu}, {"tasks": [{"task": pipeline[1][1]["url"], "queue": gpu}]}):
            assert is_problem(start(409, **body), 409)["detail"] == "Queue gpu is locked."
        ada("PATCH", pipeline[1][1]["url"], {"queue": gpu}, status=200)
        is_problem(start(409), 409)
        start(201, queue=f"{API}/queues/default")
        root("DELETE", f"{gpu}/lock", status=200)
        start(201)

    @pytest.mark.parametrize(
        "body", [{"priority": 101}, {"priority": "1"}, {"reuse": 1}, {"tasks": {}}, {"queue": "x"}]
    )
    def test_rejects_what_is_not_valid(self, body, start):
        is_problem(start(422, **body), 422, *body)

    def test_an_idempotency_key_belongs_to_the_whole_request(self, ada, pipeline, file):
        key, task = {"Idempotency-Key": "k"}, pipeline[1][0]["url"]
        axis = {"tasks": [task], "option": "greeting", "values": ["a"]}
        bodies = [
            {"files": [file], "priority": 1, "tasks": [{"task": task, "timeout": 5}]},
            {"files": [file], "priority": 2, "tasks": [{"task": task, "timeout": 5}]},
            {"files": [file], "priority": 1, "tasks": [{"task": task, "timeout": 6}]},
            {"files": [file], "priority": 1, "tasks": [{"task": task, "timeout": 5}], "grid": [axis]},
        ]
        answers = [ada("POST", pipeline[0]["runs"], body, headers=key) for body in (bodies[0], *bodies)]
        assert [answer.status_int for answer in answers] == [201, 200, 409, 409, 409]
        assert answers[0].json["url"] == answers[1].json["url"]


class TestPriorities:
    """Jobs of a higher priority are claimed first, then older ones."""

    def test_a_higher_priority_comes_first(self, ada, pipeline, start, app, wsgi):
        runs = [start(priority=priority).json["url"] for priority in (0, -100, 100, 0)]
        taken = [runner("GET", runner.url).json["job"].partition("/jobs/")[0] for runner in claimed(app, wsgi, 1)]
        taken += [
            runner("GET", runner.url).json["job"].partition("/jobs/")[0]
            for _ in range(3)
            for runner in claimed(app, wsgi, 1)
        ]
        assert taken == [runs[2], runs[0], runs[3], runs[1]]
