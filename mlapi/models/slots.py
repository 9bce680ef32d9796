"""Slots: how many jobs a worker runs and may claim."""

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from mlapi.models.attempts import Attempt
from mlapi.models.base import clock
from mlapi.models.jobs import Status
from mlapi.models.workers import Health, Worker


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
    """How many jobs a worker may claim, and whether that is the trial of a failing worker."""

    jobs: int
    trial: bool = False


def allowance(db: Session | sa.Connection, worker: str, slots: int) -> Allowance:
    """Return how many jobs a worker with this number of slots may claim.

    A blocked worker may claim none. A failing worker that is no longer blocked may claim one job at a time.
    """
    own = sa.and_(Attempt.worker == worker, Attempt.status == Status.RUNNING)
    free = slots - (db.scalar(sa.select(sa.func.count()).select_from(Attempt).where(own)) or 0)
    trials = sa.exists().where(own, Attempt.created >= Worker.blocked_until)
    failing = sa.select((Worker.blocked_until > clock()).label("blocked"), trials.label("tried"))
    row = db.execute(failing.where(Worker.name == worker, Worker.health == Health.FAILING)).first()
    if row is None:
        return Allowance(max(0, free))
    return Allowance(0 if row.blocked or row.tried or free <= 0 else 1, trial=True)
