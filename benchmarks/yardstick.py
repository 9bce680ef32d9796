"""The yardstick: a bare Pyramid view behind waitress. `python -m benchmarks.yardstick PORT THREADS`."""

import sys
from typing import Any

import waitress
from pyramid.config import Configurator

from mlapi.http.server import LIMITS


def main() -> None:
    """Serve the view until SIGTERM."""
    port, threads = sys.argv[1:]
    with Configurator() as config:
        config.add_route("bare", "/bare")
        config.add_view(view, route_name="bare", renderer="json")
        app = config.make_wsgi_app()
    waitress.serve(app, host="127.0.0.1", port=port, threads=threads, _quiet=True, **LIMITS)


def view(_request: Any) -> dict[str, bool]:
    """The bare view."""
    return {"ok": True}


if __name__ == "__main__":
    main()
