"""Problems: the status, detail, headers and members of every kind of exception, and the document."""

import errno
import json
from pathlib import PurePath

import orjson
import pytest
import sqlalchemy.exc
import sqlalchemy.orm.exc
from pyramid import httpexceptions as http
from pyramid.config import Configurator
from pyramid.exceptions import URLDecodeError
from pyramid.request import Request

from mlapi.errors import AttemptOver, Busy, Conflict, DomainError, FieldError, Gone, Invalid, StorageFull, TooLarge
from mlapi.http.downloads import GUARDS, RangeNotSatisfiable
from mlapi.http.forms import BadForm
from mlapi.http.problems import (
    CONVERTERS,
    InvalidRequest,
    LocatedError,
    Problem,
    document,
    problem_of,
    respond,
    write_problem,
)
from mlapi.models.deletion import Held

NOT_UTF8 = b"\xff", 0, 1, "invalid start byte"


class Policy:
    """A security policy that identifies callers only by the Authorization header."""

    def identity(self, request):
        return request.headers.get("Authorization")

    def forget(self, request):
        return [("WWW-Authenticate", "Bearer")]


@pytest.fixture
def request_():
    """A DELETE without a caller, in an application with a security policy."""
    config = Configurator()
    config.set_security_policy(Policy())
    config.commit()
    request = Request.blank("/x", method="DELETE")
    request.registry = config.registry
    request.registry.trees = ()
    return request


class TestLimits:
    def errors(self, number):
        return tuple(LocatedError("body", f"a{each}", "Wrong.") for each in range(number))

    @pytest.mark.parametrize("number", [0, 1, 100])
    def test_up_to_100_errors_are_all_shown(self, number):
        assert Problem(422, "Wrong.", self.errors(number)).errors == self.errors(number)

    @pytest.mark.parametrize(("number", "more"), [(101, 2), (4990, 4891)])
    def test_the_last_of_many_errors_counts_the_others(self, number, more):
        shown = Problem(422, "Wrong.", self.errors(number)).errors
        assert shown == (*self.errors(99), LocatedError("body", "", f"{more} more errors."))

    def test_errors_are_short(self):
        (error,) = Problem(422, "Wrong.", (LocatedError("body", "n" * 201, "d" * 501),)).errors
        assert (error.name, error.description) == ("n" * 199 + "…", "d" * 499 + "…")


class TestProblemOf:
    @pytest.mark.parametrize(
        ("error", "status", "detail"),
        [
            (Invalid.field("a", "Wrong."), 422, "The request is not valid."),
            (InvalidRequest({"header": [FieldError("A", "Wrong.")]}), 422, "The request is not valid."),
            (Conflict("Taken."), 409, "Taken."),
            (Held("In use.", []), 409, "In use."),
            (AttemptOver(), 409, "The attempt has ended."),
            (Gone(), 404, "Not found."),
            (sqlalchemy.exc.NoResultFound(), 404, "Not found."),
            (sqlalchemy.orm.exc.StaleDataError(), 404, "Not found."),
            (Busy(), 503, "The server is busy. Retry later."),
            (TooLarge("Too large."), 413, "Too large."),
            (StorageFull("Full."), 507, "Full."),
            (BadForm("Broken."), 400, "Broken."),
            (URLDecodeError("utf-8", *NOT_UTF8), 400, "The URL is not UTF-8."),
            (UnicodeDecodeError("utf-8", *NOT_UTF8), 400, "The URL is not UTF-8."),
            (RangeNotSatisfiable(3), 416, "Range not satisfiable: there are 3 bytes."),
            (http.HTTPBadRequest("The body is not JSON."), 400, "The body is not JSON."),
            (http.HTTPUnsupportedMediaType("Another."), 415, "Another."),
            (http.HTTPGone(), 410, http.HTTPGone.explanation),
            (http.HTTPUnauthorized(), 401, "Authentication required."),
            (http.HTTPUnauthorized("The token has expired."), 401, "The token has expired."),
            (http.HTTPForbidden("acl denied"), 401, "Authentication required."),
            (http.HTTPNotFound("predicate mismatch"), 404, "Not found."),
            (http.HTTPMethodNotAllowed(), 405, "Method not allowed: DELETE."),
            (http.HTTPMethodNotAllowed("Read only."), 405, "Read only."),
            (OSError(errno.EACCES, "x"), 500, None),
            (sqlalchemy.exc.OperationalError("SELECT", None, Exception()), 503, None),
            (sqlalchemy.exc.TimeoutError("pool"), 503, None),
            (sqlalchemy.exc.IntegrityError("INSERT", None, Exception()), 500, None),
            (DomainError("x"), 500, None),
            (ZeroDivisionError("division"), 500, None),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
    )
    def test_every_exception_has_its_status_and_detail(self, error, status, detail, request_):
        problem = problem_of(error, request_)
        assert problem.status == status
        assert detail is None or problem.detail == detail

    def test_every_status_has_a_title(self):
        assert Problem(416, "x").title == "Range Not Satisfiable"
        assert Problem(422, "x").title == "Unprocessable Content"
        assert Problem(507, "x").title == "Insufficient Storage"
        assert Problem(404, "x").title == "Not Found"
        assert Problem(299, "x").title == "Error"

    def test_errors_have_their_location(self, request_):
        assert problem_of(Invalid.field("a.b", "Wrong."), request_).errors == (LocatedError("body", "a.b", "Wrong."),)
        wrong = {"querystring": [FieldError("q", "Odd.")], "body": [FieldError("b", "Bad."), FieldError("c", "Bad.")]}
        assert problem_of(InvalidRequest(wrong), request_).errors == (
            LocatedError("querystring", "q", "Odd."),
            LocatedError("body", "b", "Bad."),
            LocatedError("body", "c", "Bad."),
        )

    def test_a_conflict_has_its_members(self, request_):
        assert problem_of(Conflict("x", offset=3, held_by=["/a"]), request_).members == {"offset": 3, "held_by": ["/a"]}

    def test_a_known_caller_without_permission_is_forbidden(self, request_):
        request_.headers["Authorization"] = "ada"
        problem = problem_of(http.HTTPForbidden(), request_)
        assert (problem.status, problem.detail, problem.headers) == (403, "Permission denied.", ())

    @pytest.mark.parametrize("error", [http.HTTPUnauthorized(), http.HTTPForbidden()])
    def test_a_caller_without_authentication_gets_401(self, error, request_):
        assert problem_of(error, request_).headers == (("WWW-Authenticate", "Bearer"),)

    def test_the_headers_of_an_http_exception_are_kept_but_not_those_of_its_body(self, request_):
        error = http.HTTPMethodNotAllowed(headers=[("Allow", "GET"), ("Allow", "PUT")])
        assert {"Content-Type", "Content-Length"} <= set(error.headers)
        assert problem_of(error, request_).headers == (("Allow", "GET"), ("Allow", "PUT"))

    def test_a_range_beyond_the_end_has_the_headers_of_downloads(self, request_):
        headers = dict(problem_of(RangeNotSatisfiable(3), request_).headers)
        assert headers == {**GUARDS, "Content-Range": "bytes */3", "Cache-Control": "no-store"}

    @pytest.mark.parametrize("error", [ZeroDivisionError("secret"), sqlalchemy.exc.TimeoutError("secret")])
    def test_an_incident_is_logged_and_the_response_has_only_its_number(self, error, request_, caplog):
        problem = problem_of(error, request_)
        number = problem.members["incident"]
        assert f"incident {number} " in problem.detail
        assert "secret" not in str(problem)
        (record,) = caplog.records
        assert (record.levelname, record.exc_info[1]) == ("ERROR", error)
        assert number in record.getMessage()

    def test_an_error_that_the_client_caused_is_not_logged(self, request_, caplog):
        problem_of(Conflict("x"), request_)
        problem_of(http.HTTPNotFound(), request_)
        assert caplog.records == []

    def test_subclasses_are_converted_as_their_nearest_base(self, request_):
        class Locked(Conflict):
            pass

        assert Locked not in CONVERTERS
        assert problem_of(Locked("x"), request_).status == 409


class TestDocument:
    def test_has_the_standard_members(self):
        assert document(Problem(404, "Not found.")) == {
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "detail": "Not found.",
        }

    def test_has_every_error(self):
        errors = (LocatedError("body", "a", "Wrong."), LocatedError("querystring", "b", "Odd."))
        assert document(Problem(422, "x", errors))["errors"] == [
            {"location": "body", "name": "a", "description": "Wrong."},
            {"location": "querystring", "name": "b", "description": "Odd."},
        ]

    def test_extension_members_do_not_replace_the_standard_ones(self):
        members = {"status": 200, "title": "OK", "offset": 3}
        written = document(Problem(409, "x", members=members))
        assert (written["status"], written["title"], written["offset"]) == (409, "Conflict", 3)


class TestWriteProblem:
    def test_is_problem_json(self, request_):
        problem = Problem(409, "Tåken.", headers=(("X-A", "1"), ("X-A", "2")), members={"offset": 3})
        response = write_problem(problem, request_)
        assert response.status == "409 Conflict"
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.headers.getall("X-A") == ["1", "2"]
        assert json.loads(response.body) == document(problem)
        assert "Retry-After" not in response.headers

    def test_members_of_any_type_can_be_written(self, request_):
        assert orjson.loads(write_problem(Problem(409, "x", members={"a": PurePath("b")}), request_).body)["a"] == "b"

    @pytest.mark.parametrize(("headers", "value"), [((), "5"), ((("Retry-After", "60"),), "60")])
    def test_a_503_has_retry_after(self, headers, value, request_):
        response = write_problem(Problem(503, "x", headers=headers), request_)
        assert response.headers.getall("Retry-After") == [value]


def test_the_response_to_an_exception_is_its_problem(request_):
    response = respond(TooLarge("At most 3 bytes."), request_)
    assert (response.status_code, response.json_body["detail"]) == (413, "At most 3 bytes.")
