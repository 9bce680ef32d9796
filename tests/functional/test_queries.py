"""Lists: pages, filters and their errors, for all collections of the registry."""

from urllib.parse import quote, urlencode, urlsplit

import pytest

from mlapi.schemas.pages import Number, TrueOrFalse
from mlapi.schemas.queues import QueueName
from mlapi.schemas.types import Text
from tests.support import API, World, is_problem, services

ALIASES = [f"{API}/files/{{file}}", f"{API}/pipelines/{{pipeline}}", f"{API}/runs/{{run}}", f"{API}/jobs/{{job}}"]
"""The URL templates of items below flat collections."""


@pytest.fixture
def world(root, helloworld, wsgi):
    return World(root, helloworld, wsgi)


@pytest.fixture
def lists(wsgi):
    """URL template and query schema of all lists."""
    found = [
        (path, schema.query)
        for _, path, schema in services(wsgi, "GET")
        if schema and schema.query and "limit" in schema.query
    ]
    assert len(found) >= 14
    return found


@pytest.fixture
def queries(wsgi):
    """Method, URL template and query schema of all services with query parameters and without a JSON body."""
    found = services(wsgi, "GET", "POST", "PUT", "PATCH", "DELETE")
    return [
        (method, path, schema.query)
        for method, path, schema in found
        if schema is not None and schema.query and schema.body is None
    ]


def test_all_lists_have_the_same_shape(world, lists):
    for path, _ in lists:
        answer = world.ask("GET", path, status=200).json
        assert answer.keys() == {"items", "next"}
        assert answer["next"] is None
        assert answer["items"], path
        for item in answer["items"]:
            if path.endswith("{attempt}/inputs"):
                continue  # The URL of an input is that of its content, which only the runner may read.
            if path.endswith("/events"):
                world.root("GET", item["subject"], status=200)
                continue
            assert world.root("GET", item["url"]).json.items() >= item.items()


def test_items_are_found_at_their_urls(world, wsgi):
    kept = [path for _, path, schema in services(wsgi, "GET") if schema is None and path.endswith("}")]
    for path in kept:
        if not path.endswith(("{input}", "/modules/{module}/functions/{function}")) and path not in ALIASES:
            answer = world.ask("GET", path, status=200)
            assert urlsplit(answer.json["url"]).path == path.format(**world.keys)


def test_a_flat_collection_has_the_same_items_as_the_nested_one(world):
    for alias in ALIASES:
        flat = world.ask("GET", alias, status=200)
        assert flat.json == world.root("GET", flat.json["url"], status=200).json


def test_an_unknown_parameter_is_an_error(world, queries):
    for method, path, _ in queries:
        problem = is_problem(world.ask(method, path, "?no_such_parameter=1", body=b""), 422)
        assert {each["location"] for each in problem["errors"]} == {"querystring"}
        assert "no_such_parameter" in {each["name"] for each in problem["errors"]}


def test_a_repeated_parameter_is_an_error(world, queries):
    for method, path, schema in queries:
        for parameter in schema.children:
            twice = f"?{parameter.name}=1&{parameter.name}=1"
            problem = is_problem(world.ask(method, path, twice, body=b""), 422, parameter.name)
            assert problem["errors"][0]["location"] == "querystring"


@pytest.mark.parametrize("query", ["?limit=%ff", "?%ff=1", "?after=%ed%a0%80", "?name=%c3"])
def test_a_query_string_that_is_not_utf8_is_an_error(query, world, queries):
    for method, path, _ in queries:
        is_problem(world.ask(method, path, query, body=b""), 400)


BAD = {
    Number: [
        *("", " ", "x", "-1", "+1", "1.0", "1e3", "0x1", "1_0", "½", "٣", "null", "1 ", "1\0", "1,2"),
        *(str(2**63), "9" * 20, "9" * 5000),
    ],
    TrueOrFalse: ["", "True", "1", "0", "yes", "null", "true "],
    Text: ["\0", "a\0b"],
    QueueName: ["", "\0", "A", "a/b", "nothing", "http://[", f"{API}/queues/", f"{API}/modules/gpu"],
}
"""Invalid values, by type of parameter."""


def test_a_parameter_of_another_type_is_an_error(world, queries):
    for method, path, schema in queries:
        for parameter in schema.children:
            for value in BAD[type(parameter.typ)]:
                answer = world.ask(method, path, f"?{urlencode({parameter.name: value})}", body=b"")
                problem = is_problem(answer, 422, parameter.name)
                assert problem["errors"][0]["location"] == "querystring"


@pytest.mark.parametrize("limit", [0, 201, 2**63 - 1])
def test_a_limit_out_of_bounds_is_an_error(limit, world, lists):
    for path, _ in lists:
        is_problem(world.ask("GET", path, f"?limit={limit}"), 422, "limit")


def test_every_valid_cursor_and_filter_returns_a_list(world, lists):
    values = {
        Number: ["0", "1", str(2**63 - 1)],
        TrueOrFalse: ["true", "false"],
        Text: ["", "é", "%", "x" * 5000],
    }
    for path, schema in lists:
        for parameter in schema.children:
            for value in values[type(parameter.typ)] if parameter.validator is None else ():
                answer = world.ask("GET", path, f"?{urlencode({parameter.name: value})}")
                assert answer.status_int == 200, (path, parameter.name, value)


def test_all_errors_of_a_query_string_are_reported_together(ada):
    answer = ada("GET", "files?limit=0&after=x&kind=BOTH&color=red")
    is_problem(answer, 422, "limit", "after", "kind", "color")


def walk(client, url):
    """The ids of the items of all pages, starting at a URL."""
    pages = []
    while url:
        page = client("GET", url, status=200).json
        pages.append([each["id"] for each in page["items"]])
        url = page["next"]
    return pages


@pytest.mark.parametrize("where", ["users/ada/pipelines", "pipelines"])
def test_links_lead_through_all_pages_newest_first(where, ada):
    made = [
        ada("POST", "users/ada/pipelines", {"name": f"p{n % 2}", "enabled": n < 5}, status=201).json["id"]
        for n in range(7)
    ]
    assert walk(ada, f"{where}?limit=3") == [made[6:3:-1], made[3:0:-1], made[0::-1]]
    assert walk(ada, f"{where}?limit=7") == [made[::-1]]
    assert walk(ada, f"{where}?limit=2&name=p0&enabled=true") == [[made[4], made[2]], [made[0]]]


def test_creations_and_deletions_do_not_shift_pages(ada):
    urls = [ada.upload(f"{n}", b"", status=201).json["url"] for n in range(4)]
    first = ada("GET", "users/ada/files?limit=2").json
    ada("DELETE", urls[2], status=200)
    ada.upload("later", b"", status=201)
    assert [each["url"] for each in ada("GET", first["next"]).json["items"]] == urls[1::-1]


def test_tasks_and_jobs_are_ordered_by_position(ada, helloworld):
    pipeline = ada("POST", "users/ada/pipelines", {"name": "p", "enabled": True}, status=201).json
    tasks = [
        ada("POST", pipeline["tasks"], {"function": helloworld, "position": 1}, status=201).json["id"] for _ in range(5)
    ]
    file = ada.upload("a.txt", b"", status=201).json["url"]
    run = ada("POST", pipeline["runs"], {"files": [file]}, status=201).json
    pages = walk(ada, f"{pipeline['tasks']}?limit=2")
    assert pages == [tasks[:2:-1], tasks[2:0:-1], tasks[0::-1]]
    jobs = ada("GET", run["jobs"]).json["items"]
    assert [each["position"] for each in jobs] == [1, 2, 3, 4, 5]
    ids = [each["id"] for each in jobs]
    assert walk(ada, f"{run['jobs']}?limit=2") == [ids[:2], ids[2:4], ids[4:]]


NAMES = ["a b&limit=1", "é", "50%", "a+b", "name=x", "👩\u200d🔬", "#?/"]


@pytest.mark.parametrize("name", NAMES)
def test_the_link_to_the_next_page_keeps_the_filters(name, ada):
    made = [ada("POST", "users/ada/pipelines", {"name": name}, status=201).json["id"] for _ in range(3)]
    ada("POST", "users/ada/pipelines", {"name": "other"}, status=201)
    assert walk(ada, f"pipelines?limit=2&name={quote(name, safe='')}") == [made[:0:-1], made[:1]]


@pytest.fixture
def theirs(world, ada, bob):
    """The resources of root's world, and a file and a pipeline of ada and of bob."""
    for client in (ada, bob):
        client.upload("a.txt", b"same", status=201)
        client("POST", f"users/{client.name}/pipelines", {"name": "p"}, status=201)
    return world


def owners(answer):
    assert answer.status_int == 200, answer.text
    return sorted({urlsplit(each["url"]).path.split("/")[4] for each in answer.json["items"]})


@pytest.mark.parametrize("kind", ["files", "pipelines"])
def test_flat_lists_contain_what_is_visible_to_the_caller(kind, theirs, root, ada, bob):
    assert owners(root("GET", kind)) == ["ada", "bob", "root"]
    assert owners(root("GET", f"{kind}?owner=bob")) == ["bob"]
    assert owners(root("GET", f"{kind}?owner=nobody")) == []
    assert owners(ada("GET", kind)) == ["ada"]
    assert owners(ada("GET", f"{kind}?owner=ada")) == ["ada"]
    assert owners(ada("GET", f"{kind}?owner=bob")) == []


@pytest.mark.parametrize("kind", ["runs", "jobs"])
def test_filtered_flat_lists_contain_what_is_visible_to_the_caller(kind, theirs, root, ada):
    assert owners(root("GET", f"{kind}?owner=root")) == ["root"]
    assert owners(ada("GET", kind)) == []
    assert owners(ada("GET", f"{kind}?owner=root")) == []


def test_files_can_be_filtered(theirs, root):
    found = root("GET", "files?name=a.txt&kind=INPUT&owner=ada").json["items"]
    assert len(found) == 1
    same = root("GET", f"files?sha256={found[0]['sha256']}").json["items"]
    assert {each["sha256"] for each in same} == {found[0]["sha256"]}
    assert len(same) == 2
    assert root("GET", "files?kind=OUTPUT").json["items"] == []
    assert root("GET", f"files?job={theirs.keys['job']}").json["items"] == []


def test_runs_and_jobs_can_be_filtered(theirs, root):
    keys = theirs.keys
    assert [each["id"] for each in root("GET", f"runs?pipeline={keys['pipeline']}").json["items"]] == [keys["run"]]
    assert root("GET", f"runs?pipeline={keys['pipeline'] + 1}").json["items"] == []
    query = "status=RUNNING&module=helloworld&function=say_hello"
    assert [each["id"] for each in root("GET", f"jobs?{query}").json["items"]] == [keys["job"]]
    for other in ("status=QUEUED", "module=other", "function=other"):
        assert root("GET", f"jobs?{other}").json["items"] == []
    is_problem(root("GET", "jobs?status=running"), 422, "status")


def test_users_can_be_filtered_by_role(theirs, root, ada):
    assert [each["name"] for each in root("GET", "users?role=user").json["items"]] == ["bob", "ada"]
    assert [each["name"] for each in root("GET", "users?role=admin").json["items"]] == ["root"]
    assert [each["name"] for each in ada("GET", "users").json["items"]] == ["ada"]
    is_problem(root("GET", "users?role=king"), 422, "role")


def test_a_flat_item_is_visible_like_the_nested_one_and_has_no_children(theirs, ada, root):
    for name, kind in (("file", "files"), ("pipeline", "pipelines"), ("run", "runs"), ("job", "jobs")):
        url = f"{API}/{kind}/{theirs.keys[name]}"
        is_problem(ada("GET", url), 404)
        root("GET", url, status=200)
        for below in ("content", "tasks", "jobs", "log", "nothing"):
            is_problem(root("GET", f"{url}/{below}"), 404)


def test_a_flat_item_is_changed_and_deleted_like_the_nested_one(ada, bob):
    pipeline = ada("POST", "users/ada/pipelines", {"name": "p"}, status=201).json
    flat = f"pipelines/{pipeline['id']}"
    is_problem(bob("PATCH", flat, {"name": "q"}), 404)
    assert ada("PATCH", flat, {"name": "q"}, status=200).json == pipeline | {"name": "q"}
    is_problem(bob("DELETE", flat), 404)
    ada("DELETE", flat, status=200)
    is_problem(ada("GET", pipeline["url"]), 404)
