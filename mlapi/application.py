"""The WSGI application."""

import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import orjson
from pyramid.config import Configurator
from pyramid.interfaces import IRequestExtensions
from pyramid.router import Router

from mlapi.http.request import Request
from mlapi.http.slow import SlowWork
from mlapi.resources import TREE
from mlapi.resources.tree import Tree
from mlapi.revision import prepare
from mlapi.settings import Settings, SettingsError
from mlapi.storage import open_store


class JsonRenderer:
    """Renders documents as JSON; times are RFC 3339 in UTC."""

    def __init__(self, _info: object) -> None:
        pass

    def __call__(self, document: object, system: Mapping[str, Any]) -> bytes:
        """The JSON text of a document."""
        system["request"].response.content_type = "application/json"
        return orjson.dumps(document, None, orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z)


def start_app(ini: Mapping[str, str], file: str) -> Router:
    """Create the application for a command of Pyramid, such as `pserve`, which shows an error without a traceback.

    Raises `SettingsError`, also for a folder that cannot be used and a database that is not at the newest revision.
    """
    sys.excepthook = _show_briefly
    settings = Settings.read(ini)
    prepare(settings, file, migrate=settings.migrate)
    try:
        return make_app(ini)
    except OSError as error:
        raise SettingsError(f"A folder of the settings cannot be used: {error}") from None


def _show_briefly(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Show an exception that ends the process: errors of the operator without a traceback."""
    if isinstance(error, SettingsError):
        print(error, file=sys.stderr)  # noqa: T201 - the message of a command
    else:
        sys.__excepthook__(kind, error, traceback)


def make_app(ini: Mapping[str, str], trees: Sequence[Tree] = (TREE,)) -> Router:
    """Create the application from the settings of an ini file. Raises `SettingsError`.

    There can be several trees with different prefixes; services are registered in all trees that contain their class.
    """
    settings = Settings.read(ini)
    with Configurator(settings={**ini, "handle_exceptions": False}) as config:
        config.registry.mlapi = settings
        config.registry.store = open_store(settings.media_dir)
        config.registry.slow_work = SlowWork(settings.threads)
        config.registry.trees = trees
        config.add_renderer("json", JsonRenderer)
        for part in ("cornice", "mlapi.database", "mlapi.security", "mlapi.resources", "mlapi.views.errors"):
            config.include(part)
        config.include("mlapi.http.guard")
        config.set_default_permission("granted to no principal")
        config.scan("mlapi.views")
        config.commit()
        settle_request(config)
    return config.make_wsgi_app()


def settle_request(config: Configurator) -> None:
    """Create one request class with all properties that were added by `add_request_method`.

    Otherwise Pyramid creates a class for every request, which takes as long as a SELECT.
    """
    extensions = config.registry.getUtility(IRequestExtensions)
    config.set_request_factory(type("Request", (Request,), dict(extensions.descriptors)))
    extensions.descriptors.clear()
