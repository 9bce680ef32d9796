"""Pipelines and their tasks: creation, changes, order and deletion."""

import pytest

from tests.support import API, HOST, claimed, is_problem, pipeline_of

NEWEST = f"{API}/modules/helloworld/functions/say_hello"


@pytest.fixture
def pipeline(ada, helloworld):
    return pipeline_of(ada)[0]


@pytest.fixture
def add(ada, pipeline):
    """Add a task to the pipeline."""

    def added(status=201, **body):
        return ada("POST", pipeline["tasks"], {"function": NEWEST, **body}, status=status)

    return added


@pytest.fixture
def order(ada, pipeline):
    """The ids of the tasks in order; asserts that the positions are 1, 2, 3 and so on."""

    def asked():
        items = ada("GET", pipeline["tasks"], status=200).json["items"]
        assert [each["position"] for each in items] == list(range(1, len(items) + 1))
        return [each["id"] for each in items]

    return asked


class TestPipelines:
    """A pipeline has a name, and can be enabled for runs."""

    def test_is_created_and_shown(self, ada):
        made = ada("POST", "users/ada/pipelines", {"name": "Prüfung 1"}, status=201)
        url = made.json["url"]
        assert made.headers["Location"] == url
        assert made.json == {
            "id": made.json["id"],
            "url": f"http://{HOST}{API}/users/ada/pipelines/{made.json['id']}",
            "name": "Prüfung 1",
            "enabled": False,
            "created": made.json["created"],
            "tasks": f"{url}/tasks",
            "runs": f"{url}/runs",
            "grids": f"{url}/grids",
        }
        assert ada("GET", url, status=200).json == made.json
        assert ada("GET", "users/ada/pipelines", status=200).json["items"] == [made.json]

    @pytest.mark.parametrize("change", [{"name": "b"}, {"enabled": False}, {"name": "b", "enabled": False}, {}])
    def test_is_changed_only_in_the_fields_of_the_body(self, change, ada, pipeline):
        changed = ada("PATCH", pipeline["url"], change, status=200).json
        assert changed == pipeline | change
        assert ada("GET", pipeline["url"], status=200).json == changed

    @pytest.mark.parametrize("name", ["", "x" * 101])
    def test_has_a_name_of_1_to_100_characters(self, name, ada, pipeline):
        is_problem(ada("POST", "users/ada/pipelines", {"name": name}), 422, "name")
        is_problem(ada("PATCH", pipeline["url"], {"name": name}), 422, "name")
        assert ada("GET", pipeline["url"]).json == pipeline

    def test_can_have_the_name_of_another(self, ada):
        for _ in range(2):
            ada("POST", "users/ada/pipelines", {"name": "twin"}, status=201)
        assert len(ada("GET", "users/ada/pipelines?name=twin").json["items"]) == 2

    def test_is_deleted_with_its_tasks(self, ada, pipeline, add):
        task = add().json
        gone = ada("DELETE", pipeline["url"], status=200).json["deleted"]
        assert gone == {"pipelines": 1, "tasks": 1, "grids": 0, "runs": 0, "jobs": 0, "files": 0}
        for url in (pipeline["url"], task["url"], pipeline["tasks"], pipeline["runs"]):
            is_problem(ada("GET", url), 404)
        is_problem(ada("DELETE", pipeline["url"]), 404)

    def test_is_deleted_with_its_runs_and_their_outputs(self, ada, pipeline, add, app, wsgi):
        add()
        given = ada.upload("a.txt", b"a", status=201).json
        for _ in range(2):
            ada("POST", pipeline["runs"], {"files": [given["url"]]}, status=201)
        for runner in claimed(app, wsgi, 2):
            runner.finish("x.txt", "y.txt")
        gone = ada("DELETE", pipeline["url"], status=200).json["deleted"]
        assert gone == {"pipelines": 1, "tasks": 1, "grids": 0, "runs": 2, "jobs": 2, "files": 4}
        assert ada("GET", "users/ada/files").json["items"] == [given]
        assert ada("DELETE", given["url"]).status_int == 200

    def test_is_not_deleted_while_a_job_has_not_ended(self, ada, pipeline, add):
        add()
        file = ada.upload("a.txt", b"a", status=201).json["url"]
        run = ada("POST", pipeline["runs"], {"files": [file]}, status=201).json
        [job] = ada("GET", run["jobs"]).json["items"]
        assert is_problem(ada("DELETE", pipeline["url"]), 409)["jobs"] == [job["id"]]
        assert ada("GET", pipeline["url"], status=200).json == pipeline


class TestTasks:
    """Cases beyond `test_tasks.py`: all moves, and references that are not functions."""

    @pytest.mark.parametrize(
        "function",
        [
            f"{API}/modules/helloworld/functions/nothing",
            f"{API}/modules/nothing/functions/say_hello",
            f"{API}/modules/helloworld/versions/{'0' * 64}/functions/say_hello",
            f"{API}/modules/helloworld",
            f"{API}/modules//functions/",
            "say_hello",
            "",
            "http://[",
        ],
    )
    def test_refers_to_an_existing_function(self, function, ada, add):
        is_problem(add(function=function, status=422), 422, "function")
        is_problem(ada("PATCH", add().json["url"], {"function": function}), 422, "function")

    @pytest.mark.parametrize("start", [0, 1, 2, 3])
    @pytest.mark.parametrize("end", [1, 2, 3, 4])
    def test_is_moved(self, start, end, ada, add, order):
        tasks = [add().json for _ in range(4)]
        changed = ada("PATCH", tasks[start]["url"], {"position": end}, status=200).json
        assert changed["position"] == end
        made = [task["id"] for task in tasks]
        made.insert(end - 1, made.pop(start))
        assert order() == made
