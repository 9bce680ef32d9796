"""The guard tween: hosts, headers and last-resort error handling."""

import dataclasses
import json

import pytest
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response

from mlapi.errors import TooLarge
from mlapi.http.guard import HEADERS, guard, host_of
from mlapi.settings import Settings

MALFORMED = (
    "",
    "[::1",
    "api.example:",
    "api.example:x",
    "api.example:123456",
    "api.example:x@evil.example",
    "api.example:1@evil.example",
    "x@api.example",
    "api.example, evil.example",
    "api.example, api.example",
    "api.example/",
    "api.example\n",
    "[::1]evil.example",
)
"""Values of the Host header that start with an allowed host or are empty."""


@pytest.fixture
def registry(tmp_path):
    """A registry with settings that allow one host by name and one by address."""
    settings = {"data_dir": str(tmp_path), "secret_key": "0123456789abcdef" * 2, "allowed_hosts": "api.example [::1]"}
    registry = Registry()
    registry.trees = ()
    registry.mlapi = Settings.read({f"mlapi.{name}": value for name, value in settings.items()}, {})
    return registry


def ask(registry, handler, host="api.example", path="/"):
    request = Request.blank(path, headers={"Host": host})
    request.registry = registry
    return guard(handler, registry)(request)


@pytest.mark.parametrize("host", ["api.example", "API.example:6543", "[::1]", "[::1]:6543"])
def test_an_allowed_host_reaches_the_handler(host, registry):
    assert ask(registry, lambda request: Response(b"inside"), host).body == b"inside"


@pytest.mark.parametrize("host", ["", "evil.example", "api.example.evil.example", "[::2]", "::1", *MALFORMED])
def test_another_host_is_rejected_before_the_handler(host, registry):
    asked = []
    response = ask(registry, asked.append, host)
    assert asked == []
    assert response.content_type == "application/problem+json"
    assert json.loads(response.body) == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "Host not allowed.",
    }


def test_every_response_has_the_headers_that_it_does_not_set_itself(registry):
    response = ask(registry, lambda request: Response(headerlist=[("Vary", "Accept")]))
    assert {name: response.headers.getall(name) for name in HEADERS} == {
        **{name: [value] for name, value in HEADERS.items()},
        "Vary": ["Accept"],
    }


@pytest.mark.parametrize(("error", "status"), [(TooLarge("x"), 413), (ZeroDivisionError(), 500)])
def test_an_exception_without_a_response_becomes_a_problem(error, status, registry):
    def failing(request):
        raise error

    response = ask(registry, failing)
    assert response.status_code == json.loads(response.body)["status"] == status
    assert HEADERS.items() <= dict(response.headers).items()


@pytest.mark.parametrize(
    ("header", "host"), [("A.b:1", "a.b"), ("a.b", "a.b"), ("[::1]:1", "[::1]"), *((each, None) for each in MALFORMED)]
)
def test_the_host_of_a_header_is_without_its_port(header, host):
    assert host_of(header) == host


@pytest.mark.parametrize("host", MALFORMED)
def test_a_malformed_host_is_rejected_even_if_any_host_is_allowed(host, registry):
    registry.mlapi = dataclasses.replace(registry.mlapi, allowed_hosts=("*",))
    assert ask(registry, lambda request: Response(b"inside"), "any.example").body == b"inside"
    assert ask(registry, lambda request: Response(b"inside"), host).status_code == 400


def test_a_query_string_of_many_parameters_is_rejected_before_it_is_parsed(registry):
    def handler(request):
        return Response(str(len(request.GET)))

    assert ask(registry, handler, path="/?" + "&".join("a" * 100)).body == b"100"
    response = ask(registry, lambda request: pytest.fail("handled"), path="/?" + "&".join("a" * 101))
    assert response.status_code == 400
    assert json.loads(response.body)["detail"] == "The query string must have at most 100 parameters."
