"""Problems: errors as values, and problem documents (RFC 9457) as their default representation."""

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

import orjson
import sqlalchemy.exc
import sqlalchemy.orm.exc
from pyramid import httpexceptions as http
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import forget

from mlapi import errors as domain
from mlapi.database import is_full
from mlapi.http.downloads import GUARDS, RangeNotSatisfiable
from mlapi.http.forms import BadForm
from mlapi.models.constraints import domain_error

log = logging.getLogger(__name__)

TITLES: dict[int, str] = {status: kind.title for status, kind in http.status_map.items()} | {
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
    507: "Insufficient Storage",
}
"""Titles by status; the added ones are missing in Pyramid or superseded by RFC 9110."""


class InvalidRequest(Exception):
    """A request that its service does not accept; `errors` has the field errors by location in the request."""

    def __init__(self, errors: Mapping[str, Sequence[domain.FieldError]]) -> None:
        self.errors = errors
        super().__init__("The request is not valid.")


class LocatedError(NamedTuple):
    """A field error with its location: `body`, `querystring` or `header`."""

    location: str
    name: str
    description: str


ERRORS = 100
"""Maximum number of field errors of a problem; the last one counts the others."""

NAME, DESCRIPTION = 200, 500
"""Maximum length of the name and of the description of a field error in characters."""


@dataclass(frozen=True)
class Problem:
    """An error of a request, independent of how it is represented; `members` extend the document.

    Its field errors are limited in number and length, whoever reports them.
    """

    status: int
    detail: str
    errors: tuple[LocatedError, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    members: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "errors", tuple(_limited(self.errors)))

    @property
    def title(self) -> str:
        """The title of the status."""
        return TITLES.get(self.status, "Error")


def _limited(errors: Sequence[LocatedError]) -> Iterator[LocatedError]:
    """Yield at most `ERRORS` errors, all of them short."""
    kept = len(errors) if len(errors) <= ERRORS else ERRORS - 1
    for error in errors[:kept]:
        yield LocatedError(error.location, shortened(error.name, NAME), shortened(error.description, DESCRIPTION))
    if more := len(errors) - kept:
        yield LocatedError(errors[kept].location, "", f"{more} more errors.")


def shortened(text: str, length: int) -> str:
    """Return a text with at most `length` characters; an ellipsis replaces the rest."""
    return text if len(text) <= length else text[: length - 1] + "…"


class FieldErrorDocument(TypedDict):
    """A field error in a problem document."""

    location: str
    name: str
    description: str


class ProblemDocument(TypedDict):
    """A problem document; the extension members of single problems are not typed."""

    type: str
    title: str
    status: int
    detail: str
    errors: NotRequired[list[FieldErrorDocument]]


def document(problem: Problem) -> ProblemDocument:
    """Return the problem document; extension members never replace the standard ones."""
    standard = ProblemDocument(type="about:blank", title=problem.title, status=problem.status, detail=problem.detail)
    if problem.errors:
        standard["errors"] = [
            FieldErrorDocument(location=error.location, name=error.name, description=error.description)
            for error in problem.errors
        ]
    return cast(ProblemDocument, {**standard, **problem.members, **standard})


Writer = Callable[[Problem, Request], Response]
"""A function that represents problems in the format of one API."""


def write_problem(problem: Problem, _request: Request) -> Response:
    """Write a problem as `application/problem+json`."""
    return response_of(problem)


def response_of(problem: Problem) -> Response:
    """Return the problem document, as a response to any request."""
    response = Response(status=problem.status, content_type="application/problem+json", charset=None)
    response.body = orjson.dumps(document(problem), default=str)
    response.headers.extend(problem.headers)
    if problem.status == 503:
        response.headers.setdefault("Retry-After", "5")
    return response


def writer_of(request: Request) -> Writer:
    """Return the writer of the tree under whose prefix a request is, whether or not anything is found there."""
    path = request.environ.get("PATH_INFO", "")
    trees = [tree for tree in request.registry.trees if f"{path}/".startswith(f"{tree.prefix}/")]
    return max(trees, key=lambda tree: len(tree.prefix)).writer if trees else write_problem


def respond(error: Exception, request: Request) -> Response:
    """Return the response to a request that ended in an exception."""
    return writer_of(request)(problem_of(error, request), request)


def problem_of(error: Exception, request: Request) -> Problem:
    """Return the problem of an exception, by the most specific of its classes in `CONVERTERS`."""
    kind = next(kind for kind in type(error).__mro__ if kind in CONVERTERS)
    return CONVERTERS[kind](error, request)


def _of_status(status: int) -> Callable[[Exception, Request], Problem]:
    """Return a converter of exceptions whose message is meant for the client."""
    return lambda error, _request: Problem(status, str(error))


def _of_invalid(error: domain.Invalid, _request: Request) -> Problem:
    return Problem(422, str(error), tuple(_located("body", error.errors)))


def _of_invalid_request(error: InvalidRequest, _request: Request) -> Problem:
    located = (line for location, errors in error.errors.items() for line in _located(location, errors))
    return Problem(422, str(error), tuple(located))


def _located(location: str, errors: Iterable[domain.FieldError]) -> Iterator[LocatedError]:
    return (LocatedError(location, *error) for error in errors)


def _of_conflict(error: domain.Conflict, _request: Request) -> Problem:
    return Problem(409, str(error), members=error.extra)


def _of_busy(error: domain.Busy, _request: Request) -> Problem:
    return Problem(503, str(error), headers=(("Retry-After", "1"),))


def _of_not_ready(error: domain.NotReady, _request: Request) -> Problem:
    return Problem(503, str(error), members=error.extra)


def _of_decoding(_error: UnicodeDecodeError, _request: Request) -> Problem:
    return Problem(400, "The URL is not UTF-8.")


def _of_range(error: RangeNotSatisfiable, _request: Request) -> Problem:
    headers = {**GUARDS, "Content-Range": f"bytes */{error.size}", "Cache-Control": "no-store"}
    return Problem(416, str(error), headers=tuple(headers.items()))


def _of_http(error: http.HTTPException, _request: Request) -> Problem:
    return _with_headers(error, error.detail or error.explanation)


def _of_method(error: http.HTTPMethodNotAllowed, request: Request) -> Problem:
    return _with_headers(error, error.detail or f"Method not allowed: {request.method}.")


def _with_headers(error: http.HTTPException, detail: str) -> Problem:
    """Return the problem of an HTTP exception with its headers, except those of the body it would have had."""
    of_body = {"Content-Type", "Content-Length"}
    headers = tuple((name, value) for name, value in error.headers.items() if name not in of_body)
    return Problem(error.code, detail, headers=headers)


def _of_unauthorized(error: http.HTTPUnauthorized, request: Request) -> Problem:
    return Problem(401, error.detail or "Authentication required.", headers=tuple(forget(request)))


def _of_forbidden(_error: http.HTTPForbidden, request: Request) -> Problem:
    if request.identity is None:
        return _of_unauthorized(http.HTTPUnauthorized(), request)
    return Problem(403, "Permission denied.")


def _of_not_found(_error: Exception, _request: Request) -> Problem:
    # Pyramid's own detail names views and paths.
    return Problem(404, "Not found.")


def _of_integrity(error: sqlalchemy.exc.IntegrityError, request: Request) -> Problem:
    translated = domain_error(error)
    return _of_unexpected(error, request) if translated is None else problem_of(translated, request)


def _of_database(error: Exception, _request: Request) -> Problem:
    if is_full(error):
        return _incident(error, 507, "No space left in the database. Quote incident {number} when you report it.")
    return _incident(error, 503, "Database unavailable. Retry later, or quote incident {number} when you report it.")


def _of_driver(error: sqlalchemy.exc.DBAPIError, request: Request) -> Problem:
    # PostgreSQL reports some ends of a connection as internal errors, such as that of an idle transaction.
    return (_of_database if error.connection_invalidated else _of_unexpected)(error, request)


def _of_unexpected(error: Exception, _request: Request) -> Problem:
    return _incident(error, 500, "Internal error. Quote incident {number} when you report it.")


def _incident(error: Exception, status: int, detail: str) -> Problem:
    """Log an exception under a new number and return a problem that only has this number."""
    number = uuid.uuid4().hex
    log.error("Request failed, incident %s", number, exc_info=error)
    return Problem(status, detail.format(number=number), members={"incident": number})


# Any: each function takes the exception of its key, which the type of a dict cannot express.
CONVERTERS: dict[type[Exception], Callable[[Any, Request], Problem]] = {
    domain.Invalid: _of_invalid,
    InvalidRequest: _of_invalid_request,
    domain.Gone: _of_not_found,
    domain.Conflict: _of_conflict,
    domain.Busy: _of_busy,
    domain.NotReady: _of_not_ready,
    domain.TooLarge: _of_status(413),
    domain.StorageFull: _of_status(507),
    BadForm: _of_status(400),
    RangeNotSatisfiable: _of_range,
    UnicodeDecodeError: _of_decoding,
    http.HTTPException: _of_http,
    http.HTTPMethodNotAllowed: _of_method,
    http.HTTPUnauthorized: _of_unauthorized,
    http.HTTPForbidden: _of_forbidden,
    http.HTTPNotFound: _of_not_found,
    sqlalchemy.exc.IntegrityError: _of_integrity,
    # A row that a request has found was deleted before it was read or written again.
    sqlalchemy.exc.NoResultFound: _of_not_found,
    sqlalchemy.orm.exc.StaleDataError: _of_not_found,
    sqlalchemy.exc.DBAPIError: _of_driver,
    sqlalchemy.exc.OperationalError: _of_database,
    sqlalchemy.exc.TimeoutError: _of_database,
    Exception: _of_unexpected,
}
"""The function that turns each class of exceptions into a problem; subclasses are included."""
