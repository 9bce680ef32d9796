"""What surrounds every request: the host it may ask for, the headers of every answer, and no error unanswered."""

from collections.abc import Callable
from typing import Any

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
"""Headers of every answer that does not set its own (OWASP ASVS 5.0, 3.4 and 14.3)."""


def guard(handler: Callable[[Any], Any], registry: Any) -> Callable[[Any], Any]:
    """Refuse hosts that are not ours, and answer with a problem whatever the rooms inside did not."""
    hosts = frozenset(host.lower() for host in registry.mlapi.allowed_hosts)

    def guarded(request: Any) -> Any:
        if "*" not in hosts and host_of(request.headers.get("Host", "")) not in hosts:
            response = writer_of(request)(Problem(400, "Host not allowed."), request)
        else:
            try:
                response = handler(request)
            except Exception as error:  # noqa: BLE001 - here is the last place that can answer
                response = respond(error, request)
        set_already = {name for name, _ in response.headerlist}
        response.headerlist.extend((name, HEADERS[name]) for name in HEADERS if name not in set_already)
        return response

    return guarded


def host_of(header: str) -> str:
    """The host of a Host header, in lower case and without its port."""
    if header.startswith("["):
        return header.partition("]")[0].lower() + "]"
    return header.partition(":")[0].lower()


def includeme(config: Any) -> None:
    """Put the guard around everything."""
    config.add_tween("mlapi.http.guard.guard", under=INGRESS)
