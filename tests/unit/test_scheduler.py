"""The scheduler: the number of claimed jobs, and lost workers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from mlapi.database import Database
from mlapi.execution.executors.base import Ticket
from mlapi.execution.scheduler import Scheduler
from mlapi.models import Attempt, Base, Job, attempts, runs
from mlapi.models.attempts import Report
from mlapi.models.base import clock
from mlapi.models.jobs import Status
from mlapi.settings import Settings
from mlapi.storage import open_store
from tests.rows import furnish


class Tickets:
    """An executor whose runners are simulated by the test."""

    def __init__(self) -> None:
        self.tickets: list[Ticket] = []
        self.cancelled: list[int] = []
        self.ended: dict[int, int] = {}

    def submit(self, ticket: Ticket) -> None:
        self.tickets.append(ticket)

    def cancel(self, attempt_id: int) -> None:
        self.cancelled.append(attempt_id)

    def poll(self) -> dict[int, int]:
        ended, self.ended = self.ended, {}
        return ended

    def close(self) -> None:
        pass


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A database with a run of five queued jobs."""
    made = Database(f"sqlite:///{tmp_path}/test.db")
    Base.metadata.create_all(made.engine)
    with made.writing.begin() as db:
        pipeline, file = furnish(db, [[]] * 5)
        runs.start(db, pipeline, [file])
    yield made
    made.engine.dispose()


Make = Callable[..., tuple[Scheduler, Tickets]]


@pytest.fixture
def make(database: Database, tmp_path: Path) -> Make:
    """Create a scheduler with two slots."""

    def make(**changed: str) -> tuple[Scheduler, Tickets]:
        values = {"data_dir": str(tmp_path), "slots": "2", "worker": "one", "job_attempts": "2", **changed}
        settings = Settings.read({f"mlapi.{name}": value for name, value in values.items()}, {})
        executor = Tickets()
        store = open_store(settings.media_dir)
        return Scheduler(settings, database, executor, store, "http://here/attempts/{}".format), executor

    return make


def reported(database: Database, attempt_id: int) -> None:
    """Report that an attempt finished."""
    with database.writing.begin() as db:
        attempts.report(db, db.get_one(Attempt, attempt_id).fence, Report(Status.FINISHED))


def fetch(database: Database, attempt_id: int) -> None:
    """Send the heartbeat that shows that the runner of an attempt has fetched its job."""
    with database.writing.begin() as db:
        attempts.beat(db, db.get_one(Attempt, attempt_id).fence, 60)


def test_as_many_jobs_are_claimed_as_slots_are_free(database: Database, make: Make) -> None:
    scheduler, executor = make()
    assert scheduler.tick() is True
    assert [ticket.url for ticket in executor.tickets] == ["http://here/attempts/1", "http://here/attempts/2"]
    assert scheduler.tick() is False
    reported(database, 2)
    assert scheduler.tick() is True
    assert [ticket.attempt_id for ticket in executor.tickets] == [1, 2, 3]


def test_a_restarted_scheduler_counts_the_running_attempts_of_its_machine(database: Database, make: Make) -> None:
    make()[0].tick()
    again, executor = make()
    assert again.tick() is False
    reported(database, 1)
    assert again.tick() is True
    assert [ticket.attempt_id for ticket in executor.tickets] == [3]


def test_the_attempts_of_other_machines_take_no_slot(make: Make) -> None:
    make()[0].tick()
    other, executor = make(worker="two")
    assert other.tick() is True
    assert [ticket.attempt_id for ticket in executor.tickets] == [3, 4]


def test_a_job_whose_workers_are_lost_has_a_reason(database: Database, make: Make) -> None:
    scheduler, executor = make(slots="1", job_lease="60")
    scheduler.tick()
    fetch(database, 1)
    executor.ended = {1: -9}
    scheduler.tick()
    fetch(database, 2)
    with database.writing.begin() as db:
        assert db.scalars(sa.select(Attempt.reason).where(Attempt.id == 1)).one() == (
            "The runner ended with exit status -9 without a report."
        )
        db.execute(sa.update(Job).where(Job.id == 1).values(lease_until=clock(-30)))
    assert [ticket.attempt_id for ticket in executor.tickets] == [1, 2]
    make(slots="1", job_lease="60", worker="two")[0].tick()
    with database.reading() as db:
        job = db.execute(sa.select(Job.status, Job.reason).where(Job.id == 1)).one()
        reason = db.scalar(sa.select(Attempt.reason).where(Attempt.id == 2))
    assert reason == "No heartbeat from one for 60 s."
    assert tuple(job) == ("FAILED", "Worker lost in 2 of 2 attempts. Last: no heartbeat from one for 60 s.")


def test_a_runner_whose_lease_has_expired_is_stopped(database: Database, make: Make) -> None:
    scheduler, executor = make()
    scheduler.tick()
    with database.writing.begin() as db:
        db.execute(sa.update(Job).where(Job.id == 1).values(lease_until=None))
    scheduler._next_lease_check = 0.0
    scheduler.tick()
    assert executor.cancelled == [1]
