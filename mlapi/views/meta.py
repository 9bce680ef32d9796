"""The entrance: where everything is."""

from typing import Any

from pyramid.security import NO_PERMISSION_REQUIRED

import mlapi
from mlapi.resources import Version1
from mlapi.service import Service

entrance = Service(Version1)


@entrance.get(permission=NO_PERMISSION_REQUIRED)
def show(version: Version1, request: Any) -> dict[str, Any]:
    """Show the version of the service and where its collections are."""
    collections = {name: child.link(request) for name, child in version.children.items()}
    return {"service": "mlapi", "version": mlapi.__version__, **collections}
