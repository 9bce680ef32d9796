"""Tween around every request: host allow list, limit of parameters, security headers, last-resort error handling."""

import re
from collections.abc import Callable

from pyramid.config import Configurator
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.tweens import INGRESS

from mlapi.http.problems import Problem, respond, writer_of

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Authorization",
}
"""Default headers of every response (OWASP ASVS 5.0, 3.4 and 14.3)."""

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z._-]+)(?::[0-9]{1,5})?", re.IGNORECASE)
"""A Host header: a host name or an address, and optionally a port. Two headers, which waitress joins, do not match."""

PARAMETERS = 100
"""Maximum number of parameters of a query string."""

Handler = Callable[[Request], Response]


def guard(handler: Handler, registry: Registry) -> Handler:
    """Tween factory: refuses hosts that are not allowed and long query strings, and turns exceptions into problems."""
    hosts = frozenset(host.lower() for host in registry.mlapi.allowed_hosts)

    def guarded(request: Request) -> Response:
        host = host_of(request.headers.get("Host", ""))
        if host is None or not ("*" in hosts or host in hosts):
            response = writer_of(request)(Problem(400, "Host not allowed."), request)
        elif request.environ.get("QUERY_STRING", "").count("&") >= PARAMETERS:
            too_many = Problem(400, f"The query string must have at most {PARAMETERS} parameters.")
            response = writer_of(request)(too_many, request)
        else:
            try:
                response = handler(request)
            except Exception as error:  # noqa: BLE001 - nothing outside can respond
                response = respond(error, request)
        return secured(response)

    return guarded


def secured(response: Response) -> Response:
    """Add the default headers that a response does not set itself; returns the response."""
    set_already = {name for name, _ in response.headerlist}
    response.headerlist.extend((name, HEADERS[name]) for name in HEADERS if name not in set_already)
    return response


def host_of(header: str) -> str | None:
    """Return the host of a Host header, in lower case and without its port, or None for a malformed header.

    The whole header is parsed, because links contain all of it.
    """
    match = HOST.fullmatch(header)
    return match[1].lower() if match else None


def includeme(config: Configurator) -> None:
    """Register the guard as the outermost tween."""
    config.add_tween("mlapi.http.guard.guard", under=INGRESS)
