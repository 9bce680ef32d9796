"""The entry point of the API: links to all collections."""

from typing import TypedDict

from pyramid.security import NO_PERMISSION_REQUIRED
from sqlalchemy.exc import SQLAlchemyError

import mlapi
from mlapi.http.request import Request
from mlapi.models.workers import heard
from mlapi.resources import Version1
from mlapi.resources.tree import Url
from mlapi.service import Service

entrance = Service(Version1)


class EntranceDocument(TypedDict):
    """The version of the service, links to its collections, and whether a scheduler is running."""

    service: str
    version: str
    users: Url
    modules: Url
    queues: Url
    files: Url
    pipelines: Url
    runs: Url
    jobs: Url
    token: Url
    scheduler: bool | None


@entrance.get(permission=NO_PERMISSION_REQUIRED)
def show(version: Version1, request: Request) -> EntranceDocument:
    """Show the version of the service, links to its collections, and whether a scheduler executes jobs."""
    return {
        "service": "mlapi",
        "version": mlapi.__version__,
        "users": version.link("users"),
        "modules": version.link("modules"),
        "queues": version.link("queues"),
        "files": version.link("files"),
        "pipelines": version.link("pipelines"),
        "runs": version.link("runs"),
        "jobs": version.link("jobs"),
        "token": version.link("token"),
        "scheduler": scheduler_runs(request),
    }


def scheduler_runs(request: Request) -> bool | None:
    """Whether a scheduler is running, or None if the database does not answer: the links are valid without it."""
    try:
        return heard(request.reader)
    except SQLAlchemyError:
        return None
