"""The check: every invariant is broken on purpose and reported; sound data has no violations."""

import hashlib
import os
import shutil
import time

import pytest
import sqlalchemy as sa

from mlapi.check import LATE, QUERIES, of_tables, violations
from mlapi.database import Database, sqlite_driver
from mlapi.models import Base, Grid, Job, User, attempts, logs, runs
from mlapi.models.attempts import Output, Report
from mlapi.models.base import clock
from mlapi.models.jobs import Status
from mlapi.settings import Settings
from mlapi.storage import open_store
from tests.rows import furnish

CONTENT = b"content"
SHA256 = hashlib.sha256(CONTENT).hexdigest()

BREAKS = {
    "I1 run {0} has {2} jobs for {1} tasks": [
        ("UPDATE runs SET task_count = 3 WHERE id = 1", (1, 3, 2)),
        ("UPDATE jobs SET run_id = 3, position = 9 WHERE id = 1", (3, 2, 3)),
    ],
    "I2 job {0} is {1}, but has {2} finished attempts": [
        ("UPDATE attempts SET status = 'LOST' WHERE id = 1", (1, "FINISHED", 0)),
        ("UPDATE attempts SET job_id = 5, number = 1 WHERE id = 1", (5, "QUEUED", 1)),
        ("UPDATE attempts SET status = 'FINISHED' WHERE id = 3", (2, "RUNNING", 1)),
        ("UPDATE attempts SET status = 'FINISHED' WHERE id = 2", (3, "FAILED", 1)),
        ("UPDATE jobs SET reused_from_id = 1 WHERE id = 1", (1, "FINISHED", 1)),
    ],
    "I2 job {0} is {1}, which contradicts its end time": [
        ("UPDATE jobs SET ended = NULL WHERE id = 1", (1, "FINISHED")),
        ("UPDATE jobs SET ended = created WHERE id = 2", (2, "RUNNING")),
        ("UPDATE jobs SET ended = created WHERE id = 6", (6, "PENDING")),
    ],
    "I11 job {0} is {1}, but its queue {2} is deleted": [
        ("UPDATE queues SET name = NULL WHERE id = 1", (6, "PENDING", 1)),
    ],
    "I3 job {0} has attempt number {1}, but {2} attempts": [
        ("UPDATE jobs SET attempt = 2 WHERE id = 1", (1, 2, 1)),
        ("UPDATE jobs SET attempt = 0 WHERE id = 3", (3, 0, 1)),
        ("UPDATE attempts SET number = 2 WHERE id = 1", (1, 1, 1)),
    ],
    "I3 job {0} has {1} failures, but {2} attempts that failed, were lost or handed back": [
        ("UPDATE jobs SET failures = 1 WHERE id = 1", (1, 1, 0)),
    ],
    "I3 attempt {0} is {1}, which contradicts its end time": [
        ("UPDATE attempts SET ended = NULL WHERE id = 1", (1, "FINISHED")),
        ("UPDATE attempts SET ended = created WHERE id = 3", (3, "RUNNING")),
    ],
    "I3 attempt {0} is RUNNING, but is not the current attempt of a running job {1}": [
        ("UPDATE attempts SET status = 'RUNNING' WHERE id = 1", (1, 1)),
        ("UPDATE jobs SET attempt = 2 WHERE id = 2", (3, 2)),
    ],
    "I3 job {0} is RUNNING, but its attempt {1} is {2}": [
        ("UPDATE attempts SET status = 'LOST' WHERE id = 3", (2, 3, "LOST")),
    ],
    "I3 job {0} is {1}, but moved to another status at last, as event {2} says": [
        ("UPDATE jobs SET status = 'CANCELLED' WHERE id = 3", (3, "CANCELLED", 8)),
    ],
    "I4 job {0} is RUNNING without a valid lease": [
        ("UPDATE jobs SET lease_until = NULL WHERE id = 2", (2,)),
        ("UPDATE jobs SET lease_until = '2026-01-01 00:00:00.000000' WHERE id = 2", (2,)),
    ],
    "I4 job {0} is {1}, but has a lease": [
        ("UPDATE jobs SET lease_until = created WHERE id = 3", (3, "FAILED")),
    ],
    "I4 job {0} is PENDING, but all its parents have ended": [
        ("UPDATE jobs SET status = 'CANCELLED', ended = created WHERE id = 5", (6,)),
        ("DELETE FROM job_parents WHERE job_id = 6", (6,)),
    ],
    "I5 job {0} is {1}, but its parent {2} is {3}": [
        ("UPDATE jobs SET status = 'QUEUED', ended = NULL WHERE id = 4", (4, "QUEUED", 3, "FAILED")),
        ("UPDATE jobs SET status = 'FAILED' WHERE id = 1", (2, "RUNNING", 1, "FAILED")),
    ],
    "I5 job {0} is {1}, but job {2}, on which it depends, is {3}": [
        ("INSERT INTO job_dependencies VALUES (5, 3)", (5, "QUEUED", 3, "FAILED")),
    ],
    "I5 job {0} depends on job {1}, which is not of an older run": [
        ("INSERT INTO job_dependencies VALUES (3, 5)", (3, 5)),
    ],
    "I5 job {0} has input file {1}, which is not an output of its parents": [
        ("UPDATE job_inputs SET file_id = 1 WHERE job_id = 2", (2, 1)),
    ],
    "I8 module {0} has {1} versions, but version number {2}": [
        ("UPDATE module_versions SET number = 2", (1, 1, 2)),
    ],
    "I8 attempt {0} has log size {1}, but {2} bytes of log": [
        ("UPDATE attempts SET log_size = 5 WHERE id = 1", (1, 5, 3)),
        ("DELETE FROM log_pieces", (1, 3, 0)),
    ],
    "I8 attempt {0} has its log both in the database and as a blob": [
        (f"UPDATE attempts SET log_sha256 = '{SHA256}' WHERE id = 1", (1,)),
    ],
    "I9 file {0} is an output of job {1}, which is {2}": [
        ("UPDATE job_outputs SET job_id = 3", (2, 3, "FAILED")),
    ],
    "I9 file {0} was created by job {1}, but is not among its outputs": [
        ("DELETE FROM job_outputs", (2, 1)),
    ],
    "I9 job {0} reuses job {1}, which has other outputs or did not finish": [
        ("UPDATE jobs SET reused_from_id = 1 WHERE id = 3", (3, 1)),
        ("UPDATE jobs SET reused_from_id = 1 WHERE id = 5", (5, 1)),
    ],
    "I10 run {0} and its pipeline have different owners": [
        ("UPDATE pipelines SET owner_id = 2", (1,)),
    ],
    "I10 run {0} and its grid {1} have different pipelines or owners": [
        ("UPDATE grids SET owner_id = 2", (3, 1)),
        ("UPDATE grids SET pipeline_id = 2", (3, 1)),
    ],
    "I1 grid {0} has {2} runs for {1} combinations": [
        ("UPDATE grids SET run_count = 0", (1, 0, 1)),
    ],
    "I10 job {0} and its run have different owners": [
        ("UPDATE jobs SET owner_id = 2 WHERE id = 1", (1,)),
    ],
    "I10 job {0} and its run have different pipelines": [
        ("UPDATE jobs SET pipeline_id = 2 WHERE id = 1", (1,)),
    ],
    "I10 file {0} and its job {1} have different owners": [
        ("UPDATE files SET owner_id = 2 WHERE id = 2", (2, 1)),
    ],
    "I10 job {0} and the job {1} that it reuses or on which it depends have different owners": [
        ("UPDATE jobs SET owner_id = 2, reused_from_id = 1 WHERE id = 3", (3, 1)),
    ],
    "I10 job {0} and its output {1} have different owners": [
        ("UPDATE jobs SET owner_id = 2 WHERE id = 1", (1, 2)),
    ],
    "I10 run {0} has input file {1} of another owner": [
        ("UPDATE files SET owner_id = 2 WHERE id = 1", (1, 1)),
    ],
}
"""For every invariant of the tables: the statements that break it, and a part of the message."""


def live(db):
    """Three runs of two jobs: running, failed and waiting."""
    pipeline, file = furnish(db, [None, None], SHA256)
    db.add(User(name="bob", password_hash=""))
    for _ in range(2):
        runs.start(db, pipeline, [file])
    for claim in attempts.claim(db, "w", 9, 60):
        attempt = claim.fence
        logs.append(db, attempt, 0, b"log" if claim.job_id == 1 else b"", 9)
        attempts.hand_in(db, attempt, SHA256, len(CONTENT))
        if claim.job_id == 1:
            attempts.report(db, attempt, Report(Status.FINISHED, outputs=[Output("o", SHA256, {}, "created")]))
        else:
            attempts.report(db, attempt, Report(Status.FAILED, "broken"))
    assert [claim.job_id for claim in attempts.claim(db, "w", 9, 60)] == [2]
    run, _ = runs.start(db, pipeline, [file])
    grid = Grid(pipeline_id=pipeline, owner_id=run.owner_id, axes=[], run_count=1)
    db.add(grid)
    db.flush()
    run.grid_id = grid.id


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder with a sound database and store, to be copied."""
    folder = tmp_path_factory.mktemp("sound")
    database = Database(f"sqlite:///{folder}/mlapi.db")
    Base.metadata.create_all(database.engine)
    with database.writing.begin() as db:
        live(db)
        sizes = {"size": len(CONTENT)}
        for table in ("files", "module_versions"):
            db.execute(sa.update(Base.metadata.tables[table]).values(**sizes))
    database.engine.dispose()
    open_store(folder / "files").put([CONTENT])
    return folder


@pytest.fixture
def settings(sound, tmp_path):
    """The settings of a copy of the sound service."""
    shutil.copytree(sound, tmp_path / "var")
    return Settings.read({"mlapi.data_dir": str(tmp_path / "var")}, {})


@pytest.fixture
def db(settings):
    """A connection to the copy that does not enforce foreign keys."""
    connection = sqlite_driver().connect(settings.data_dir / "mlapi.db")
    yield connection
    connection.close()


@pytest.fixture
def blob(settings):
    """The path of the only blob."""
    return settings.media_dir / "sha256" / SHA256[:2] / SHA256


def found(settings):
    return list(violations(settings))


def test_sound_data_has_no_violations(settings):
    assert found(settings) == []


def test_every_invariant_of_the_tables_is_tested():
    assert BREAKS.keys() == QUERIES.keys()


@pytest.mark.parametrize(
    ("statement", "line"),
    [(statement, text.format(*named)) for text, breaks in BREAKS.items() for statement, named in breaks],
)
def test_a_broken_invariant_is_reported(statement, line, settings, db):
    assert db.execute(statement).rowcount == 1
    db.commit()
    assert line in found(settings)


def test_a_lease_can_be_expired_for_as_long_as_a_scheduler_needs(settings):
    database = Database(settings.database_url)
    for late, broken in ((LATE - 5, False), (LATE + 5, True)):
        with database.writing.begin() as session:
            session.execute(sa.update(Job).where(Job.id == 2).values(lease_until=clock(-late)))
        with database.reading() as connection:
            assert bool(list(of_tables(connection))) is broken
    database.engine.dispose()


def test_i11_a_reference_to_a_missing_row_is_reported(settings, db):
    db.execute("DELETE FROM tasks WHERE position = 1")
    db.commit()
    lines = [f"I11 row {job} of jobs refers to a row of tasks that does not exist" for job in (1, 3, 5)]
    assert found(settings) == lines


def test_i11_a_damaged_database_is_reported(settings, db):
    db.execute("PRAGMA writable_schema = ON")
    db.execute("UPDATE sqlite_schema SET sql = replace(sql, '(sha256', '(name') WHERE name = 'ix_files_sha256_id'")
    db.commit()
    lines = found(settings)
    assert lines
    assert all(line.startswith("I11 ") and "ix_files_sha256" in line for line in lines)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b"CONTENT"),
        lambda path: path.write_bytes(CONTENT[:-1]),
        lambda path: path.write_bytes(CONTENT + b"x"),
        lambda path: path.write_bytes(b""),
    ],
    ids=["gone", "altered", "cut", "longer", "empty"],
)
def test_i7_missing_or_damaged_content_is_reported(harm, settings, blob):
    blob.chmod(0o600)
    harm(blob)
    what = ("file 1", "file 2", "module version 1")
    assert found(settings) == [f"I7 the content of {each} is missing or damaged" for each in what]


def test_i7_a_wrong_size_is_reported(settings, db):
    db.execute("UPDATE files SET size = 8 WHERE id = 2")
    db.commit()
    assert found(settings) == ["I7 the content of file 2 is missing or damaged"]


def test_i6_an_old_unreferenced_blob_is_reported(settings):
    store = open_store(settings.media_dir)
    spare = store.put([b"spare"]).sha256
    assert found(settings) == []
    old = time.time() - 2 * settings.sweep_grace - 1
    for sha256 in (spare, SHA256):
        os.utime(settings.media_dir / "sha256" / sha256[:2] / sha256, (old, old))
    assert found(settings) == [f"I6 blob {spare} is unreferenced"]
