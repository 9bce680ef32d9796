"""Every error as one shape: a problem document (RFC 9457) with `errors`, one for each field that is wrong."""

import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy.exc
from pyramid import httpexceptions as http
from pyramid.exceptions import URLDecodeError
from pyramid.response import Response
from pyramid.security import forget

from mlapi import errors as domain
from mlapi.http.forms import BadUpload
from mlapi.service import InvalidRequest
from mlapi.storage.local import FULL

log = logging.getLogger(__name__)

STATUSES: dict[type[Exception], int] = {
    domain.Invalid: 422,
    InvalidRequest: 422,
    domain.Conflict: 409,
    domain.TooLarge: 413,
    domain.StorageFull: 507,
    BadUpload: 400,
    URLDecodeError: 400,
    UnicodeDecodeError: 400,
    sqlalchemy.exc.OperationalError: 503,
    sqlalchemy.exc.TimeoutError: 503,
}
"""The status of each exception that is not of HTTP; what is not here is a 500."""

TITLES = {status: kind.title for status, kind in http.status_map.items()} | {
    422: "Unprocessable Content",
    507: "Insufficient Storage",
}


def problem(status: int, detail: str | None = None, /, **more: Any) -> Response:
    """A problem document of that status; what more it says never replaces what every one says."""
    document = {
        "type": "about:blank",
        "title": TITLES.get(status, "Error"),
        "status": status,
        "detail": detail,
    }
    response = Response(status=status, content_type="application/problem+json", charset=None)
    response.body = orjson.dumps({**document, **more, **document}, default=str)
    if status == 503:
        response.headers["Retry-After"] = "5"
    return response


def of_http(error: http.HTTPException, request: Any) -> Response:
    """The problem of an HTTP error, with the headers that it brings."""
    plain = f"{request.method} is not for this place." if error.code == 405 else error.explanation
    response = problem(error.code, error.detail or plain)
    response.headers.extend(
        (name, value) for name, value in error.headers.items() if name not in ("Content-Type", "Content-Length")
    )
    return response


def unauthorized(error: http.HTTPException, request: Any) -> Response:
    """401 to who has not said who he is, or not so that we believe it."""
    response = problem(401, error.detail or "Say who you are with a bearer token.")
    response.headers.extend(forget(request))
    return response


def forbidden(_error: http.HTTPForbidden, request: Any) -> Response:
    """403 to who may not, 401 to who has not said who he is."""
    if request.identity is None:
        return unauthorized(http.HTTPUnauthorized(), request)
    return problem(403, "You may not do this here.")


def of_exception(error: Exception, _request: Any) -> Response:
    """The problem of an exception from below the views, by the table."""
    if isinstance(error, OSError) and error.errno in FULL:
        error = domain.StorageFull("There is no room left to keep what was sent.")
    status = next((code for kind, code in STATUSES.items() if isinstance(error, kind)), 500)
    match error:
        case domain.Invalid():
            return problem(status, str(error), errors=located({"body": error.errors}))
        case InvalidRequest():
            return problem(status, str(error), errors=located(error.errors))
        case domain.DomainError():
            return problem(status, str(error), **error.extra)
        case BadUpload():
            return problem(status, str(error))
        case URLDecodeError() | UnicodeDecodeError():
            return problem(status, "The URL is not UTF-8.")
    number = uuid.uuid4().hex
    log.error("Request failed, incident %s", number, exc_info=error)
    return problem(status, "The service could not do this now.", incident=number)


def located(errors: Mapping[str, Sequence[domain.FieldError]]) -> list[dict[str, str]]:
    """Field errors with the part of the request that each is in."""
    return [{"location": location, **each._asdict()} for location, found in errors.items() for each in found]


def includeme(config: Any) -> None:
    """Answer every exception with a problem."""
    config.add_exception_view(of_http, context=http.HTTPException)
    config.add_exception_view(unauthorized, context=http.HTTPUnauthorized)
    config.add_exception_view(of_exception, context=Exception)
    config.add_forbidden_view(forbidden)
    config.add_notfound_view(lambda _error, _request: problem(404, "There is nothing here, or not for you."))
