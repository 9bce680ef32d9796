"""Messages that wake schedulers: who gets them, and when."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from mlapi.database import Database
from mlapi.models import Base, Job, jobs, runs
from mlapi.models.jobs import Status
from mlapi.wake import PREFIX, Bell, ring
from tests.rows import furnish


@pytest.fixture
def bell(tmp_path: Path) -> Iterator[Bell]:
    with Bell(tmp_path) as bell:
        yield bell


def rung(bell: Bell) -> bool:
    """Whether there is a message."""
    return bell.wait(0)


def test_a_message_reaches_every_scheduler_once(tmp_path: Path, bell: Bell) -> None:
    with Bell(tmp_path) as other:
        for _ in range(3):
            ring(tmp_path)
        assert [rung(bell), rung(other), rung(bell), rung(other)] == [True, True, False, False]


def test_a_scheduler_can_be_woken_by_itself_and_by_other_descriptors(bell: Bell) -> None:
    bell.wake()
    assert [rung(bell), rung(bell)] == [True, False]
    one, two = socket.socketpair()
    with one, two:
        assert bell.wait(0, [one.fileno()]) is False
        two.send(b"!")
        assert bell.wait(0, [one.fileno()]) is True


def test_a_socket_disappears_with_its_scheduler_or_with_the_next_message(tmp_path: Path) -> None:
    with Bell(tmp_path):
        assert len(list(tmp_path.glob(f"{PREFIX}*"))) == 1
    assert list(tmp_path.iterdir()) == []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as killed:
        killed.bind(os.fspath(tmp_path / f"{PREFIX}killed"))
    (tmp_path / "secret_key").touch()
    ring(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["secret_key"]


def test_a_full_queue_and_a_missing_folder_do_not_matter(tmp_path: Path, bell: Bell) -> None:
    for _ in range(600):
        ring(tmp_path)
    assert [rung(bell), rung(bell)] == [True, False]
    ring(tmp_path / "missing")


def test_a_path_that_is_too_long_is_not_audible(tmp_path: Path, bell: Bell) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with Bell(folder) as deaf:
        ring(folder)
        assert (bell.audible, deaf.audible, rung(deaf)) == (True, False, False)
        deaf.wake()
        assert rung(deaf)


def test_a_commit_that_queues_or_ends_jobs_wakes_and_no_other_does(tmp_path: Path, bell: Bell) -> None:
    database = Database(f"sqlite:///{tmp_path}/test.db", bells=tmp_path)
    Base.metadata.create_all(database.engine)
    with database.writing.begin() as db:
        pipeline, file = furnish(db, [[]])
    assert not rung(bell)
    with database.writing() as db:
        runs.start(db, pipeline, [file])
        assert not rung(bell)
        db.rollback()
    assert not rung(bell)
    with database.writing.begin() as db:
        runs.start(db, pipeline, [file])
    assert rung(bell)
    with database.writing.begin() as db:
        db.execute(sa.update(Job).values(reason="x"))
    assert not rung(bell)
    with database.writing.begin() as db:
        assert jobs.move(db, Status.CANCELLED, sa.true())
    assert rung(bell)
    database.engine.dispose()
