"""Heads of requests: a request with a large body is accepted or refused before its body is received.

waitress receives a whole body, in a temporary file if it is large, before it calls the application. Before it receives
a large body, `mlapi.http.channel` calls the application with the head alone; `Head` is the part of the environment by
which the application recognizes such a call, and accepts the request.
"""

from pyramid.httpexceptions import HTTPNoContent
from pyramid.request import Request
from pyramid.response import Response

KEY = "mlapi.head"
"""The key of the `Head` in the environment."""


class Head:
    """A call of the application with the head of a request. `limit` is set if it is accepted: the size of its body."""

    limit: int | None = None


def accept(request: Request, limit: int) -> None:
    """End a call with the head of a request, whose body may have `limit` bytes; does nothing in other calls."""
    head: Head | None = request.environ.get(KEY)
    if head is not None:
        head.limit = limit
        raise HTTPNoContent()


def ask(application: object, environ: dict[str, object]) -> tuple[Response, int | None]:
    """Call an application with the head of a request; returns its response, and the limit of the body if accepted."""
    head = Head()
    response = Request({**environ, KEY: head}).get_response(application)
    return response, head.limit
