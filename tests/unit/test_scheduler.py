"""The scheduler: the number of claimed jobs, and lost workers."""

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from mlapi.database import Database
from mlapi.execution import scheduler as scheduling
from mlapi.execution.executors.base import Ticket
from mlapi.execution.probe import ServiceCheck
from mlapi.execution.runner import EXIT_REFUSED, EXIT_STOPPED, EXIT_UNREPORTED
from mlapi.execution.scheduler import REFUSED, Scheduler
from mlapi.models import Attempt, Base, Job, Worker, attempts, logs, queues, runs
from mlapi.models.attempts import Report
from mlapi.models.base import clock
from mlapi.models.jobs import Status
from mlapi.settings import Settings
from mlapi.storage import open_store
from mlapi.wake import Bell, ring
from tests.processes import free_port, wait_for
from tests.rows import furnish


class Tickets:
    """An executor whose runners are simulated by the test."""

    def __init__(self) -> None:
        self.tickets: list[Ticket] = []
        self.killed: list[int] = []
        self.ended: dict[int, int] = {}
        self.found: dict[int, bool | None] = {}
        self.on_kill: Callable[[int], None] = lambda attempt_id: None
        self.broken: Exception | None = None
        self.failing: list[Exception] = []

    def submit(self, ticket: Ticket) -> None:
        if self.broken is not None:
            raise self.broken
        self.tickets.append(ticket)

    def adopt(self, attempt_id: int) -> bool | None:
        return self.found.get(attempt_id, True)

    def kill(self, attempt_id: int) -> bool:
        self.killed.append(attempt_id)
        self.on_kill(attempt_id)
        return True

    def poll(self) -> dict[int, int | None]:
        if self.failing:
            raise self.failing.pop()
        ended, self.ended = self.ended, {}
        return ended

    def descriptors(self) -> list[int]:
        return []

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
        url = "http://here/attempts/{}".format
        return Scheduler(settings, database, executor, store, url, lambda: True), executor

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


def test_a_scheduler_shows_what_its_machine_offers(database: Database, make: Make) -> None:
    make(queues="gpu other", gpus="3")[0].tick()
    with database.reading() as db:
        worker = db.execute(sa.select(Worker.__table__)).one()
    assert (worker.queues, worker.slots, worker.gpus, worker.cpus) == (["gpu", "other"], 2, 3, os.cpu_count())
    assert worker.memory > 2**20


def test_a_scheduler_takes_the_jobs_of_its_queues_only(database: Database, make: Make) -> None:
    with database.writing.begin() as db:
        gpu = queues.create(db, "gpu", {}).id
        db.execute(sa.update(Job).where(Job.id == 4).values(queue_id=gpu))
    scheduler, executor = make(queues="gpu")
    assert scheduler.tick() is True
    assert [ticket.url for ticket in executor.tickets] == ["http://here/attempts/1"]
    with database.reading() as db:
        assert db.scalars(sa.select(Attempt.job_id)).all() == [4]


def test_a_scheduler_writes_nothing_for_jobs_that_it_cannot_take(database: Database, make: Make) -> None:
    scheduler, _ = make(queues="gpu")
    scheduler.tick()
    seen: list[str] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda *event: seen.append(event[2]))
    assert scheduler.tick() is False
    assert seen
    assert all(statement.startswith(("SELECT", "WITH", "BEGIN DEFERRED")) for statement in seen), seen


def test_a_log_that_cannot_be_stored_stops_neither_the_sweep_nor_other_logs(
    database: Database, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler, _ = make(sweep_grace="0.001", job_attempts="1")
    scheduler.tick()
    store = open_store(scheduler._settings.media_dir)
    logged = {1: b"first", 2: b"second"}
    for attempt_id, content in logged.items():
        with database.writing.begin() as db:
            logs.append(db, db.get_one(Attempt, attempt_id).fence, 0, content, 100)
        reported(database, attempt_id)
    with database.writing.begin() as db:
        db.execute(sa.update(Attempt).values(ended=clock(-601)))
    obstacle, other = (hashlib.sha256(content).hexdigest() for content in logged.values())
    folder = store.root / "sha256" / obstacle[:2]
    folder.rmdir()
    folder.touch()
    orphan = store.put([b"orphan"]).sha256
    monkeypatch.setattr(scheduling, "FIRST_SWEEP", 0.01)
    thread = threading.Thread(target=scheduler._sweep_periodically, daemon=True)
    thread.start()
    wait_for(lambda: store.size(other) == len(b"second"), "the log of the second attempt")
    scheduler.stop()
    thread.join(20)
    assert store.size(orphan) is None
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage() == "1 logs of attempts cannot be stored. They are tried again."


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


def test_a_runner_whose_lease_has_expired_is_killed_before_its_job_is_queued_again(
    database: Database, make: Make
) -> None:
    scheduler, executor = make()
    scheduler.tick()
    statuses = []

    def look(attempt_id: int) -> None:
        with database.reading() as db:
            statuses.append(db.scalar(sa.select(Job.status).where(Job.id == attempt_id)))

    executor.on_kill = look
    with database.writing.begin() as db:
        db.execute(sa.update(Job).where(Job.id == 1).values(lease_until=None))
    scheduler._next_lease_check = 0.0
    scheduler.tick()
    assert (executor.killed, statuses) == ([1], ["RUNNING"])
    with database.reading() as db:
        attempt = db.execute(sa.select(Attempt.status, Attempt.fault).where(Attempt.id == 1)).one()
    assert tuple(attempt) == ("LOST", "worker")


def test_an_expired_attempt_is_left_to_the_living_scheduler_of_its_worker_first(database: Database, make: Make) -> None:
    make()[0].tick()
    two, executor = make(worker="two", slots="1")
    for seconds, killed in ((-2, []), (-7, [1])):
        with database.writing.begin() as db:
            db.execute(sa.update(Job).where(Job.id == 1).values(lease_until=clock(seconds)))
        two._next_lease_check = 0.0
        two.tick()
        assert executor.killed == killed


def test_a_started_scheduler_ends_the_attempts_of_its_worker_whose_runners_are_gone(
    database: Database, make: Make
) -> None:
    make(slots="4")[0].tick()
    fetch(database, 2)
    fetch(database, 3)
    again, executor = make(slots="4")
    executor.found = {1: None, 2: None, 3: False, 4: True}
    again.tick()
    with database.reading() as db:
        rows = db.execute(sa.select(Attempt.id, Attempt.status).where(Attempt.id < 5).order_by(Attempt.id)).all()
        failures = list(db.scalars(sa.select(Job.failures).order_by(Job.id)))
    assert [tuple(row) for row in rows] == [(1, "LOST"), (2, "RUNNING"), (3, "LOST"), (4, "RUNNING")]
    assert failures == [0, 0, 1, 0, 0]
    assert executor.killed == [1, 3]


def test_a_runner_that_cannot_be_started_hands_its_job_back_and_counts_against_the_worker(
    database: Database, make: Make
) -> None:
    scheduler, executor = make()
    executor.broken = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    scheduler.tick()
    scheduler._next_lease_check = 0.0
    assert scheduler.tick() is False
    with database.reading() as db:
        jobs = db.execute(sa.select(Job.status, Job.reason, Job.failures).where(Job.id < 3)).all()
        worker = db.execute(sa.select(Worker.health, Worker.faults, Worker.reason)).one()
    reason = "The runner cannot be started: Resource temporarily unavailable."
    assert {tuple(job) for job in jobs} == {("QUEUED", f"Handed back in attempt 1; queued again. {reason}", 0)}
    assert tuple(worker) == ("failing", 1, reason)
    executor.broken = None
    with database.writing.begin() as db:
        db.execute(sa.update(Worker).values(blocked_until=clock(-1)))
    assert scheduler.tick() is True
    assert len(executor.tickets) == 1


@pytest.mark.parametrize(
    ("url", "pauses"),
    [
        ("http://127.0.0.1:6543", [0.5, 1.0, 1.0, 0.25]),
        ("http://[::1]:6543", [0.5, 1.0, 1.0, 0.25]),
        ("http://localhost", [0.5, 1.0, 1.0, 0.25]),
        ("http://10.0.0.1:6543", [0.25, 0.25, 0.25, 0.25]),
    ],
)
def test_looks_become_rare_while_nothing_happens_if_the_service_can_wake_the_scheduler(
    make: Make, tmp_path: Path, url: str, pauses: list[float]
) -> None:
    scheduler, _ = make(url=url, scheduler_interval="0.25")
    found = []
    with closing(Waits(tmp_path)) as bell:
        for message in (False, False, False, True):
            if message:
                ring(tmp_path)
            scheduler._rest(bell, busy=False)
            found.append(scheduler._pause)
    assert found == pauses
    assert bell.seconds == [0.25, *pauses[:-1]]


class Waits(Bell):
    """A bell that notes how long it may wait, and does not."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seconds: list[float] = []

    def wait(self, seconds: float, others: Iterable[int] = ()) -> bool:
        self.seconds.append(seconds)
        return super().wait(0, others)


@pytest.mark.parametrize(
    "error",
    [
        BlockingIOError(errno.EAGAIN, "fork"),
        MemoryError(),
        RuntimeError("can't start new thread"),
        sa.exc.OperationalError("", None, Exception()),
        sa.exc.IntegrityError("", None, Exception()),
    ],
)
def test_no_error_ends_the_scheduler(make: Make, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlapi.execution.scheduler.RECOVERY", 0.01)
    scheduler, executor = make()
    executor.failing = [error, error]
    thread = threading.Thread(target=scheduler.run)
    thread.start()
    try:
        wait_for(lambda: len(executor.tickets) == 2, "the next ticks")
    finally:
        scheduler.stop()
        thread.join()
    assert executor.failing == []


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1, "The runner ended with exit status 1 without a report."),
        (EXIT_REFUSED, REFUSED),
        (EXIT_UNREPORTED, "The service did not take the report of the runner in time."),
    ],
)
def test_a_runner_that_ends_before_it_fetches_its_job_counts_against_the_worker(
    database: Database, make: Make, code: int, reason: str
) -> None:
    scheduler, executor = make(slots="1")
    for number in range(1, 6):
        scheduler.tick()
        executor.ended = {number: code}
        scheduler.tick()
        with database.writing.begin() as db:
            db.execute(sa.update(Worker).values(blocked_until=clock(-1)))
            attempt = db.execute(sa.select(Attempt.reason, Attempt.fault).where(Attempt.id == number)).one()
            assert tuple(attempt) == (reason, "worker")
            assert not db.scalar(sa.select(sa.func.sum(Job.failures)))
    assert "401" in REFUSED


def test_a_runner_that_was_told_to_stop_hands_its_job_back(database: Database, make: Make) -> None:
    scheduler, executor = make(slots="1")
    scheduler.tick()
    with database.writing.begin() as db:
        attempts.beat(db, db.get_one(Attempt, 1).fence, 60)
    executor.ended = {1: EXIT_STOPPED}
    scheduler.tick()
    with database.reading() as db:
        attempt = db.execute(sa.select(Attempt.status, Attempt.reason, Attempt.fault).where(Attempt.id == 1)).one()
        assert tuple(attempt) == ("RETURNED", "The runner was told to stop.", None)
        assert not db.scalar(sa.select(sa.func.sum(Job.failures)))


def test_no_job_is_claimed_while_the_service_does_not_answer(database: Database, make: Make, free: int) -> None:
    scheduler, executor = make()
    scheduler._answers = ServiceCheck(f"http://127.0.0.1:{free}").answers
    assert scheduler.tick() is False
    assert executor.tickets == []
    with database.reading() as db:
        assert set(db.scalars(sa.select(Job.status))) == {"QUEUED"}


@pytest.fixture
def free() -> int:
    """A port at which nothing listens."""
    return free_port()
