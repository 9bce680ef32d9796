"""Invalid input: the response is a problem that names the errors, never a 500 and never HTML.

The services come from the registry, so that new services are tested too.
"""

from urllib.parse import urlencode

import pytest

from mlapi.schemas.job_settings import Patterns
from mlapi.schemas.json_values import Json
from mlapi.schemas.links import Link
from mlapi.schemas.types import Flag, List, Object, OrNull, OrNullList, Real, Text, Whole
from tests.support import World, is_problem, services
from tests.work import count_calls

DEEP = 100_000

UNREADABLE = {
    "nothing": b"",
    "blanks": b" \n",
    "a word": b"pipelines",
    "half an object": b'{"name": "x"',
    "single quotes": b"{'name': 'x'}",
    "a comma too many": b'{"name": "x",}',
    "a comment": b'{"name": "x"} // so',
    "two documents": b'{"name": "x"}{"name": "x"}',
    "a form": b"name=x",
    "not UTF-8": b'{"name": "\xff"}',
    "a byte order mark": b'\xef\xbb\xbf{"name": "x"}',
    "UTF-16": '{"name": "x"}'.encode("utf-16"),
    "a control character": b'{"name": "\n"}',
    "half an escape": b'{"name": "\\u12"}',
    "NaN": b'{"name": NaN}',
    "infinity": b'{"name": -Infinity}',
    "a number beyond floats": b'{"name": 1e999}',
    "5,000 digits": b'{"name": %s}' % (b"9" * 5000),
    "a key twice": b'{"name": "x", "name": "y"}',
    "a key twice, deep down": b'{"a": [{"b": 1, "b": 1}]}',
    "100,000 lists": b"[" * DEEP + b"]" * DEEP,
    "100,000 objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "100,000 brackets": b"[" * DEEP,
    "many keys and one twice": b"{%s}" % b",".join(b'"k%d":1' % min(n, 79_998) for n in range(80_000)),
}
"""Bodies that are not JSON, or ambiguous."""

UNFIT = {
    "null": b"null",
    "true": b"true",
    "a number": b"3.7",
    "a string": b'"name"',
    "a list": b"[]",
    "a list of objects": b"[{}]",
    "500 lists": b"[" * 500 + b"]" * 500,
    "an unknown field": b'{"no_such_field": 1}',
    "a field without a name": b'{"": 1}',
    "a dotted field": b'{"arguments.greeting": 1}',
    "a field of NUL": b'{"\\u0000": 1}',
    "a field of half a character": b'{"\\ud800": 1}',
    "80,000 fields": b"{%s}" % b",".join(b'"k%d":1' % n for n in range(80_000)),
}
"""JSON that is not a valid body of any service."""


def deep(levels):
    """A nested object."""
    return {"a": deep(levels - 1)} if levels else {}


JSON_VALUES = {
    "null": None,
    "true": True,
    "false": False,
    "an integer": 3,
    "2^63": 2**63,
    "a float": 3.7,
    "3.0": 3.0,
    "a string": "text",
    "a number in a string": "3",
    "true in a string": "true",
    "NUL": "a\0b",
    "half a character": "\ud800",
    "a list": [],
    "a list of null": [None],
    "many items": [0] * 100_000,
    "an object": {},
    "a deep object": deep(100),
    "an object of NUL": {"a": "\0"},
    "an object of half a character": {"\ud800": 1},
    "an object of 2^63": {"a": 2**63},
}

UNHOLDABLE = {
    "NUL",
    "half a character",
    "many items",
    "a deep object",
    "an object of NUL",
    "an object of half a character",
    "an object of 2^63",
}
"""Values that are not valid for any field."""


CALLS = 1_000_000
"""Function calls that a bad body may cost: a megabyte of keys takes a few calls for each."""


@pytest.fixture
def world(root, helloworld, wsgi):
    return World(root, helloworld, wsgi)


@pytest.fixture
def with_body(wsgi):
    """All services with a JSON body."""
    found = [each for each in services(wsgi, "POST", "PUT", "PATCH", "DELETE") if each[2] and each[2].body]
    assert len(found) >= 9
    return found


def send(world, method, path, body, content_type="application/json"):
    """Send a body to a service, which must not cost much work."""
    headers = {"Content-Type": content_type}
    answer, calls = count_calls(lambda: world.ask(method, path, body=body, headers=headers))
    assert calls < CALLS, (method, path)
    return answer


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_a_body_that_is_not_json_is_rejected(body, world, with_body):
    for method, path, _ in with_body:
        assert len(is_problem(send(world, method, path, body), 400)["detail"]) < 300


@pytest.mark.parametrize("body", UNFIT.values(), ids=UNFIT)
def test_json_of_another_shape_is_rejected(body, world, with_body):
    for method, path, _ in with_body:
        answer = send(world, method, path, body)
        errors = is_problem(answer, 422)["errors"]
        assert {each["location"] for each in errors} == {"body"}
        assert len(answer.body) < 100_000


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "é",
    ],
)
def test_a_body_of_another_media_type_is_rejected(content_type, world, with_body):
    for method, path, _ in with_body:
        is_problem(send(world, method, path, b'{"name": "x"}', content_type), 415)


def test_a_body_over_the_limit_is_rejected(world, with_body, wsgi):
    for method, path, schema in with_body:
        body = b'{"name": "%s"}' % (b"x" * schema.limit(wsgi.registry.mlapi))
        is_problem(send(world, method, path, body), 413)


def accepts(kind, name, value):
    """Whether a value is valid for a type of field."""
    if isinstance(kind, (OrNull, OrNullList)) and value is None:
        return True
    if isinstance(kind, OrNull):
        return accepts(kind.kind, name, value)
    if name in UNHOLDABLE:
        return False
    if isinstance(kind, Whole) and name == "2^63":
        return False
    if isinstance(kind, Json):
        return kind.kind is None or isinstance(value, kind.kind)
    if isinstance(kind, Link):
        return False  # None of the values is a URL of this service.
    if isinstance(kind, Patterns):
        return isinstance(value, (dict, list))
    if isinstance(kind, Object):
        return isinstance(value, dict)
    taken = {Text: str, Whole: int, Real: (int, float), Flag: bool, List: list, OrNullList: list}[type(kind)]
    return isinstance(value, taken) and (isinstance(value, bool) <= (taken is bool))


@pytest.mark.parametrize("name", JSON_VALUES)
def test_a_value_of_another_type_is_an_error_and_not_coerced(name, world, with_body):
    for method, path, schema in with_body:
        for field in schema.body.children:
            answer = world.ask(method, path, json={field.name: JSON_VALUES[name]})
            assert answer.status_int < 500
            if not accepts(field.typ, name, JSON_VALUES[name]):
                errors = is_problem(answer, 422)["errors"]
                named = {each["name"].split(".")[0] for each in errors}
                assert field.name in named, (method, path)


ANY = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

NO_KEYS = [
    *(
        "-1",
        "0",
        "01",
        "+1",
        "1.0",
        "1e3",
        "0x1",
        "%C2%BD",
        "%D9%A3",
        "abc",
        "null",
        "None",
        "%20",
        "%00",
        "1%00",
        "1%0A",
    ),
    *("2147483648", "9223372036854775807", "9223372036854775808", "9" * 18, "9" * 5000, "x" * 5000),
    *(
        "%2e",
        "%2e%2e",
        "%2e%2e%2f%2e%2e",
        "..%5c",
        "1%2f",
        "1;a=b",
        "%27",
        "%25",
        "%F0%9F%98%80",
        "{file}",
        "*",
    ),
]
"""URL segments that are not valid keys."""


def with_other_keys(world, wsgi, segment):
    """Make a GET request to every URL, with one of its keys replaced."""
    for method, path, _ in services(wsgi, *ANY):
        for key in world.keys:
            if f"{{{key}}}" in path:
                more = {} if method in ("GET", "HEAD") else {"body": b"{}"}
                headers = {"Content-Type": "application/json"}
                yield method, world.ask(method, path, keys={key: segment}, headers=headers, **more)


@pytest.mark.parametrize("segment", NO_KEYS, ids=lambda segment: segment[:30])
def test_an_invalid_key_is_not_found(segment, world, wsgi):
    for method, answer in with_other_keys(world, wsgi, segment):
        if method == "HEAD":
            assert answer.status_int == 404
        else:
            assert is_problem(answer, 404) == NOT_FOUND


NOT_FOUND = {
    "type": "about:blank",
    "title": "Not Found",
    "status": 404,
    "detail": "Not found.",
}


@pytest.mark.parametrize("segment", ["%ff", "%c3", "%ed%a0%80", "%c0%af", "a%ffb"])
def test_a_url_that_is_not_utf8_is_rejected(segment, world, wsgi):
    for method, answer in with_other_keys(world, wsgi, segment):
        assert answer.status_int == 400
        assert method == "HEAD" or is_problem(answer, 400)


@pytest.mark.parametrize(
    "url",
    [
        "/",
        "//",
        "/api",
        "/api/",
        "/api/v2",
        "/favicon.ico",
        "/api/v1/users/",
        "/api/v1/no",
        "/%00",
    ],
)
@pytest.mark.parametrize("accept", ["*/*", "text/html", "nonsense"])
def test_an_unknown_url_is_a_problem_with_status_404(url, accept, ada):
    is_problem(ada("GET", url, headers={"Accept": accept}), 404)
    is_problem(ada("DELETE", url, headers={"Accept": accept}), 404)


def test_a_problem_is_json_even_if_html_is_accepted(ada):
    answer = ada("POST", "users/ada/pipelines", {"name": 3}, headers={"Accept": "text/html"})
    is_problem(answer, 422, "name")


def test_all_errors_of_a_body_are_reported_together(ada, app):
    problem = is_problem(app.post_json("/api/v1/auth/token", {}, status=422), 422, "name", "password")
    assert problem["errors"] == [
        {"location": "body", "name": "name", "description": "Required"},
        {"location": "body", "name": "password", "description": "Required"},
    ]
    body = {"name": "x" * 101, "enabled": "yes", "color": "red"}
    is_problem(ada("POST", "users/ada/pipelines", body), 422, "name", "enabled", "color")


TEXTS = [
    *(
        " ",
        "a b",
        "é",
        "e\u0301",
        "ß",
        "İi",
        "\u202eabc",
        "a\u200db",
        "👩\u200d🔬",
        "\U0010ffff",
        "\ufeffx",
        "\x7f",
    ),
    *("'\"><script>;--", "%s%n", "%00", "=cmd|' /C calc'!A0", "{{7*7}}", "{0.__class__}", "${x}", "\\u0000", "\\"),
    *("../../etc/passwd", "a\r\nSet-Cookie: a=b", "null", "x" * 100, "😀" * 100),
]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_is_stored_unchanged(text, ada):
    made = ada("POST", "users/ada/pipelines", {"name": text}, status=201)
    assert ada("GET", made.json["url"]).json["name"] == text
    found = ada("GET", f"users/ada/pipelines?{urlencode({'name': text})}").json["items"]
    assert [each["id"] for each in found] == [made.json["id"]]


@pytest.fixture
def pipeline(ada, helloworld):
    """An enabled pipeline of ada with one task."""
    made = ada("POST", "users/ada/pipelines", {"name": "greet", "enabled": True}, status=201).json
    ada("POST", made["tasks"], {"function": helloworld}, status=201)
    return made


@pytest.fixture
def bobs(bob, helloworld):
    """A file, a pipeline and a task of another user."""
    pipeline = bob("POST", "users/bob/pipelines", {"name": "bob's"}, status=201).json
    task = bob("POST", pipeline["tasks"], {"function": helloworld}, status=201).json
    return {"file": bob.upload("b.txt", b"Bob", status=201).json, "pipeline": pipeline, "task": task}


def as_ours(url):
    """The URL of another user's resource, below ada's URL."""
    return url.replace("/users/bob/", "/users/ada/")


def test_another_users_file_in_a_run_is_like_a_missing_one(ada, bobs, pipeline):
    url = bobs["file"]["url"]
    asked = [
        url,
        as_ours(url),
        url.replace("/files/", "/files/99"),
        as_ours(url).replace("/files/", "/files/99"),
    ]
    answers = [ada("POST", pipeline["runs"], {"files": [each]}) for each in asked]
    for answer in answers:
        is_problem(answer, 422, "files.0")
    assert len({answer.body for answer in answers}) == 1


def test_every_missing_file_is_reported(ada, bobs, pipeline):
    mine = ada.upload("a.txt", b"Ada", status=201).json["url"]
    asked = [bobs["file"]["url"], mine, "/api/v1/users/ada/files/99", "/api/v1/users/ada/files/x"]
    is_problem(ada("POST", pipeline["runs"], {"files": asked}), 422, "files.0", "files.2", "files.3")


def test_another_users_file_as_a_parent_is_like_a_missing_one(ada, bobs):
    url = bobs["file"]["url"]
    answers = [
        ada.form("users/ada/files", {"parent": each}, "file", "a.txt", b"Ada")
        for each in (url, as_ours(url), as_ours(url).replace("/files/", "/files/99"))
    ]
    for answer in answers:
        is_problem(answer, 422, "parent")
    assert len({answer.body for answer in answers}) == 1
    assert ada("GET", "users/ada/files").json["items"] == []


def test_another_users_task_in_after_is_like_a_missing_one(ada, bobs, pipeline, helloworld):
    url = bobs["task"]["url"]
    mine = f"{pipeline['tasks']}/{bobs['task']['id']}"
    answers = [
        ada("POST", pipeline["tasks"], {"function": helloworld, "after": [each]})
        for each in (url, as_ours(url), mine, f"{pipeline['tasks']}/999")
    ]
    for answer in answers:
        is_problem(answer, 422, "after")
    assert len({answer.body for answer in answers}) == 1


def test_another_users_resources_are_like_missing_ones(ada, bobs):
    for thing in bobs.values():
        for url in (thing["url"], as_ours(thing["url"]), f"{as_ours(thing['url'])}99"):
            for method in ("GET", "DELETE"):
                assert is_problem(ada(method, url), 404) == NOT_FOUND
            assert is_problem(ada("PATCH", url, {"name": "mine", "tags": {}}), 404) == NOT_FOUND


@pytest.mark.parametrize(
    "url",
    ["", "x", "/", "1", "//", "http://[", "/api/v1/users/ada", "/api/v1/users/ada/pipelines/1", "\u0661"],
)
def test_a_reference_that_is_not_the_url_of_a_file_is_rejected(url, ada, pipeline):
    is_problem(ada("POST", pipeline["runs"], {"files": [url]}), 422, "files.0")


def test_a_run_of_a_disabled_pipeline_is_a_conflict(ada, pipeline):
    file = ada.upload("a.txt", b"Ada", status=201).json["url"]
    ada("PATCH", pipeline["url"], {"enabled": False}, status=200)
    is_problem(ada("POST", pipeline["runs"], {"files": [file]}), 409)
    assert ada("GET", pipeline["runs"]).json["items"] == []
    ada("PATCH", pipeline["url"], {"enabled": True}, status=200)
    ada("POST", pipeline["runs"], {"files": [file]}, status=201)


def test_a_run_of_a_pipeline_without_tasks_is_a_conflict(ada):
    made = ada("POST", "users/ada/pipelines", {"name": "empty", "enabled": True}, status=201).json
    is_problem(ada("POST", made["runs"], {"files": []}), 409)


def test_a_file_of_a_type_that_the_function_does_not_accept_is_rejected(ada, pipeline):
    good, bad = (ada.upload(name, b"Ada", status=201).json["url"] for name in ("a.TXT", "a.txt.exe"))
    is_problem(ada("POST", pipeline["runs"], {"files": [good, bad]}), 422, "files")
    assert ada("GET", pipeline["runs"]).json["items"] == []
    ada("POST", pipeline["runs"], {"files": [good]}, status=201)


def test_too_many_files_of_a_run_are_rejected(ada, pipeline):
    url = ada.upload("a.txt", b"Ada", status=201).json["url"]
    is_problem(ada("POST", pipeline["runs"], {"files": [url] * 1001}), 422, "files")


@pytest.mark.parametrize("key", ["", "x" * 201, "é", "a\tb"])
def test_an_invalid_idempotency_key_is_rejected(key, ada, pipeline):
    answer = ada("POST", pipeline["runs"], {"files": []}, headers={"Idempotency-Key": key})
    problem = is_problem(answer, 422, "Idempotency-Key")
    assert problem["errors"][0]["location"] == "header"


@pytest.mark.parametrize("name", ["", "A", "ada lovelace", "a/b", "..", "-a", "é", "a" * 64, "a\n"])
def test_a_user_name_must_be_a_slug(name, root):
    is_problem(root("POST", "users", {"name": name, "password": "x" * 20}), 422, "name")


@pytest.mark.parametrize("password", ["", "short", "x" * 14, "x" * 257])
def test_a_password_too_short_or_too_long_is_rejected(password, root):
    is_problem(root("POST", "users", {"name": "eve", "password": password}), 422, "password")


def test_a_name_that_is_taken_is_a_conflict(root, ada):
    is_problem(root("POST", "users", {"name": "ada", "password": "x" * 20}), 409)


@pytest.mark.parametrize(
    "path",
    [
        *("", "x", "modules", "modules/helloworld", "modules/helloworld/functions", "users/ada/files/1"),
        *(
            "modules/helloworld/functions/no",
            "modules/no/functions/say_hello",
            "modules/%00/functions/say_hello",
        ),
        *("modules/helloworld/functions/%00", "modules/helloworld/versions//functions/say_hello"),
        *("modules/helloworld/versions/%00/functions/say_hello", "modules/helloworld/functions/%ff"),
        *("modules/helloworld/versions/0/functions/say_hello", "modules/../helloworld/functions/say_hello"),
    ],
)
def test_a_function_that_does_not_exist_is_rejected(path, ada, pipeline):
    is_problem(ada("POST", pipeline["tasks"], {"function": f"/api/v1/{path}"}), 422, "function")


@pytest.mark.parametrize("path", ["%00", "A", "%20", "no%00", "%ff"])
def test_a_queue_whose_name_is_no_slug_is_rejected(path, root, ada, pipeline):
    url, file = f"/api/v1/queues/{path}", ada.upload("a.txt", b"Ada", status=201).json["url"]
    [task] = ada("GET", pipeline["tasks"], status=200).json["items"]
    run = ada("POST", pipeline["runs"], {"files": [file]}, status=201).json
    bodies = (
        ("POST", pipeline["tasks"], {"function": task["function"], "queue": url}, "queue"),
        ("PATCH", task["url"], {"queue": url}, "queue"),
        ("POST", pipeline["runs"], {"queue": url}, "queue"),
        ("POST", pipeline["runs"], {"tasks": [{"task": task["url"], "queue": url}]}, "tasks.0.queue"),
        ("POST", f"{run['url']}/rerun", {"queue": url}, "queue"),
        ("POST", f"{run['url']}/rerun", {"jobs": [{"position": 1, "queue": url}]}, "jobs.0.queue"),
    )
    for method, place, body, field in bodies:
        is_problem(ada(method, place, body), 422, field)
    gpu = root("POST", "queues", {"name": "gpu"}, status=201).json
    is_problem(root("DELETE", f"{gpu['url']}?move_to={url.replace('%', '%25')}"), 422, "move_to")
