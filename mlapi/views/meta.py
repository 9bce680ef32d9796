"""The entrance: where everything is."""

from typing import Any

from pyramid.security import NO_PERMISSION_REQUIRED

import mlapi
from mlapi.resources import Version1
from mlapi.resources.attempts import Attempts
from mlapi.resources.auth import Auth, Token
from mlapi.resources.base import Node
from mlapi.service import Service

entrance = Service(Version1)


@entrance.get(permission=NO_PERMISSION_REQUIRED)
def show(version: Version1, request: Any) -> dict[str, Any]:
    """Show the version of the service and where its collections are."""
    places: dict[str, type[Node]] = {**version.children, "token": Token}
    links = {name: place.link(request) for name, place in places.items() if place not in (Auth, Attempts)}
    return {"service": "mlapi", "version": mlapi.__version__, **links}
