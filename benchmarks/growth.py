"""Lists of a thousand and of a million jobs and files: every filter alone, and the pairs that are common."""

import contextlib
import time
from collections.abc import Callable, Iterator
from statistics import median

import sqlalchemy as sa

from benchmarks.client import Connection
from benchmarks.service import Service, postgresql, temporary_folder
from benchmarks.table import Row
from mlapi.database import analyze, make_engine

SIZES = (1_000, 1_000_000)
"""Numbers of jobs and of files."""

REPEATS = 30
"""Number of requests for each list and size; the median counts, without the first five, which fill caches."""

GOAL = 1.5
"""Maximum of the ratio of the medians."""

SHA256 = "f" * 64
"""The digest of 30 files, as many as there are outputs of job 1 and running jobs, whatever the size."""

QUERIES = {
    "ada": [
        *("jobs", "jobs?status=FAILED", "jobs?status=RUNNING", "jobs?module=m1", "jobs?function=f1"),
        *("jobs?pipeline=1", "jobs?owner=ada", "jobs?owner=bob", "jobs?status=FAILED&owner=ada"),
        *("jobs?status=FAILED&module=m1", "jobs?status=FAILED&function=f1", "jobs?status=FAILED&pipeline=1"),
        *("files", "files?name=n1", "files?kind=OUTPUT", f"files?sha256={SHA256}", "files?job=1"),
        *("files?kind=OUTPUT&owner=ada", "files?name=n1&owner=ada", "files?kind=OUTPUT&name=n1"),
        *("users/ada/files?name=n1", "users/ada/files?kind=OUTPUT", "runs", "runs?pipeline=1"),
    ],
    "root": [
        *("jobs", "jobs?status=FAILED", "jobs?status=RUNNING", "jobs?module=m1", "jobs?function=f1"),
        *("jobs?pipeline=1", "jobs?owner=ada", "jobs?owner=bob", "jobs?status=FAILED&owner=bob"),
        *("jobs?status=FAILED&module=m1", "jobs?status=FAILED&function=f1", "jobs?status=FAILED&pipeline=1"),
        *("files", "files?name=n1", "files?kind=OUTPUT", f"files?sha256={SHA256}", "files?job=1", "files?owner=bob"),
        *("files?kind=OUTPUT&owner=bob", "files?name=n1&owner=bob", "files?kind=OUTPUT&name=n1"),
        *("runs", "runs?owner=bob", "runs?pipeline=1"),
    ],
}
"""The measured lists by caller: an owner of most rows, and an administrator."""

ROWS = """
INSERT INTO users (id, name, password_hash, role, created)
SELECT 10 + i, CASE i WHEN 1 THEN 'root' WHEN 2 THEN 'bob' ELSE 'user' || i END, '',
    CASE i WHEN 1 THEN 'admin' ELSE 'user' END, '2026-01-01 00:00:00.000000' FROM n WHERE i <= 10;

INSERT INTO modules (id, name, created) SELECT 10 + i, 'm' || i, '2026-01-01 00:00:00.000000' FROM n WHERE i <= 4;

INSERT INTO module_versions (id, module_id, number, digest, size, display_name, tagline, doctxt, command, created)
SELECT 10 + i, 10 + (i + 1) / 2, 1 + i % 2, 'd' || i, 1, '', '', '', '[]', '2026-01-01 00:00:00.000000'
FROM n WHERE i <= 8;

INSERT INTO functions (id, version_id, name, doctxt, options, creates_new_files, modifies_input_files,
    expected_filetype, optional_filetypes, output_tags, min_files, output_files, created)
SELECT 10 + i, 10 + (i + 1) / 2, 'f' || (i % 4), '', '[]', true, false, '', '[]', '[]', 0, '[]',
    '2026-01-01 00:00:00.000000' FROM n WHERE i <= 16;

INSERT INTO pipelines (id, owner_id, name, enabled, created)
SELECT i, CASE WHEN i <> 5 THEN (SELECT id FROM users WHERE name = 'ada') ELSE 12 END, 'n' || (i % 10), true,
    '2026-01-01 00:00:00.000000' FROM n WHERE i <= :size / 5;

INSERT INTO grids (id, pipeline_id, owner_id, axes, run_count, created)
SELECT i, 1 + i % 5, (SELECT owner_id FROM pipelines WHERE pipelines.id = 1 + i % 5), '[]', 5,
    '2026-01-01 00:00:00.000000' FROM n WHERE i <= 200;

INSERT INTO runs (id, pipeline_id, owner_id, task_count, grid_id, created)
SELECT i, 1 + i % 5, (SELECT owner_id FROM pipelines WHERE pipelines.id = 1 + i % 5), 5,
    CASE WHEN i % 5 = 0 THEN 5 * (1 + i / 5 % 40) END, '2026-01-01 00:00:00.000000' FROM n WHERE i <= :size / 5;

INSERT INTO jobs (id, run_id, pipeline_id, owner_id, function_id, position, arguments, status, attempt, failures,
    cancel_requested, metrics, created)
SELECT i, 1 + (i - 1) / 5, 1 + (1 + (i - 1) / 5) % 5, CASE WHEN (1 + (i - 1) / 5) % 5 < 4
    THEN (SELECT id FROM users WHERE name = 'ada') ELSE 12 END, 11 + i % 16, 1 + (i - 1) % 5, '{}',
    CASE WHEN i > 100 AND i <= 130 THEN 'RUNNING' WHEN i % 3 = 0 THEN 'FAILED' ELSE 'FINISHED' END, 1, 0, false, '{}',
    '2026-01-01 00:00:00.000000' FROM n;

INSERT INTO files (id, owner_id, name, sha256, size, kind, tags, job_id, created)
SELECT i, CASE WHEN i % 5 < 4 THEN (SELECT id FROM users WHERE name = 'ada') ELSE 12 END, 'n' || ((i / 2) % 10),
    CASE WHEN i > 200 AND i <= 230 THEN 'SHA256' ELSE 'd' || i END, 1, CASE i % 2 WHEN 0 THEN 'OUTPUT' ELSE 'INPUT' END,
    '{}', CASE WHEN i > 300 AND i <= 330 THEN 1 WHEN i % 2 = 0 THEN i END, '2026-01-01 00:00:00.000000' FROM n;

INSERT INTO events (id, actor, action, kind, subject_id, run_id, data, transaction_id, created)
SELECT i, 'service', 'moved', 'job', 20 + i % 5, 1 + i % 5, '{}', 0, '2026-01-01 00:00:00.000000' FROM n
""".replace("SHA256", SHA256)
"""The statements that fill a database; `n` is the table of the numbers up to the size."""


def growth(_seconds: float) -> list[Row]:
    """Measure lists on both databases."""
    rows = []
    for kind in ("SQLite", "PostgreSQL"):
        with contextlib.ExitStack() as running:
            folder = running.enter_context(temporary_folder())
            server = running.enter_context(postgresql(folder)) if kind == "PostgreSQL" else ""
            small, large = (running.enter_context(service_of(server, size)) for size in SIZES)
            rows += [
                compare(f"{kind}, {caller}: {query}", small(caller), large(caller), query)
                for caller, queries in QUERIES.items()
                for query in queries
            ]
    return rows


@contextlib.contextmanager
def service_of(server: str, size: int) -> Iterator[Callable[[str], Connection]]:
    """Run a service with as many jobs and files as `size` during the block; yields a function that connects a user."""
    with temporary_folder() as folder:
        url = f"sqlite:///{folder}/growth.db"
        if server:
            url = sa.make_url(server).set(database=f"growth{size}").render_as_string(hide_password=False)
            with sa.create_engine(server, isolation_level="AUTOCOMMIT").connect() as db:
                db.exec_driver_sql(f"CREATE DATABASE growth{size}")
        service = Service(folder, database_url=url)
        fill(url, size)
        tokens = {name: service.token(name) for name in QUERIES}
        with service.serve():
            yield lambda name: Connection(service.port, tokens[name])


def fill(url: str, size: int, rows: str = ROWS) -> None:
    """Fill a migrated database, and collect the statistics that its planner uses."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {size}) SELECT"
    engine = make_engine(url, timeout=3600)
    with engine.connect().execution_options(no_parameters=True) as db:
        for statement in rows.replace(":size", str(size)).split(";"):
            insert, _, select = statement.partition("SELECT")
            db.exec_driver_sql(f"{insert}{numbers}{select}")
        db.commit()
    if engine.dialect.name == "postgresql":  # As autovacuum does.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
            db.exec_driver_sql("VACUUM")
    analyze(engine)
    engine.dispose()


def compare(what: str, small: Connection, large: Connection, query: str) -> Row:
    """The row of a list: the median times with many rows and with few, measured alternately, and their ratio."""
    times = []
    with small, large:
        for connection in REPEATS * (large, small):
            begun = time.perf_counter()
            connection.send(connection.request("GET", f"/api/v1/{query}"))
            times.append(time.perf_counter() - begun)
    many, few = median(times[10::2]), median(times[11::2])
    met = "yes" if many <= GOAL * few else "no"
    return Row(what.replace(SHA256, "…"), _shown(many), _shown(few), f"{many / few:.2f}", f"<= {GOAL}", "", met)


def _shown(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
