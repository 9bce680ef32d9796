"""Tween around every request: host allow list, security headers, last-resort error handling."""

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

Handler = Callable[[Request], Response]


def guard(handler: Handler, registry: Registry) -> Handler:
    """Tween factory: refuses hosts that are not allowed, and turns exceptions without a response into problems."""
    hosts = frozenset(host.lower() for host in registry.mlapi.allowed_hosts)

    def guarded(request: Request) -> Response:
        if "*" not in hosts and host_of(request.headers.get("Host", "")) not in hosts:
            response = writer_of(request)(Problem(400, "Host not allowed."), request)
        else:
            try:
                response = handler(request)
            except Exception as error:  # noqa: BLE001 - nothing outside can respond
                response = respond(error, request)
        set_already = {name for name, _ in response.headerlist}
        response.headerlist.extend((name, HEADERS[name]) for name in HEADERS if name not in set_already)
        return response

    return guarded


def host_of(header: str) -> str:
    """Return the host of a Host header, in lower case and without its port."""
    if header.startswith("["):
        return header.partition("]")[0].lower() + "]"
    return header.partition(":")[0].lower()


def includeme(config: Configurator) -> None:
    """Register the guard as the outermost tween."""
    config.add_tween("mlapi.http.guard.guard", under=INGRESS)
