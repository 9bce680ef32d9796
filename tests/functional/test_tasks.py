"""Tasks over HTTP: order, graph, and arguments of their functions."""

import io
import tarfile
from urllib.parse import urlsplit

import pytest

from tests.support import is_problem

MANIFEST = b"""\
display_name: Options of every type
tagline: For tests
doctxt: For tests
command: ["true"]
functions:
  - name: every
    doctxt: Takes an option of every type.
    creates_new_files: true
    modifies_input_files: false
    expected_filetype: ""
    options:
      - {name: text, type: str, doctxt: "", required: true, minimum: 2, maximum: 5}
      - {name: method, type: enum, doctxt: "", required: true, enum_values: [fgsm, pgd], default: pgd}
      - {name: steps, type: int, doctxt: "", required: false, default: 10, minimum: 1, maximum: 100}
      - {name: epsilon, type: float, doctxt: "", required: false, default: 0.5, minimum: 0, maximum: 1}
      - {name: loud, type: bool, doctxt: "", required: false, default: false}
      - {name: big, type: int, doctxt: "", required: false, default: 0}
      - {name: free, type: str, doctxt: "", required: false, default: ""}
  - name: plain
    doctxt: Takes no options.
    creates_new_files: true
    modifies_input_files: false
    expected_filetype: ""
    input_files: {minimum: 2, maximum: 3}
"""

DEFAULTS = {"method": "pgd", "steps": 10, "epsilon": 0.5, "loud": False, "big": 0, "free": ""}


@pytest.fixture
def functions(root):
    """URL of the functions of a module with options of every type."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("mlapi.yaml")
        member.size = len(MANIFEST)
        archive.addfile(member, io.BytesIO(MANIFEST))
    made = root.form("modules", {"name": "options"}, "archive", "m.tar", packed.getvalue(), status=201)
    return made.json["functions"]


@pytest.fixture
def pipeline(ada):
    """An enabled pipeline of ada without tasks."""
    return ada("POST", "users/ada/pipelines", {"name": "p", "enabled": True}, status=201).json


@pytest.fixture
def add(ada, pipeline, functions):
    """Add a task without options to the pipeline; returns the response."""

    def add(**body):
        return ada("POST", pipeline["tasks"], {"function": f"{functions}/plain", **body})

    return add


@pytest.fixture
def order(ada, pipeline):
    """The URLs of the listed tasks; asserts that positions start at 1."""

    def order():
        items = ada("GET", pipeline["tasks"], status=200).json["items"]
        assert [each["position"] for each in items] == list(range(1, len(items) + 1))
        return [each["url"] for each in items]

    return order


@pytest.fixture
def check(ada, pipeline, functions):
    """Create a task with arguments; returns the response."""

    def check(arguments):
        return ada("POST", pipeline["tasks"], {"function": f"{functions}/every", "arguments": arguments})

    return check


def test_a_task_has_the_values_of_the_body_and_defaults(ada, pipeline, functions):
    body = {"function": f"{functions}/every", "arguments": {"text": "abc"}}
    answer = ada("POST", pipeline["tasks"], body, status=201)
    task = answer.json
    assert answer.headers["Location"] == task["url"]
    assert ada("GET", task["url"]).json == task
    assert task["pipeline"] == pipeline["url"]
    assert (task["position"], task["after"], task["timeout"]) == (1, None, None)
    assert task["arguments"] == {"text": "abc"} | DEFAULTS
    assert ada("GET", task["function"]).json["name"] == "every"


def test_a_function_is_referenced_by_any_form_of_its_url(ada, pipeline, functions):
    version = ada("GET", f"{functions}/plain").json["url"]
    for url in (f"{functions}/plain", urlsplit(f"{functions}/plain").path, version, urlsplit(version).path):
        task = ada("POST", pipeline["tasks"], {"function": url}, status=201).json
        assert task["function"] == version


ARGUMENTS = {
    "all": ({"text": "abcde", "method": "fgsm", "steps": 1, "epsilon": 1.0, "loud": True}, {}),
    "a whole number for a float": ({"text": "abc", "epsilon": 1}, {"epsilon": 1.0}),
    "null for what has a default": ({"text": "abc", "steps": None, "method": None}, {}),
    "the bounds": ({"text": "ab", "steps": 100, "epsilon": 0}, {"epsilon": 0.0}),
    "the largest integer": ({"text": "abc", "big": 2**63 - 1}, {}),
    "the smallest integer": ({"text": "abc", "big": -(2**63)}, {}),
    "characters, not bytes": ({"text": "👩🔬éßa"}, {}),
    "an empty string": ({"text": "abc", "free": ""}, {}),
    "any text": ({"text": "abc", "free": "'; DROP TABLE tasks; -- \u202e %s {0} \n"}, {}),
}


@pytest.mark.parametrize(("given", "kept"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_valid_arguments_are_stored_with_defaults_filled_in(given, kept, check):
    answer = check(given)
    assert answer.status_int == 201, answer.text
    values = {name: value for name, value in given.items() if value is not None}
    found = answer.json["arguments"]
    assert found == DEFAULTS | values | kept
    assert {name: type(value) for name, value in found.items()} == {
        "text": str,
        "method": str,
        "steps": int,
        "epsilon": float,
        "loud": bool,
        "big": int,
        "free": str,
    }


MISFITS = [
    *(("text", value) for value in (None, "", "a", "abcdef", 3, True, [], {}, "a\0b", "\ud800ab")),
    *(("method", value) for value in ("", "PGD", "cw", 0, True, ["pgd"])),
    *(("steps", value) for value in (0, 101, -1, "3", True, False, 3.7, 3.0, [3], "", 2**63, 10**30)),
    *(("epsilon", value) for value in (-0.1, 1.1, "0.5", True, [], 10**400, 2**70)),
    *(("loud", value) for value in (0, 1, "true", "", "false", [], {})),
    *(("big", value) for value in (2**63, -(2**63) - 1)),
    *(("free", value) for value in (0, False, [""], {"a": 1}, "\0")),
]


@pytest.mark.parametrize(("name", "value"), MISFITS, ids=lambda value: repr(value)[:20])
def test_an_invalid_argument_is_rejected_and_not_coerced(name, value, check, ada, pipeline):
    answer = check({"text": "abc", name: value})
    if answer.status_int == 400:
        assert abs(value) > 2**64  # More digits than strict JSON allows.
    else:
        problem = is_problem(answer, 422)
        assert [each["name"] for each in problem["errors"]] in ([f"arguments.{name}"], ["arguments"])
        assert problem["errors"][0]["location"] == "body"
    assert ada("GET", pipeline["tasks"]).json["items"] == []


def test_all_invalid_arguments_are_reported_together(check):
    answer = check({"method": "cw", "steps": "3", "epsilon": True, "loud": 1, "color": "red", "": 0})
    names = ("text", "method", "steps", "epsilon", "loud", "color", "")
    is_problem(answer, 422, *(f"arguments.{name}" for name in names))


def test_the_error_of_an_enum_lists_its_values(check):
    problem = is_problem(check({"text": "abc", "method": "cw"}), 422, "arguments.method")
    assert "fgsm, pgd" in problem["errors"][0]["description"]


@pytest.mark.parametrize("arguments", [None, [], "text", 3, [["text", "abc"]]])
def test_arguments_that_are_not_an_object_are_rejected(arguments, check):
    is_problem(check(arguments), 422, "arguments")


def test_a_function_without_options_accepts_no_arguments(add):
    assert add(arguments={}).json["arguments"] == {}
    is_problem(add(arguments={"text": "abc"}), 422, "arguments.text")


def test_tasks_are_inserted_at_their_positions(add, order):
    first, second = (add().json["url"] for _ in range(2))
    front, middle, end = (add(position=position).json["url"] for position in (1, 3, 5))
    assert order() == [front, first, middle, second, end]


@pytest.mark.parametrize("position", [0, -1, 3, 2**63 - 1])
def test_an_invalid_position_is_rejected(position, add, order):
    only = add().json["url"]
    is_problem(add(position=position), 422, "position")
    assert order() == [only]


@pytest.mark.parametrize("position", [None, "1", True, 1.0, 2**63])
def test_a_position_must_be_an_integer(position, add):
    is_problem(add(position=position), 422, "position")


def test_a_task_is_moved_and_the_others_shift(ada, add, order):
    a, b, c, d = (add().json["url"] for _ in range(4))
    for url, position, expected in ((d, 1, [d, a, b, c]), (d, 4, [a, b, c, d]), (b, 3, [a, c, b, d])):
        assert ada("PATCH", url, {"position": position}, status=200).json["position"] == position
        assert order() == expected
    for position in (0, 5):
        is_problem(ada("PATCH", a, {"position": position}), 422, "position")
    assert order() == [a, c, b, d]


def test_a_deleted_task_leaves_no_gap(ada, add, order):
    a, b, c = (add().json["url"] for _ in range(3))
    assert ada("DELETE", b, status=200).json == {"deleted": {"tasks": 1}}
    assert order() == [a, c]
    is_problem(ada("GET", b), 404)
    is_problem(ada("PATCH", b, {"position": 1}), 404)


def test_missing_fields_are_not_changed(ada, pipeline, functions):
    arguments = {"text": "abc", "steps": 3}
    body = {"function": f"{functions}/every", "arguments": arguments, "timeout": 7.5, "after": []}
    task = ada("POST", pipeline["tasks"], body, status=201).json
    assert ada("PATCH", task["url"], {}, status=200).json == task
    assert ada("PATCH", task["url"], {"timeout": 8}, status=200).json == task | {"timeout": 8}
    assert ada("PATCH", task["url"], {"timeout": None}, status=200).json == task | {"timeout": None}
    changed = ada("PATCH", task["url"], {"arguments": {"text": "new"}}, status=200).json
    assert changed["arguments"] == DEFAULTS | {"text": "new"}
    is_problem(ada("PATCH", task["url"], {"arguments": {"text": "n"}, "timeout": 9}), 422, "arguments.text")
    is_problem(ada("PATCH", task["url"], {"function": f"{functions}/plain"}), 422)
    is_problem(ada("PATCH", task["url"], {"id": 3, "pipeline": "x"}), 422, "id", "pipeline")
    assert ada("GET", task["url"]).json == changed


def test_a_change_of_function_validates_the_arguments(ada, add, functions):
    task = add().json
    is_problem(ada("PATCH", task["url"], {"function": f"{functions}/every"}), 422, "arguments.text")
    body = {"function": f"{functions}/every", "arguments": {"text": "abc"}}
    assert ada("PATCH", task["url"], body, status=200).json["arguments"] == DEFAULTS | {"text": "abc"}


@pytest.mark.parametrize("timeout", [0, -1, "60", True, 604_801, 10**300, []])
def test_an_invalid_timeout_is_rejected(timeout, add):
    answer = add(timeout=timeout)
    assert answer.status_int in (400, 422)
    is_problem(answer, answer.status_int)


def test_tasks_follow_the_tasks_in_after(ada, pipeline, add):
    source = add(after=[]).json
    left, right = (add(after=[source["url"]]).json for _ in range(2))
    join = add(after=[right["url"], urlsplit(left["url"]).path]).json
    assert join["after"] == [right["url"], left["url"]]
    files = [ada.upload(f"{n}", b"", status=201).json["url"] for n in range(2)]
    run = ada("POST", pipeline["runs"], {"files": files}, status=201).json
    jobs = ada("GET", run["jobs"]).json["items"]
    after = [[each["url"] for each in jobs if each["url"] in ada("GET", job["url"]).json["after"]] for job in jobs]
    urls = [job["url"] for job in jobs]
    assert after == [[], [urls[0]], [urls[0]], [urls[1], urls[2]]]
    assert [job["status"] for job in jobs] == ["QUEUED", "PENDING", "PENDING", "PENDING"]


def test_by_default_a_task_follows_the_previous_one(ada, pipeline, add):
    for _ in range(3):
        add()
    files = [ada.upload(f"{n}", b"", status=201).json["url"] for n in range(2)]
    run = ada("POST", pipeline["runs"], {"files": files}, status=201).json
    jobs = [ada("GET", job["url"]).json for job in ada("GET", run["jobs"]).json["items"]]
    assert [job["after"] for job in jobs] == [[], [jobs[0]["url"]], [jobs[1]["url"]]]


def test_a_task_cannot_follow_itself_a_later_task_or_one_task_twice(ada, add):
    a, b = (add().json["url"] for _ in range(2))
    for url, after in ((a, [a]), (a, [b]), (b, [a, a]), (b, [b])):
        is_problem(ada("PATCH", url, {"after": after}), 422, "after")
    is_problem(add(position=1, after=[a]), 422, "after")
    ada("PATCH", b, {"after": [a]}, status=200)
    is_problem(ada("PATCH", a, {"after": [b]}), 422, "after")


def test_a_move_that_creates_a_cycle_is_rejected(ada, add, order):
    a = add().json["url"]
    b = add(after=[a]).json["url"]
    is_problem(ada("PATCH", b, {"position": 1}), 422)
    is_problem(ada("PATCH", a, {"position": 2}), 422)
    assert order() == [a, b]
    ada("PATCH", b, {"position": 1, "after": []}, status=200)
    assert order() == [b, a]


def test_a_task_in_after_of_others_is_not_deleted(ada, add, order):
    a = add().json
    b = add(after=[a["url"]]).json
    assert is_problem(ada("DELETE", a["url"]), 409)["tasks"] == [b["id"]]
    assert order() == [a["url"], b["url"]]
    ada("PATCH", b["url"], {"after": None}, status=200)
    ada("DELETE", a["url"], status=200)
    assert order() == [b["url"]]


@pytest.mark.parametrize(
    ("after", "field"),
    [
        ("x", "after"),
        ([3], "after.0"),
        ([None], "after.0"),
        ([[]], "after.0"),
        (["x"], "after.0"),
        (["/api/v1/users/ada/files/1"], "after.0"),
        ({}, "after"),
        (["/api/v1/users/ada/pipelines/1/tasks/1"] * 101, "after"),
        (["/api/v1/users/ada/pipelines/x/tasks/-1"], "after"),
    ],
)
def test_references_that_are_not_tasks_are_rejected(after, field, add):
    is_problem(add(after=after), 422, field)


def test_a_pipeline_has_at_most_a_hundred_tasks(add):
    for _ in range(100):
        assert add().status_int == 201
    is_problem(add(), 409)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_run_over_too_few_or_too_many_files_is_rejected(count, ada, pipeline, add):
    add()
    files = [ada.upload(f"{n}", b"", status=201).json["url"] for n in range(count)]
    is_problem(ada("POST", pipeline["runs"], {"files": files}), 422, "files")


def test_a_run_keeps_the_tasks_of_its_start(ada, pipeline, add):
    task = add().json["url"]
    files = [ada.upload(f"{n}", b"", status=201).json["url"] for n in range(2)]
    run = ada("POST", pipeline["runs"], {"files": files}, status=201).json
    (job,) = ada("GET", run["jobs"]).json["items"]
    before = ada("GET", job["url"]).json
    ada("PATCH", task, {"timeout": 5}, status=200)
    assert ada("GET", job["url"]).json == before
    ada("DELETE", task, status=200)
    assert ada("GET", job["url"]).json == before | {"task": None}
