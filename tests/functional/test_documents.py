"""Documents in responses: members and JSON types equal the declarations, for all services of the registry."""

import datetime
import re
import types
from collections.abc import Sequence
from typing import Any, NotRequired, Union, get_args, get_origin, is_typeddict

import pytest

from mlapi import documents
from mlapi.http.problems import ProblemDocument
from mlapi.resources.tree import Url
from tests.support import API, ROOT, World, is_problem

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def mismatches(value, hint, where="$"):
    """The places at which a JSON value does not have its type."""
    if is_typeddict(hint) or is_typeddict(get_origin(hint)):
        declared = documents.members(hint)
        if not isinstance(value, dict) or value.keys() != declared.keys():
            return [(where, value, hint)]
        return [found for name in declared for found in mismatches(value[name], declared[name], f"{where}.{name}")]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return [] if any(not mismatches(value, each) for each in arguments) else [(where, value, hint)]
    if origin in (list, Sequence):
        if not isinstance(value, list):
            return [(where, value, hint)]
        return [found for each in value for found in mismatches(each, arguments[0], f"{where}[]")]
    return [] if fits(value, hint, origin) else [(where, value, hint)]


def fits(value, hint, origin):
    """Whether a JSON value has a scalar type."""
    if hint is datetime.datetime:
        return isinstance(value, str) and bool(TIME.fullmatch(value))
    if hint is Url:
        return isinstance(value, str) and value.startswith(f"http://localhost:6543{API}")
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if origin is dict:
        return isinstance(value, dict)
    return hint is Any or (isinstance(value, hint) and (isinstance(value, bool) <= (hint is bool)))


@pytest.fixture
def gets(wsgi):
    """URL template and document type of all GETs."""
    return [
        (service.path, documents.answer_of(view, service.context))
        for service in wsgi.registry.cornice_services.values()
        for method, view, _ in service.definitions
        if method == "GET"
    ]


def test_every_get_returns_the_declared_document(gets, root, helloworld, wsgi):
    world = World(root, helloworld, wsgi)
    assert len(gets) > 25
    for path, document in gets:
        answer = world.ask("GET", path, status=200)
        if document is None:
            assert answer.content_type != "application/json", path
        else:
            assert mismatches(answer.json, document) == [], path


def test_every_member_is_tested_with_a_value(gets, root, helloworld, wsgi, app):
    """A member that is always null could hide a wrong type; a finished job with outputs has all members."""
    world = World(root, helloworld, wsgi)
    attempt = f"attempts/{world.keys['attempt']}"
    sha256 = world.runner("POST", f"{attempt}/outputs", body=b"out", status=201).json["sha256"]
    outputs = [{"name": "a.txt", "sha256": sha256, "tags": {"a": 1}, "origin": "modified", "input": 1}]
    ending = {"status": "FINISHED", "reason": "done", "metrics": {"accuracy": 0.5}, "outputs": outputs}
    world.runner("POST", f"{attempt}/report", ending, status=200)
    job = root("GET", f"jobs/{world.keys['job']}").json
    output = root("GET", job["outputs"][0]).json
    assert (job["ended"], output["parent"], output["job"]) != (None, None, None)
    kinds = {document.__name__: document for _, document in gets if document and is_typeddict(document)}
    assert mismatches(job, kinds["JobDocument"]) == mismatches(output, kinds["FileDocument"]) == []


def test_a_document_that_differs_from_its_declaration_is_detected(gets, ada):
    document = dict(gets)[f"{API}/users/{{user}}"]
    answer = ada("GET", "users/ada").json
    assert mismatches(answer, document) == []
    for wrong in ({**answer, "name": 1}, {**answer, "more": 1}, {**answer, "url": "x"}, {**answer, "created": "now"}):
        assert len(mismatches(wrong, document)) == 1
    assert len(mismatches({"name": "ada"}, document)) == 1


def test_the_api_page_has_the_members_of_all_documents(gets):
    page = (ROOT / "docs" / "api.md").read_text().partition("## Documents")[2]
    sections = dict(re.findall(r"### (\w+)\n.*?\| --- \| --- \|\n((?:\|[^\n]*\n)+)", page, re.S))
    answered = [each for _, document in gets for each in documents.nested(document) if is_typeddict(each)]
    assert len(answered) > 20
    for document in answered:
        rows = dict(re.findall(r"\| `(\w+)` \| (.*) \|", sections[document.__name__]))
        declared = {name: documents.type_name(hint) for name, hint in documents.members(document).items()}
        assert rows == declared, document.__name__


def test_a_problem_is_the_declared_document(ada):
    problem = is_problem(ada("GET", "files?limit=x"), 422)
    declared = documents.members(ProblemDocument)
    errors = declared.pop("errors")
    assert get_origin(errors) is not NotRequired
    assert mismatches(problem.pop("errors"), errors) == []
    assert problem.keys() == declared.keys()
    assert all(mismatches(problem[name], hint) == [] for name, hint in declared.items())
