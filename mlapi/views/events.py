"""Events of runs, jobs and queues: list."""

from urllib.parse import urlencode

from mlapi.http.request import Request
from mlapi.resources.events import EventDocument, Events
from mlapi.resources.items import Item
from mlapi.resources.jobs import JobEvents
from mlapi.resources.queues import QueueEvents
from mlapi.resources.runs import RunEvents
from mlapi.schemas.pages import Page as Query
from mlapi.security import Permission
from mlapi.service import Expects, Service
from mlapi.views.answers import Page

run_events, job_events, queue_events = Service(RunEvents), Service(JobEvents), Service(QueueEvents)

PAGE = Expects(query=Query())


@run_events.get(permission=Permission.READ, schema=PAGE)
@job_events.get(permission=Permission.READ, schema=PAGE)
@queue_events.get(permission=Permission.READ, schema=PAGE)
def show(events: Events[Item[object, object]], request: Request) -> Page[EventDocument]:
    """List who did what, and when, after the event with the number `after`; none is missed by reading on from the last.

    The actions are `create`, `move` (of a job; data: status, reason and attempt), `output`, `cancel`, `retry`, and for
    queues `change`, `lock` and `unlock`.
    """
    query = request.validated["query"]
    documents, cursor = events.page(query["limit"], query.get("after", 0))
    following = f"{request.path_url}?{urlencode({**request.GET, 'after': cursor})}" if cursor else None
    return {"items": documents, "next": following}
