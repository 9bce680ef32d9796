"""Slots: how many jobs a worker runs and may claim."""

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from mlapi.models.attempts import Attempt
from mlapi.models.base import clock
from mlapi.models.jobs import Status
from mlapi.models.workers import Health, Worker

TRIAL = 10.0
"""Seconds after which a job that a failing worker tries counts as running; a long job would block its other slots."""


class Running(NamedTuple):
    """A running attempt, and whether its runner has fetched the job."""

    id: int
    fetched: bool


def running(db: Session | sa.Connection, worker: str) -> list[Running]:
    """The attempts of a worker that have not ended."""
    own = sa.and_(Attempt.worker == worker, Attempt.status == Status.RUNNING)
    query = sa.select(Attempt.id, Attempt.fetched.is_not(None)).where(own).order_by(Attempt.id)
    return [Running(*row) for row in db.execute(query)]


class Allowance(NamedTuple):
    """How many jobs a worker may claim, and if it is failing, after how many faults, the last of them with a reason."""

    jobs: int
    faults: int = 0
    reason: str | None = None

    @property
    def trial(self) -> bool:
        """Whether the claim is the trial of a failing worker."""
        return self.faults > 0


def allowance(db: Session | sa.Connection, worker: str, slots: int) -> Allowance:
    """Return how many jobs a worker with this number of slots may claim.

    A blocked worker may claim none. A failing worker that is no longer blocked may claim one job at a time: the next
    one when the last has ended, or has run for `TRIAL`.
    """
    own = sa.and_(Attempt.worker == worker, Attempt.status == Status.RUNNING)
    free = slots - (db.scalar(sa.select(sa.func.count()).select_from(Attempt).where(own)) or 0)
    young = sa.or_(Attempt.fetched.is_(None), Attempt.fetched > clock(-TRIAL))
    trials = sa.exists().where(own, Attempt.created >= Worker.blocked_until, young)
    failing = sa.select(Worker.faults, Worker.reason, Worker.blocked_until > clock(), trials)
    row = db.execute(failing.where(Worker.name == worker, Worker.health == Health.FAILING)).first()
    if row is None:
        return Allowance(max(0, free))
    faults, reason, blocked, tried = row
    return Allowance(0 if blocked or tried or free <= 0 else 1, faults, reason)
