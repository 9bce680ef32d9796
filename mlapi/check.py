"""Invariants of the database and the store, each with a query or a function that finds violations.

They hold between any two transactions, even if processes are killed. `mlapi-admin check` reports violations to
operators, and every fault test ends with it.
"""

import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from mlapi.database import Database
from mlapi.models import Attempt, File, ModuleVersion
from mlapi.models.base import clock
from mlapi.models.blobs import referenced
from mlapi.settings import Settings
from mlapi.storage import BlobStore, open_store

LATE = 10.0
"""Seconds within which a running scheduler detects an expired lease."""

BATCH = 500
"""Number of blobs in one query."""

QUERIES = {
    "I1 run {0} has {2} jobs for {1} tasks": """
        SELECT runs.id, runs.task_count, count(jobs.id) FROM runs LEFT JOIN jobs ON jobs.run_id = runs.id
        GROUP BY runs.id, runs.task_count HAVING count(jobs.id) <> runs.task_count""",
    "I1 grid {0} has {2} runs for {1} combinations": """
        SELECT grids.id, grids.run_count, count(runs.id) FROM grids JOIN runs ON runs.grid_id = grids.id
        GROUP BY grids.id, grids.run_count HAVING count(runs.id) > grids.run_count""",
    "I2 job {0} is {1}, but has {2} finished attempts": """
        SELECT jobs.id, jobs.status, count(attempts.id) FROM jobs
        LEFT JOIN attempts ON attempts.job_id = jobs.id AND attempts.status = 'FINISHED'
        GROUP BY jobs.id, jobs.status, jobs.reused_from_id
        HAVING count(attempts.id) <> CASE WHEN jobs.status = 'FINISHED' AND jobs.reused_from_id IS NULL
                                     THEN 1 ELSE 0 END""",
    "I2 job {0} is {1}, which contradicts its end time": """
        SELECT id, status FROM jobs
        WHERE (ended IS NULL) <> (status NOT IN ('FINISHED', 'FAILED', 'CANCELLED'))""",
    "I3 job {0} has attempt number {1}, but {2} attempts": """
        SELECT jobs.id, jobs.attempt, count(attempts.id) FROM jobs
        LEFT JOIN attempts ON attempts.job_id = jobs.id GROUP BY jobs.id, jobs.attempt
        HAVING count(attempts.id) <> jobs.attempt OR coalesce(max(attempts.number), 0) <> jobs.attempt""",
    "I3 job {0} has {1} failures, but {2} attempts that failed, were lost or handed back": """
        SELECT jobs.id, jobs.failures, count(attempts.id) FROM jobs
        LEFT JOIN attempts ON attempts.job_id = jobs.id AND attempts.status IN ('FAILED', 'LOST', 'RETURNED')
        GROUP BY jobs.id, jobs.failures HAVING jobs.failures > count(attempts.id)""",
    "I3 attempt {0} is {1}, which contradicts its end time": """
        SELECT id, status FROM attempts WHERE (ended IS NULL) <> (status = 'RUNNING')""",
    "I3 attempt {0} is RUNNING, but is not the current attempt of a running job {1}": """
        SELECT attempts.id, jobs.id FROM attempts JOIN jobs ON attempts.job_id = jobs.id
        WHERE attempts.status = 'RUNNING'
        AND (jobs.status <> 'RUNNING' OR jobs.attempt <> attempts.number)""",
    "I3 job {0} is RUNNING, but its attempt {1} is {2}": """
        SELECT jobs.id, attempts.id, attempts.status FROM attempts JOIN jobs ON attempts.job_id = jobs.id
        WHERE jobs.status = 'RUNNING' AND jobs.attempt = attempts.number AND attempts.status <> 'RUNNING'""",
    "I3 job {0} is {1}, but moved to another status at last, as event {2} says": """
        SELECT jobs.id, jobs.status, events.id FROM jobs
        JOIN (SELECT subject_id, max(id) AS id FROM events WHERE kind = 'job' AND action = 'move'
              GROUP BY subject_id) AS moves ON moves.subject_id = jobs.id
        JOIN events ON events.id = moves.id
        WHERE CAST(events.data AS TEXT) NOT LIKE '%"status":"' || jobs.status || '"%'""",
    "I4 job {0} is RUNNING without a valid lease": """
        SELECT id FROM jobs WHERE status = 'RUNNING' AND (lease_until IS NULL OR lease_until < :late)""",
    "I4 job {0} is PENDING, but all its parents have ended": """
        SELECT jobs.id FROM jobs WHERE jobs.status = 'PENDING' AND NOT EXISTS (
            SELECT 1 FROM job_parents JOIN jobs AS before ON job_parents.parent_id = before.id
            WHERE job_parents.job_id = jobs.id AND before.status IN ('PENDING', 'QUEUED', 'RUNNING'))
        AND NOT EXISTS (
            SELECT 1 FROM job_dependencies JOIN jobs AS before ON job_dependencies.dependency_id = before.id
            WHERE job_dependencies.job_id = jobs.id AND before.status IN ('PENDING', 'QUEUED', 'RUNNING'))""",
    "I4 job {0} is {1}, but has a lease": """
        SELECT id, status FROM jobs WHERE status <> 'RUNNING' AND lease_until IS NOT NULL""",
    "I5 job {0} is {1}, but its parent {2} is {3}": """
        SELECT jobs.id, jobs.status, before.id, before.status FROM jobs
        JOIN job_parents ON job_parents.job_id = jobs.id
        JOIN jobs AS before ON job_parents.parent_id = before.id
        WHERE jobs.status NOT IN ('PENDING', 'CANCELLED') AND before.status <> 'FINISHED'""",
    "I5 job {0} is {1}, but job {2}, on which it depends, is {3}": """
        SELECT jobs.id, jobs.status, before.id, before.status FROM jobs
        JOIN job_dependencies ON job_dependencies.job_id = jobs.id
        JOIN jobs AS before ON job_dependencies.dependency_id = before.id
        WHERE jobs.status NOT IN ('PENDING', 'CANCELLED') AND before.status <> 'FINISHED'""",
    "I5 job {0} depends on job {1}, which is not of an older run": """
        SELECT jobs.id, before.id FROM jobs JOIN job_dependencies ON job_dependencies.job_id = jobs.id
        JOIN jobs AS before ON job_dependencies.dependency_id = before.id WHERE before.run_id >= jobs.run_id""",
    "I5 job {0} has input file {1}, which is not an output of its parents": """
        SELECT job_inputs.job_id, files.id FROM job_inputs JOIN files ON job_inputs.file_id = files.id
        WHERE EXISTS (SELECT 1 FROM job_parents WHERE job_parents.job_id = job_inputs.job_id)
        AND NOT EXISTS (SELECT 1 FROM job_parents
                        JOIN job_outputs ON job_outputs.job_id = job_parents.parent_id
                        WHERE job_parents.job_id = job_inputs.job_id AND job_outputs.file_id = files.id)""",
    "I11 job {0} is {1}, but its queue {2} is deleted": """
        SELECT jobs.id, jobs.status, queues.id FROM jobs JOIN queues ON jobs.queue_id = queues.id
        WHERE queues.name IS NULL AND jobs.status NOT IN ('FINISHED', 'FAILED', 'CANCELLED')""",
    "I8 module {0} has {1} versions, but version number {2}": """
        SELECT module_id, count(id), max(number) FROM module_versions GROUP BY module_id
        HAVING count(id) <> max(number)""",
    "I8 attempt {0} has log size {1}, but {2} bytes of log": """
        SELECT attempts.id, attempts.log_size, coalesce(sum(length(log_pieces.content)), 0) FROM attempts
        LEFT JOIN log_pieces ON log_pieces.attempt_id = attempts.id
        WHERE attempts.log_sha256 IS NULL GROUP BY attempts.id, attempts.log_size
        HAVING attempts.log_size <> coalesce(sum(length(log_pieces.content)), 0)""",
    "I8 attempt {0} has its log both in the database and as a blob": """
        SELECT DISTINCT attempts.id FROM attempts JOIN log_pieces ON log_pieces.attempt_id = attempts.id
        WHERE attempts.log_sha256 IS NOT NULL""",
    "I9 file {0} is an output of job {1}, which is {2}": """
        SELECT file_id, jobs.id, jobs.status FROM job_outputs JOIN jobs ON job_outputs.job_id = jobs.id
        WHERE jobs.status <> 'FINISHED'""",
    "I9 file {0} was created by job {1}, but is not among its outputs": """
        SELECT files.id, files.job_id FROM files WHERE files.job_id IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM job_outputs
                        WHERE job_outputs.job_id = files.job_id AND job_outputs.file_id = files.id)""",
    "I9 job {0} reuses job {1}, which has other outputs or did not finish": """
        SELECT jobs.id, original.id FROM jobs JOIN jobs AS original ON jobs.reused_from_id = original.id
        WHERE jobs.status <> 'FINISHED' OR original.status <> 'FINISHED' OR original.reused_from_id IS NOT NULL
        OR (SELECT count(*) FROM job_outputs WHERE job_id = jobs.id)
        <> (SELECT count(*) FROM job_outputs AS own JOIN job_outputs AS others
            ON own.number = others.number AND own.file_id = others.file_id
            WHERE own.job_id = jobs.id AND others.job_id = original.id)
        OR (SELECT count(*) FROM job_outputs WHERE job_id = jobs.id)
        <> (SELECT count(*) FROM job_outputs WHERE job_id = original.id)""",
    "I10 run {0} and its pipeline have different owners": """
        SELECT runs.id FROM runs JOIN pipelines ON runs.pipeline_id = pipelines.id
        WHERE runs.owner_id <> pipelines.owner_id""",
    "I10 run {0} and its grid {1} have different pipelines or owners": """
        SELECT runs.id, grids.id FROM runs JOIN grids ON runs.grid_id = grids.id
        WHERE runs.pipeline_id <> grids.pipeline_id OR runs.owner_id <> grids.owner_id""",
    "I10 job {0} and its run have different owners": """
        SELECT jobs.id FROM jobs JOIN runs ON jobs.run_id = runs.id WHERE jobs.owner_id <> runs.owner_id""",
    "I10 job {0} and its run have different pipelines": """
        SELECT jobs.id FROM jobs JOIN runs ON jobs.run_id = runs.id WHERE jobs.pipeline_id <> runs.pipeline_id""",
    "I10 file {0} and its job {1} have different owners": """
        SELECT files.id, jobs.id FROM files JOIN jobs ON files.job_id = jobs.id
        WHERE files.owner_id <> jobs.owner_id""",
    "I10 job {0} and the job {1} that it reuses or on which it depends have different owners": """
        SELECT jobs.id, others.id FROM jobs JOIN jobs AS others ON others.id = jobs.reused_from_id
        WHERE jobs.owner_id <> others.owner_id
        UNION ALL SELECT jobs.id, others.id FROM jobs JOIN job_dependencies ON job_dependencies.job_id = jobs.id
        JOIN jobs AS others ON job_dependencies.dependency_id = others.id WHERE jobs.owner_id <> others.owner_id""",
    "I10 job {0} and its output {1} have different owners": """
        SELECT jobs.id, files.id FROM job_outputs JOIN jobs ON job_outputs.job_id = jobs.id
        JOIN files ON job_outputs.file_id = files.id WHERE files.owner_id <> jobs.owner_id""",
    "I10 run {0} has input file {1} of another owner": """
        SELECT runs.id, files.id FROM run_files JOIN runs ON run_files.run_id = runs.id
        JOIN files ON run_files.file_id = files.id WHERE files.owner_id <> runs.owner_id""",
}
"""Violations of the invariants of the tables: the message, and the query for its parameters."""


def violations(settings: Settings) -> Iterator[str]:
    """The messages of all violations."""
    database, store = Database(settings.database_url), open_store(settings.media_dir)
    try:
        with database.reading() as db:
            yield from of_tables(db)
            yield from of_database(db)
            yield from of_rows_without_blobs(db, store)
        yield from of_blobs_without_rows(database, store, settings.sweep_grace)
    finally:
        database.engine.dispose()


def of_tables(db: sa.Connection) -> Iterator[str]:
    """Violations that the queries find."""
    bound = sa.bindparam("late", db.scalar(sa.select(clock(-LATE))), sa.DateTime())
    for message, query in QUERIES.items():
        statement = sa.text(query).bindparams(bound) if ":late" in query else sa.text(query)
        for row in db.execute(statement):
            yield message.format(*row)


def of_database(db: sa.Connection) -> Iterator[str]:
    """I11: violations that SQLite's own checks find; PostgreSQL always enforces foreign keys."""
    if db.dialect.name == "sqlite":
        for table, row, other, _ in db.execute(sa.text("PRAGMA foreign_key_check")):
            yield f"I11 row {row} of {table} refers to a row of {other} that does not exist"
        for (line,) in db.execute(sa.text("PRAGMA integrity_check")):
            if line != "ok":
                yield f"I11 {line}"


def of_rows_without_blobs(db: sa.Connection, store: BlobStore) -> Iterator[str]:
    """I7: referenced blobs that are missing or damaged."""
    logged = sa.select(Attempt.id, Attempt.log_sha256, Attempt.log_size)
    references: list[tuple[str, sa.Select[*tuple[Any, ...]]]] = [
        ("file", sa.select(File.id, File.sha256, File.size)),
        ("module version", sa.select(ModuleVersion.id, ModuleVersion.digest, ModuleVersion.size)),
        ("the log of attempt", logged.where(Attempt.log_sha256.is_not(None))),
    ]
    intact: set[tuple[str, int]] = set()
    for kind, query in references:
        for number, sha256, size in db.execute(query):
            if (sha256, size) in intact:
                continue
            if store.size(sha256) == size and store.verify(sha256):
                intact.add((sha256, size))
            else:
                yield f"I7 the content of {kind} {number} is missing or damaged"


def of_blobs_without_rows(database: Database, store: BlobStore, grace: float) -> Iterator[str]:
    """I6: unreferenced blobs of twice the age at which a sweep deletes them."""
    old = [blob.sha256 for blob in store.blobs() if blob.modified < time.time() - 2 * grace]
    for start in range(0, len(old), BATCH):
        batch = old[start : start + BATCH]
        for sha256 in sorted(set(batch) - referenced(database, batch)):
            yield f"I6 blob {sha256} is unreferenced"
