"""Queues: list, create, show, change, lock, unlock, delete."""

from typing import Any, cast

from mlapi.errors import Invalid
from mlapi.http.problems import InvalidRequest
from mlapi.http.request import Request
from mlapi.models import queues as rules
from mlapi.models.deletion import delete_queue
from mlapi.resources.queues import QueueDocument, QueueItem, QueueLock, Queues
from mlapi.schemas.queues import Move, NewQueue, QueueChange
from mlapi.security import Permission
from mlapi.service import Expects, Service
from mlapi.views import answers

queues, queue, queue_lock = Service(Queues), Service(QueueItem), Service(QueueLock)

queues.get(permission=Permission.READ, schema=answers.listing(Queues))(answers.page)
queue.get(permission=Permission.READ)(answers.show)


class QueueDeletion(answers.Deletion):
    """The deletion of a queue, with the number of tasks and jobs that moved to another one."""

    moved: dict[str, int]


def changes(body: dict[str, Any]) -> rules.QueueChanges:
    """The columns that a body changes."""
    return cast(rules.QueueChanges, {"job_limit" if name == "limit" else name: body[name] for name in body})


@queues.post(permission=Permission.WRITE, schema=Expects(body=NewQueue()))
def create(queues: Queues, request: Request) -> QueueDocument:
    """Create a queue."""
    body = request.validated["body"]
    name = body.pop("name")
    rules.create(request.db, name, changes(body))
    return answers.created(queues[name], request)


@queue.patch(permission=Permission.WRITE, schema=Expects(body=QueueChange()))
def update(queue: QueueItem, request: Request) -> QueueDocument:
    """Change the description, the limit or the defaults of a queue; existing jobs keep their values."""
    rules.change(request.db, queue.id, changes(request.validated["body"]))
    return queue.reload().document()


@queue.delete(permission=Permission.WRITE, schema=Expects(query=Move()))
def delete(queue: QueueItem, request: Request) -> QueueDeletion:
    """Delete a queue; its tasks and its jobs that have not ended move to the queue `move_to`, a URL or a name."""
    try:
        tasks, jobs = delete_queue(request.db, queue.id, request.validated["query"].get("move_to"))
    except Invalid as invalid:
        raise InvalidRequest({"querystring": invalid.errors}) from None
    return {**answers.deletion(queues=1), "moved": {"tasks": tasks, "jobs": jobs}}


@queue_lock.put(permission=Permission.WRITE)
def lock(queue_lock: QueueLock, request: Request) -> QueueDocument:
    """Lock a queue: it takes no new runs and starts none of its jobs; running jobs continue."""
    queue = queue_lock.item
    rules.set_lock(request.db, queue.id, locked=True)
    return queue.reload().document()


@queue_lock.delete(permission=Permission.WRITE)
def unlock(queue_lock: QueueLock, request: Request) -> QueueDocument:
    """Unlock a queue."""
    queue = queue_lock.item
    rules.set_lock(request.db, queue.id, locked=False)
    return queue.reload().document()
