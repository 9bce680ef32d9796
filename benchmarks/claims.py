"""Claims from 20 queues, with a million ended jobs and ten thousand queued ones, and with a thousand of each."""

import contextlib
import time
from collections.abc import Iterator
from statistics import median

import sqlalchemy as sa

from benchmarks.growth import GOAL, REPEATS, ROWS
from benchmarks.growth import fill as fill_with
from benchmarks.service import Service, postgresql, temporary_folder
from benchmarks.table import Row
from mlapi.database import Database, analyze
from mlapi.models import attempts, dispatch, workers

SIZES = ((1_000, 1_000), (1_000_000, 10_000))
"""Numbers of ended and of queued jobs."""

SLOTS = 4
"""Number of jobs of a claim."""

QUEUED = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 19)
INSERT INTO queues (id, name, description, locked, job_limit, created)
SELECT 1 + i, 'q' || i, '', false, CASE i % 2 WHEN 0 THEN 50 END, '2026-01-01 00:00:00.000000' FROM n;

WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :size)
INSERT INTO jobs (id, run_id, pipeline_id, owner_id, function_id, position, arguments, status, queue_id, rank, attempt,
    failures, cancel_requested, metrics, queued, created)
SELECT (SELECT max(id) FROM jobs) + i, run_id, pipeline_id, owner_id, function_id, 1000 + i, arguments, 'QUEUED',
    1 + i % 20, i % 3, 0, 0, false, '{}', '2026-01-02 00:00:00.000000', created
FROM n JOIN jobs ON jobs.id = 1
"""
"""The statements that add queued jobs."""


def claims(_seconds: float) -> list[Row]:
    """Measure claims, and looks at the queues that find a job, on both databases."""
    rows = []
    for kind in ("SQLite", "PostgreSQL"):
        with contextlib.ExitStack() as running:
            folder = running.enter_context(temporary_folder())
            server = running.enter_context(postgresql(folder)) if kind == "PostgreSQL" else ""
            small, large = (running.enter_context(filled(server, *size)) for size in SIZES)
            for what, measure in ((f"a claim of {SLOTS} jobs", _claim), ("a look at the queues", _look)):
                times = [measure(each) for each in REPEATS * (large, small)]
                many, few = median(times[10::2]), median(times[11::2])
                shown = (f"{seconds * 1000:.1f} ms" for seconds in (many, few))
                met = "yes" if many <= GOAL * few else "no"
                rows.append(Row(f"{kind}: {what}", *shown, f"{many / few:.2f}", f"<= {GOAL}", "", met))
    return rows


@contextlib.contextmanager
def filled(server: str, ended: int, queued: int) -> Iterator[Database]:
    """A database with so many ended and queued jobs."""
    with temporary_folder() as folder:
        url = f"sqlite:///{folder}/claims.db"
        if server:
            url = sa.make_url(server).set(database=f"claims{ended}").render_as_string(hide_password=False)
            with sa.create_engine(server, isolation_level="AUTOCOMMIT").connect() as db:
                db.exec_driver_sql(f"CREATE DATABASE claims{ended}")
        Service(folder, database_url=url)  # Migrates the database.
        fill_with(url, ended, ROWS.rpartition(";")[0])
        made = Database(url)
        with made.engine.begin() as db:
            for statement in QUEUED.replace(":size", str(queued)).split(";"):
                db.execution_options(no_parameters=True).exec_driver_sql(statement)
        analyze(made.engine)
        with made.writing.begin() as session:
            workers.beat(session, "bench", "here", "1", workers.Offer(["*"], SLOTS, 2, 2**33, 0))
        yield made
        made.engine.dispose()


def _claim(database: Database) -> float:
    """Claim jobs and roll back; returns the time in seconds."""
    with database.writing() as session:
        begun = time.perf_counter()
        claimed = attempts.claim(session, "bench", SLOTS, 60)
        taken = time.perf_counter() - begun
        session.rollback()
    if len(claimed) != SLOTS:
        raise RuntimeError(f"{len(claimed)} jobs were claimed.")
    return taken


def _look(database: Database) -> float:
    """Look whether a job can be claimed; returns the time in seconds."""
    with database.reading() as db:
        begun = time.perf_counter()
        found = dispatch.waiting(db, "bench")
        taken = time.perf_counter() - begun
    if not found:
        raise RuntimeError("No job was found.")
    return taken
