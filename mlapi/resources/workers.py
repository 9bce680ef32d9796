"""Workers: the machines that run jobs, for administrators."""

import datetime
from typing import TypedDict, cast
from urllib.parse import quote

import sqlalchemy as sa

from mlapi.models import Attempt, Worker
from mlapi.models.jobs import Status
from mlapi.models.workers import LIVES
from mlapi.resources.fields import Field, Fields, Row
from mlapi.resources.items import Condition, Item, Named
from mlapi.resources.tree import Linker, Url
from mlapi.security import Identity, UserIdentity

workers, attempts = Worker.__table__.c, Attempt.__table__.c

RUNNING = (
    sa.select(sa.func.count())
    .select_from(Attempt.__table__)
    .where(attempts.worker == workers.name, attempts.status == Status.RUNNING)
    .scalar_subquery()
)
"""The number of the jobs that a worker runs."""


class WorkerDocument(TypedDict):
    """A worker: the queues that it serves, its slots, the resources of its machine, its last heartbeat, its health."""

    name: str
    url: Url
    host: str
    version: str | None
    queues: list[str] | None
    slots: int | None
    cpus: float | None
    memory: int | None
    gpus: int | None
    heartbeat: datetime.datetime
    alive: bool
    running: int
    health: str
    faults: int
    reason: str | None


class WorkerItem(Item[WorkerDocument, WorkerDocument]):
    """A machine that runs jobs."""

    key = "worker"
    fields = Fields(
        Field(workers.id, shown=False, sort=True),
        Field(workers.name),
        Field(workers.host),
        Field(workers.version),
        Field(workers.queues),
        Field(workers.slots),
        Field(workers.cpus),
        Field(workers.memory),
        Field(workers.gpus),
        Field(workers.heartbeat),
        Field(cast("sa.ColumnElement[object]", LIVES), "alive"),
        Field(RUNNING, "running"),
        Field(workers.health),
        Field(workers.faults),
        Field(workers.reason),
    )
    source = Worker.__table__
    by = workers.name

    @classmethod
    def visible(cls, identity: Identity) -> Condition:
        """Administrators see all workers, others none."""
        return sa.true() if isinstance(identity, UserIdentity) and identity.is_admin else sa.false()

    @classmethod
    def describe(cls, row: Row, link: Linker) -> WorkerDocument:
        """A worker."""
        return {
            "name": row.name,
            "url": link("worker", worker=quote(row.name, safe="")),
            "host": row.host,
            "version": row.version,
            "queues": row.queues,
            "slots": row.slots,
            "cpus": row.cpus,
            "memory": row.memory,
            "gpus": row.gpus,
            "heartbeat": row.heartbeat,
            "alive": bool(row.alive),
            "running": row.running,
            "health": row.health,
            "faults": row.faults,
            "reason": row.reason,
        }


class Workers(Named[WorkerItem]):
    """All workers."""

    kind = "workers"
    item = WorkerItem
    newest_first = False
