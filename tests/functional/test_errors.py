"""All errors of a request are reported together, wherever they are found."""

import pytest

from mlapi.models.pipelines import TASKS
from tests.support import is_problem, picky, pipeline_of


def fields(answer):
    """The location and name of every error of a problem."""
    return sorted((error["location"], error["name"]) for error in is_problem(answer, 422)["errors"])


@pytest.fixture
def pipeline(ada, helloworld):
    """A pipeline with one task."""
    pipeline, _ = pipeline_of(ada, {"function": helloworld})
    return pipeline


def test_the_name_and_the_password_of_a_user(root):
    answer = root("POST", "users", {"name": "No Slug", "password": "short", "role": "king", "colour": 1})
    assert fields(answer) == [("body", "colour"), ("body", "name"), ("body", "password"), ("body", "role")]


def test_the_position_and_the_arguments_of_a_task(ada, pipeline, helloworld):
    def refused(method="POST", url=pipeline["tasks"], **body):
        return fields(ada(method, url, body))

    unknown = {"no_such": 1}
    both = [("body", "arguments.no_such"), ("body", "position")]
    (task,) = ada("GET", pipeline["tasks"]).json["items"]
    for position in (99, "last"):
        assert refused(function=helloworld, arguments=unknown, position=position) == both
        assert refused("PATCH", task["url"], arguments=unknown, position=position) == both
    assert refused(function=helloworld, arguments=[], position=99) == [("body", "arguments"), ("body", "position")]
    assert refused(function="none", arguments=unknown, position=99) == [("body", "function"), ("body", "position")]
    assert refused(arguments=unknown, position=99, x=1) == [("body", "function"), ("body", "position"), ("body", "x")]
    assert refused("PATCH", task["url"], timeout=-1, after=[task["url"]]) == [("body", "after"), ("body", "timeout")]


def test_a_rejected_task_leaves_no_trace(ada, pipeline, helloworld):
    before = ada("GET", pipeline["tasks"]).json
    is_problem(ada("POST", pipeline["tasks"], {"function": helloworld, "timeout": "x"}), 422, "timeout")
    is_problem(
        ada("PATCH", before["items"][0]["url"], {"arguments": {"greeting": "Hi"}, "timeout": "x"}), 422, "timeout"
    )
    assert ada("GET", pipeline["tasks"]).json == before


def test_a_conflict_is_reported_when_all_fields_are_valid(ada, pipeline, helloworld):
    for _ in range(TASKS - 1):
        ada("POST", pipeline["tasks"], {"function": helloworld}, status=201)
    is_problem(ada("POST", pipeline["tasks"], {"function": helloworld, "timeout": "x"}), 422, "timeout")
    is_problem(ada("POST", pipeline["tasks"], {"function": helloworld}), 409)


def test_the_name_and_the_manifest_of_a_module(root):
    answer = root.form("modules", {"name": "No Slug"}, "archive", "a.tar", b"no archive")
    assert fields(answer) == [("body", "archive"), ("body", "name")]
    assert picky(root)


def test_a_repeated_parameter_and_the_others(ada):
    answer = ada("GET", "files?kind=x&limit=0&after=1&after=2&colour=1")
    assert [name for _, name in fields(answer)] == ["after", "colour", "kind", "limit"]


def test_thousands_of_unknown_arguments(ada, pipeline, helloworld):
    body = {"function": helloworld, "arguments": {f"a{number}": 1 for number in range(4990)}}
    answer = ada("POST", pipeline["tasks"], body)
    errors = is_problem(answer, 422)["errors"]
    assert len(errors) == 100
    assert errors[-1]["description"] == "4891 more errors."
    assert len(answer.body) < 50_000


def test_thousands_of_unknown_fields(ada):
    answer = ada("POST", "users/ada/pipelines", {f"no_such_{number}": number for number in range(4990)})
    errors = is_problem(answer, 422)["errors"]
    assert len(errors) == 100
    assert {"location": "body", "name": "", "description": "4990 unknown fields."} in errors
