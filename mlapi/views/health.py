"""Health: whether the process answers, and whether each part of the service is ready. Open to anybody."""

from typing import TypedDict

from pyramid.security import NO_PERMISSION_REQUIRED

from mlapi.errors import NotReady
from mlapi.http.request import Request
from mlapi.readiness import READY, PartsDocument, states
from mlapi.resources.health import Live, Ready
from mlapi.service import Service

live, ready = Service(Live), Service(Ready)


class LiveDocument(TypedDict):
    """The process answers."""

    status: str


class ReadyDocument(TypedDict):
    """The service is ready."""

    status: str
    parts: PartsDocument


@live.get(permission=NO_PERMISSION_REQUIRED)
def answer(_live: Live, _request: Request) -> LiveDocument:
    """Answer."""
    return {"status": "live"}


@ready.get(permission=NO_PERMISSION_REQUIRED)
def check(_ready: Ready, request: Request) -> ReadyDocument:
    """Check every part; 503 names those that are not ready."""
    parts = states(request.registry.database, request.store)
    if failing := [name for name, state in parts.items() if state != READY]:
        raise NotReady(failing, parts=parts)
    return {"status": READY, "parts": parts}
