"""Queues: where queued jobs wait for workers; who may use them, and the defaults of their jobs."""

import datetime
from collections.abc import Collection, Iterable
from typing import NamedTuple, TypedDict, cast

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.database import wake_schedulers
from mlapi.errors import Conflict
from mlapi.models.base import JsonObject, Numbered, check_slug, protect
from mlapi.models.events import record

DEFAULT = "default"
"""The name of the queue of jobs that name none; it always exists."""

DEFAULT_ID = 1
"""The id of the default queue."""


class Queue(Numbered):
    """A queue: its lock, how many of its jobs may run at once, and the defaults of its jobs.

    A deleted queue has no name. Its row remains as long as ended jobs refer to it.
    """

    __tablename__ = "queues"
    __table_args__ = (sa.UniqueConstraint("name"), {"sqlite_autoincrement": True})

    name: Mapped[str | None]
    description: Mapped[str] = mapped_column(default="")
    is_locked: Mapped[bool] = mapped_column("locked", default=False)
    job_limit: Mapped[int | None]
    timeout: Mapped[float | None]
    attempts: Mapped[int | None]
    resources: Mapped[JsonObject | None]


@sa.event.listens_for(Queue.__table__, "after_create")
def _create_default(table: object, connection: sa.Connection, **_options: object) -> None:
    connection.execute(sa.insert(cast(sa.Table, table)).values(name=DEFAULT))


class QueueChanges(TypedDict, total=False):
    """The columns of a queue that administrators can change."""

    description: str
    job_limit: int | None
    timeout: float | None
    attempts: int | None
    resources: JsonObject | None


class Defaults(NamedTuple):
    """What applies to the jobs of a queue unless their task or run says otherwise; None if the queue has no value."""

    timeout: float | None
    attempts: int | None
    resources: JsonObject | None


def create(db: Session, name: str, changes: QueueChanges) -> Queue:
    """Create a queue. Raises `Invalid` for a name that is not a slug, `Conflict` for a name that is taken."""
    check_slug(name)
    queue = Queue(name=name, **changes)
    db.add(queue)
    try:
        db.flush()
    except IntegrityError:
        raise Conflict(f"The queue name {name} is already taken.") from None
    record(db, "create", "queue", queue.id, name=name)
    return queue


def change(db: Session, queue_id: int, changes: QueueChanges) -> None:
    """Change the limit or the defaults of a queue; existing jobs keep their values."""
    queue = Queue.locked(db, queue_id)
    for name, value in changes.items():
        setattr(queue, name, value)
    db.flush()
    wake_schedulers(db)
    changed = {name.removeprefix("job_"): value for name, value in changes.items()}
    record(db, "change", "queue", queue_id, name=queue.name, changes=changed)


def set_lock(db: Session, queue_id: int, *, locked: bool) -> None:
    """Lock or unlock a queue; no effect if it is so already. A locked queue takes no runs and starts no jobs."""
    queue = Queue.locked(db, queue_id)
    if queue.is_locked != locked:
        queue.is_locked = locked
        db.flush()
        wake_schedulers(db)
        record(db, "lock" if locked else "unlock", "queue", queue_id, name=queue.name)


def ids(db: Session, names: Iterable[str], *, protected: bool = True) -> dict[str, int]:
    """The ids of the queues with these names, as far as they exist.

    They are `protected` from deletion, unless `check_open` protects them later, together with others and in order.
    """
    query = sa.select(Queue.name, Queue.id).where(Queue.name.in_(set(names))).order_by(Queue.id)
    return {str(name): queue_id for name, queue_id in db.execute(protect(query, Queue) if protected else query)}


def since(db: Session | sa.Connection, names: Collection[str], time: datetime.datetime) -> set[str]:
    """The names of those of these queues that have existed since a time: a new queue can have the name of a deleted."""
    query = sa.select(Queue.name).where(Queue.name.in_(names), Queue.created <= time)
    return {str(name) for name in db.scalars(query)}


def check_open(db: Session, queue_ids: Iterable[int]) -> None:
    """Raise `Conflict` if one of these queues is locked or deleted; protects them from deletion."""
    wanted = set(queue_ids)
    query = sa.select(Queue.name, Queue.is_locked).where(Queue.id.in_(wanted)).order_by(Queue.id)
    found = db.execute(protect(query, Queue)).all()
    if len(found) < len(wanted) or any(name is None for name, _ in found):
        raise Conflict("The queue no longer exists.")
    for name, locked in found:
        if locked:
            raise Conflict(f"Queue {name} is locked.")


def defaults(db: Session, queue_ids: Iterable[int]) -> dict[int, Defaults]:
    """The defaults of the jobs of these queues, by id."""
    query = sa.select(Queue.id, Queue.timeout, Queue.attempts, Queue.resources).where(Queue.id.in_(set(queue_ids)))
    return {row.id: Defaults(row.timeout, row.attempts, row.resources) for row in db.execute(query)}
