"""Events of runs and jobs: list."""

from urllib.parse import urlencode

from mlapi.http.request import Request
from mlapi.resources.events import EventDocument, Events
from mlapi.resources.items import Item
from mlapi.resources.jobs import JobEvents
from mlapi.resources.runs import RunEvents
from mlapi.schemas.pages import Page as Query
from mlapi.security import Permission
from mlapi.service import Expects, Service
from mlapi.views.answers import Page

run_events, job_events = Service(RunEvents), Service(JobEvents)

PAGE = Expects(query=Query())


@run_events.get(permission=Permission.READ, schema=PAGE)
@job_events.get(permission=Permission.READ, schema=PAGE)
def show(events: Events[Item[object, object]], request: Request) -> Page[EventDocument]:
    """List who did what, and when, after the event with the number `after`; none is missed by reading on from the last.

    The changes of a run and of its jobs: `created`, `moved` (data: status, reason and attempt), `cancel`, …
    """
    query = request.validated["query"]
    documents, cursor = events.page(query["limit"], query.get("after", 0))
    following = f"{request.path_url}?{urlencode({**request.GET, 'after': cursor})}" if cursor else None
    return {"items": documents, "next": following}
