"""The entry point of the API: links to all collections."""

from typing import TypedDict

from pyramid.security import NO_PERMISSION_REQUIRED

import mlapi
from mlapi.http.request import Request
from mlapi.resources import Version1
from mlapi.resources.tree import Url
from mlapi.service import Service

entrance = Service(Version1)


class EntranceDocument(TypedDict):
    """The version of the service, and links to its collections."""

    service: str
    version: str
    users: Url
    modules: Url
    files: Url
    pipelines: Url
    runs: Url
    jobs: Url
    token: Url


@entrance.get(permission=NO_PERMISSION_REQUIRED)
def show(version: Version1, _request: Request) -> EntranceDocument:
    """Show the version of the service and links to its collections."""
    return {
        "service": "mlapi",
        "version": mlapi.__version__,
        "users": version.link("users"),
        "modules": version.link("modules"),
        "files": version.link("files"),
        "pipelines": version.link("pipelines"),
        "runs": version.link("runs"),
        "jobs": version.link("jobs"),
        "token": version.link("token"),
    }
