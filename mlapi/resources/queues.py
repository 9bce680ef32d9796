"""Queues, with their waiting jobs and the workers that serve them."""

import datetime
from collections.abc import Sequence
from typing import TypedDict

import sqlalchemy as sa

from mlapi.database import Reader
from mlapi.models import Job, Queue, Worker
from mlapi.models.base import SLUG, JsonObject
from mlapi.models.dispatch import serves
from mlapi.models.jobs import Status
from mlapi.models.workers import LIVES
from mlapi.resources.events import OwnEvents
from mlapi.resources.fields import Field, Fields, Row
from mlapi.resources.items import USERS_READ, Collection, Condition, Item
from mlapi.resources.tree import Linker, Part, Url
from mlapi.security import Identity, UserIdentity

queues, jobs, workers = Queue.__table__.c, Job.__table__.c, Worker.__table__.c


class QueueDocument(TypedDict):
    """A queue: the defaults of its jobs, how many wait and run, and the names of the living workers that serve it."""

    name: str
    url: Url
    description: str
    locked: bool
    limit: int | None
    timeout: float | None
    attempts: int | None
    resources: JsonObject | None
    created: datetime.datetime
    waiting: int
    waiting_since: datetime.datetime | None
    running: int
    workers: list[str]
    events: Url


class QueueLock(Part["QueueItem"]):
    """The lock of a queue."""


class QueueEvents(OwnEvents["QueueItem"]):
    """The events of a queue."""


class QueueItem(Item[QueueDocument, QueueDocument]):
    """A queue, in which jobs wait for the workers that serve it."""

    key = "queue"
    children = {"lock": QueueLock, "events": QueueEvents}
    fields = Fields(
        Field(queues.id, shown=False, sort=True),
        Field(queues.name),
        Field(queues.description),
        Field(queues.locked),
        Field(queues.job_limit, "limit"),
        Field(queues.timeout),
        Field(queues.attempts),
        Field(queues.resources),
        Field(queues.created),
    )
    source = Queue.__table__
    by = queues.name

    @classmethod
    def visible(cls, identity: Identity) -> Condition:
        """Every user sees all queues that are not deleted."""
        return queues.name.is_not(None) if isinstance(identity, UserIdentity) else sa.false()

    def document(self) -> QueueDocument:
        """The queue, with its state."""
        [document] = documents([self.row], self.link, self.request.reader)
        return document


class Waiting(TypedDict):
    """The jobs of a queue that have not ended."""

    waiting: int
    waiting_since: datetime.datetime | None
    running: int


def documents(rows: Sequence[Row], link: Linker, reader: Reader) -> list[QueueDocument]:
    """The documents of queues; two statements find the jobs and the workers of all of them."""
    ids = [row.id for row in rows]
    found: dict[int, Waiting] = {key: {"waiting": 0, "waiting_since": None, "running": 0} for key in ids}
    active = sa.or_(jobs.status == Status.QUEUED, jobs.status == Status.RUNNING)
    counts = sa.select(jobs.queue_id, jobs.status, sa.func.count(), sa.func.min(jobs.queued))
    for key, status, count, oldest in reader.execute(
        counts.where(jobs.queue_id.in_(ids), active).group_by(jobs.queue_id, jobs.status)
    ):
        if status == Status.QUEUED:
            found[key] |= {"waiting": count, "waiting_since": oldest}
        else:
            found[key]["running"] = count
    serving: dict[int, list[str]] = {key: [] for key in ids}
    living = sa.select(queues.id, workers.name).select_from(sa.join(Queue.__table__, Worker.__table__, serves()))
    for key, worker in reader.execute(living.where(queues.id.in_(ids), LIVES).order_by(workers.name)):
        serving[key].append(worker)
    return [
        {
            "name": row.name,
            "url": link("queue", queue=row.name),
            "description": row.description,
            "locked": row.locked,
            "limit": row.limit,
            "timeout": row.timeout,
            "attempts": row.attempts,
            "resources": row.resources,
            "created": row.created,
            **found[row.id],
            "workers": serving[row.id],
            "events": f"{link('queue', queue=row.name)}/events",
        }
        for row in rows
    ]


class Queues(Collection[QueueItem]):
    """All queues."""

    kind = "queues"
    item = QueueItem
    newest_first = False
    __acl__ = USERS_READ

    def read_key(self, name: str) -> str:
        """The name of a queue; raises KeyError for a name that no queue can have."""
        if not SLUG.fullmatch(name):
            raise KeyError(name)
        return name

    def describe(self, rows: Sequence[Row]) -> list[QueueDocument]:
        """The documents of the queues of a page."""
        return documents(rows, self.link, self.request.reader)
