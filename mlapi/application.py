"""The WSGI application: the rooms put together."""

from typing import Any

import orjson
from pyramid.config import Configurator
from pyramid.interfaces import IRequestExtensions
from pyramid.request import Request

from mlapi.settings import Settings
from mlapi.storage import store_from


class JsonRenderer:
    """Renders what views return; nodes of the tree say themselves how they look, times are RFC 3339 in UTC."""

    def __init__(self, _info: Any) -> None:
        pass

    def __call__(self, value: Any, system: dict[str, Any]) -> bytes:
        """The JSON text of `value`."""
        request = system["request"]
        request.response.content_type = "application/json"
        return orjson.dumps(value, lambda node: node.__json__(request), orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z)


def make_app(ini: dict[str, str]) -> Any:
    """Make the application from the settings of an ini file; raises `SettingsError` where they are wrong."""
    settings = Settings.read(ini)
    with Configurator(settings={**ini, "handle_exceptions": False}) as config:
        config.registry.mlapi = settings
        config.registry.store = store_from(str(settings.media_dir))
        config.add_renderer("json", JsonRenderer)
        for part in ("cornice", "mlapi.database", "mlapi.security", "mlapi.resources", "mlapi.views.errors"):
            config.include(part)
        config.include("mlapi.http.guard")
        config.set_default_permission("nobody was given this one")
        config.scan("mlapi.views")
        config.commit()
        settle_request(config)
    return config.make_wsgi_app()


def settle_request(config: Configurator) -> None:
    """Make one class of all that was added to requests.

    Pyramid makes a class anew for each request that has added properties, which takes as long as a SELECT.
    """
    extensions = config.registry.getUtility(IRequestExtensions)
    config.set_request_factory(type("Request", (Request,), dict(extensions.descriptors)))
    extensions.descriptors.clear()
