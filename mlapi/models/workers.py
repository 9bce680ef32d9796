"""Workers: the machines that run jobs, with their last heartbeat and their health.

A fault of a machine, such as a full disk, counts against its worker instead of its jobs, and stops the worker from
claiming for a while that grows with every further fault.
"""

import enum
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from mlapi.models.base import Numbered, Time, affected_rows, clock

LONGEST_BLOCK = 60.0
"""Maximum number of seconds for which a failing worker claims nothing; the first fault blocks for one second."""

WORKER_LIVES = 15.0
"""Seconds after its last heartbeat for which a scheduler is considered to be alive."""


class Health(enum.StrEnum):
    """The health of a worker."""

    HEALTHY = "healthy"
    FAILING = "failing"
    """Its last attempt ended by a fault of the machine. Until one succeeds, it claims one job at a time."""


class Worker(Numbered):
    """A machine that runs jobs, under the name in its setting `worker`."""

    __tablename__ = "workers"
    __table_args__ = (sa.UniqueConstraint("name"), {"sqlite_autoincrement": True})

    name: Mapped[str]
    host: Mapped[str]
    version: Mapped[str | None]
    queues: Mapped[list[str] | None]
    slots: Mapped[int | None]
    cpus: Mapped[float | None]
    memory: Mapped[int | None]
    gpus: Mapped[int | None]
    heartbeat: Mapped[Time]
    health: Mapped[str] = mapped_column(default=Health.HEALTHY)
    faults: Mapped[int] = mapped_column(default=0)
    blocked_until: Mapped[Time | None]
    reason: Mapped[str | None]


LIVES = Worker.heartbeat > clock(-WORKER_LIVES)
"""The condition for workers whose schedulers live."""


NOBODY = "No scheduler is running."
"""Why queued jobs are not executed."""


def heard(db: Session | sa.Connection) -> bool:
    """Whether any scheduler lives."""
    return bool(db.scalar(sa.select(sa.exists().where(LIVES))))


class Offer(NamedTuple):
    """What a worker offers: the queues that it serves, its slots, and the resources of its machine, as far as known."""

    queues: list[str] | None = None
    slots: int | None = None
    cpus: float | None = None
    memory: int | None = None
    gpus: int | None = None


UNKNOWN = Offer()
"""The offer of a worker that has not said what it offers: it serves all queues."""


def beat(db: Session, name: str, host: str, version: str, offer: Offer = UNKNOWN) -> None:
    """Record the heartbeat of a worker, and its row at the first one."""
    seen = {"host": host, "version": version, "heartbeat": clock(), **offer._asdict()}
    if not affected_rows(db, sa.update(Worker).where(Worker.name == name).values(**seen)):
        db.execute(sa.insert(Worker).values(name=name, **seen))


def count_fault(db: Session, name: str, reason: str) -> None:
    """Count a fault against a worker and block it; faults that end together, while it is blocked, count once."""
    unblocked = sa.or_(Worker.blocked_until.is_(None), Worker.blocked_until <= clock())
    faults = db.scalar(sa.select(Worker.faults).where(Worker.name == name, unblocked).with_for_update())
    if faults is None:
        return
    until = clock(block_after(faults + 1))
    values = {"health": Health.FAILING, "faults": faults + 1, "blocked_until": until, "reason": reason}
    db.execute(sa.update(Worker).where(Worker.name == name).values(**values))


def block_after(faults: int) -> float:
    """Return the seconds for which a worker is blocked after this number of faults without a success."""
    return min(LONGEST_BLOCK, 2.0 ** min(faults - 1, 10))


def recover(db: Session, name: str) -> None:
    """Record that an attempt of a worker has ended without a fault of the machine."""
    failing = sa.and_(Worker.name == name, Worker.health == Health.FAILING, Worker.blocked_until <= clock())
    values = {"health": Health.HEALTHY, "faults": 0, "blocked_until": None, "reason": None}
    db.execute(sa.update(Worker).where(failing).values(**values))
