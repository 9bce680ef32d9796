"""Two trees in one application: they share classes, and each has its own prefix, links, references and problems."""

import json

import pytest
from pyramid.response import Response
from webtest import TestApp

from mlapi.application import make_app
from mlapi.http.request import Request
from mlapi.resources import TREE
from mlapi.resources.attempts import Attempts
from mlapi.resources.auth import Auth
from mlapi.resources.files import AllFiles
from mlapi.resources.modules import Modules
from mlapi.resources.queues import Queues
from mlapi.resources.tree import Node, Tree
from mlapi.resources.users import Users
from tests.support import API, HOST, is_problem


class Other(Node):
    """Another root class, with other names of the same children."""

    public = True
    children = {
        "login": Auth,
        "people": Users,
        "code": Modules,
        "documents": AllFiles,
        "tries": Attempts,
        "lines": Queues,
    }


def plain_text(problem, request):
    """A writer of problems in another format."""
    return Response(f"{problem.status}: {problem.detail}", status=problem.status, content_type="text/plain")


@pytest.fixture(scope="module")
def both(wsgi):
    """The application with a second tree under `/other`."""
    settings = wsgi.registry.mlapi
    ini = {
        "mlapi.database_url": settings.database_url,
        "mlapi.data_dir": str(settings.data_dir),
        "mlapi.secret_key": settings.secret_key,
    }
    app = make_app(ini, (TREE, Tree(Other, prefix="/other", name="other", writer=plain_text)))
    yield app
    app.registry.database.engine.dispose()


@pytest.fixture
def ask(both, ada):
    """Make a request as ada; `mount` is the URL prefix of the whole application."""
    app = TestApp(both)

    def call(method, url, body=None, mount=""):
        return app.request(
            url,
            method=method,
            body=json.dumps(body).encode() if body is not None else b"",
            headers={**ada.headers, "Host": HOST, "Content-Type": "application/json"},
            environ={"SCRIPT_NAME": mount},
            status="*",
        )

    return call


def test_links_belong_to_the_tree_of_the_request(ask):
    other = ask("POST", "/other/people/ada/pipelines", {"name": "p", "enabled": True})
    assert other.status_int == 201
    assert other.location == other.json["url"] == f"http://{HOST}/other/people/ada/pipelines/{other.json['id']}"
    first = ask("GET", f"{API}/pipelines/{other.json['id']}").json
    assert first["url"] == f"http://{HOST}{API}/users/ada/pipelines/{other.json['id']}"
    assert other.json | {name: first[name] for name in ("url", "tasks", "runs", "grids")} == first
    page = ask("GET", "/other/people/ada/pipelines").json
    assert page["items"] == [other.json]


@pytest.mark.parametrize("mount", ["", "/ml"])
def test_references_belong_to_the_tree_of_the_request(mount, ask, ada, helloworld):
    file = ada.upload("a.txt", b"Ada", status=201).json["id"]
    pipeline = ask("POST", "/other/people/ada/pipelines", {"name": "p", "enabled": True}, mount).json
    root = f"{mount}/other"
    function = f"{root}/code/helloworld/functions/say_hello"
    tasks = f"/other/people/ada/pipelines/{pipeline['id']}/tasks"
    task = ask("POST", tasks, {"function": function}, mount)
    assert task.status_int == 201, task.text
    assert task.json["function"].startswith(f"http://{HOST}{root}/code/helloworld/versions/")
    refused = ask("POST", tasks, {"function": f"{mount}{API}/modules/helloworld/functions/say_hello"}, mount)
    assert refused.status_int == 422
    for reference in (f"{root}/people/ada/files/{file}", f"https://other.example{root}/documents/{file}"):
        run = ask("POST", f"/other/people/ada/pipelines/{pipeline['id']}/runs", {"files": [reference]}, mount)
        assert run.status_int == 201, run.text
        assert run.json["files"] == [f"http://{HOST}{root}/people/ada/files/{file}"]
    nested = f"{mount}{API}/users/ada/files/{file}"
    assert (
        ask("POST", f"/other/people/ada/pipelines/{pipeline['id']}/runs", {"files": [nested]}, mount).status_int == 422
    )


@pytest.mark.parametrize("url", ["/people/bob", "/people/nobody/files", "/nothing", "/documents/999", ""])
def test_problems_have_the_format_of_their_tree(url, ask):
    other = ask("DELETE" if not url else "GET", f"/other{url}")
    assert other.content_type == "text/plain"
    assert other.text == ("404: Not found." if url else other.text)
    is_problem(ask("GET", f"{API}/nothing{url}"), 404)


def test_a_path_that_only_starts_like_a_prefix_belongs_to_the_tree_without_prefix(ask):
    is_problem(ask("GET", "/otherwise"), 404)


def test_services_are_registered_in_all_trees_with_their_class(both):
    paths = set(both.registry.cornice_services)
    assert {
        f"{API}/users/{{user}}/files/{{file}}",
        "/other/people/{user}/files/{file}",
        "/other/documents/{file}",
    } <= paths
    assert not any(path.startswith("/other/runs") for path in paths)


def test_a_request_has_the_tree_of_its_context(both, ada):
    request = Request.blank("/other/people")
    request.registry = both.registry
    assert both.registry.trees[1](request)["people"].tree is both.registry.trees[1]
