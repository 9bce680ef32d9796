"""Latency of jobs for a client: from the start of a run to RUNNING, and to FINISHED for a module that does nothing.

The client polls every few milliseconds. The times in the job itself are reported too.
"""

import datetime
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

import sqlalchemy as sa

from benchmarks.client import Connection, path_of
from benchmarks.service import FUNCTION, HOME, WAITING, Service, temporary_folder
from benchmarks.table import Row, at_least, at_least_per_second, at_most, on_top, shown
from mlapi.database import Database
from mlapi.models import attempts, workers

STARTS, LIVES, CANCELS = 50, 25, 20
BATCH, BATCHES = 100, 10
"""Number of jobs of a run whose rate is measured, and number of such runs."""

SLOTS = 2
"""Number of jobs at once, as in development.ini."""

BARE = 40
"""Number of starts of an interpreter after each of these runs."""

WARM_UP = 3
"""Number of runs before the first measurement."""

LOOK = 0.005
"""Interval in seconds between two polls of the job."""

REST = 0.25
"""Seconds between two runs, so that the service is idle and the next runner is started."""


@dataclass(frozen=True)
class Life:
    """The times of a job in seconds since the request: as the client sees them, and as the job records them."""

    seen_running: float
    seen_over: float
    started: float
    ended: float


def start(_seconds: float) -> list[Row]:
    """Measure the time from the request until the client sees the first job RUNNING."""
    lives = [life for life, _ in _measure(STARTS)]
    by_itself = shown(median(life.started for life in lives))
    return [
        at_most("POST a run, until a job is seen RUNNING", [life.seen_running for life in lives], 0.100),
        Row("  by the job's own `started`", by_itself),
    ]


def life(_seconds: float) -> list[Row]:
    """Measure the time from the request until its job is seen FINISHED, against the start of its interpreter."""
    measured = _measure(LIVES)
    by_itself = shown(median(life.ended for life, _ in measured))
    rounds = [(life.seen_over, bare) for life, bare in measured]
    return [
        on_top("POST a run, until its job is seen FINISHED", rounds, 0.250),
        Row("  by the job's own `ended`", by_itself),
    ]


def rate(_seconds: float) -> list[Row]:
    """Measure the rate of 1,000 jobs that do nothing, against starts of their interpreter and against bare claims."""
    with temporary_folder() as folder:
        service = Service(folder, scheduler=True)
        with service.serve(), service.log_in() as api:
            runs = _many(api)
            _batch(api, runs)
            measured = [(_batch(api, runs), _bare_rate(), _capacity()) for _ in range(BATCHES)]
        claimed = _claimed(service)
    return [
        at_least_per_second(
            f"Jobs that do nothing, {SLOTS} slots", [(jobs, starts) for jobs, starts, _ in measured], 20.0
        ),
        at_least("  against min(slots, cores) / start", [(jobs, most) for jobs, _, most in measured], 0.4),
        Row("  claimed once per attempt", f"{claimed} jobs"),
        Row("  claims alone", f"{_claim_rate():.0f}/s"),
    ]


def cancel(_seconds: float) -> list[Row]:
    """Measure the time from the cancellation of a running job until it is seen CANCELLED."""
    with temporary_folder() as folder:
        service = Service(folder, scheduler=True)
        with service.serve(), service.log_in() as api:
            pipeline = api.call("POST", f"{HOME}/pipelines", {"name": "waiting", "enabled": True})
            api.call("POST", path_of(pipeline["tasks"]), {"function": WAITING})
            times = [_cancelled(api, path_of(pipeline["runs"])) for _ in range(CANCELS)]
    return [at_most("POST the cancellation of a running job, until it is CANCELLED", times, 2.0)]


def _many(api: Connection) -> str:
    """Create a pipeline of tasks that do nothing at the same time; returns the path of its runs."""
    pipeline = api.call("POST", f"{HOME}/pipelines", {"name": "batch", "enabled": True})
    for _ in range(BATCH):
        api.call("POST", path_of(pipeline["tasks"]), {"function": FUNCTION, "after": []})
    return path_of(pipeline["runs"])


def _claimed(service: Service) -> int:
    """The number of jobs, each of whose attempts was claimed once; raises `RuntimeError` if one was not."""
    database = Database(service.database_url)
    moves = "SELECT subject_id, data FROM events WHERE kind = 'job' AND action = 'move'"
    with database.reading() as db:
        data = [(job, json.loads(move)) for job, move in db.execute(sa.text(moves))]
        made = db.execute(sa.text("SELECT job_id, number FROM attempts ORDER BY job_id, number")).all()
        unfinished = db.scalar(sa.text("SELECT count(*) FROM jobs WHERE status <> 'FINISHED'"))
    database.engine.dispose()
    claims = sorted((job, move["attempt"]) for job, move in data if move["status"] == "RUNNING")
    if unfinished or claims != [tuple(row) for row in made]:
        raise RuntimeError(f"{len(claims)} claims of {len(made)} attempts; {unfinished} jobs are not FINISHED.")
    return len({job for job, _ in claims})


def _claim_rate() -> float:
    """Claim as many jobs as one scheduler claims at once, again and again, without running them; returns jobs/s."""
    with temporary_folder() as folder:
        service = Service(folder)
        with service.serve(), service.log_in() as api:
            runs = _many(api)
            for _ in range(BATCHES):
                api.call("POST", runs, {"files": []})
        database = Database(service.database_url)
        with database.writing.begin() as db:
            workers.beat(db, "bench", "here", "1", workers.Offer(["*"], SLOTS, SLOTS, 2**33, 0))
        begun, count = time.perf_counter(), 0
        while True:
            with database.writing.begin() as db:
                claims = attempts.claim(db, "bench", SLOTS, 60)
            if not claims:
                break
            count += len(claims)
        seconds = time.perf_counter() - begun
        database.engine.dispose()
    if count != BATCH * BATCHES:
        raise RuntimeError(f"{count} jobs were claimed.")
    return count / seconds


def _cancelled(api: Connection, runs: str) -> float:
    """Cancel a job that runs; returns the seconds until it is seen CANCELLED."""
    run = api.call("POST", runs, {"files": []})
    look = api.request("GET", f"{path_of(run['jobs'])}?limit=1")
    while (job := json.loads(api.send(look))["items"][0])["status"] != "RUNNING":
        time.sleep(LOOK)
    time.sleep(REST)  # Until the function runs as well.
    begun = time.perf_counter()
    api.call("POST", f"{path_of(job['url'])}/cancel")
    while (job := json.loads(api.send(look))["items"][0])["status"] == "RUNNING":
        time.sleep(LOOK)
    if job["status"] != "CANCELLED":
        raise RuntimeError(f"The job is {job['status']}: {job['reason']}")
    return time.perf_counter() - begun


def reuse(_seconds: float) -> list[Row]:
    """Measure the start of a run of three jobs that are answered by those of an earlier run."""
    with temporary_folder() as folder:
        service = Service(folder, scheduler=True)
        with service.serve(), service.log_in() as api:
            pipeline = api.call("POST", f"{HOME}/pipelines", {"name": "again", "enabled": True})
            for _ in range(3):
                api.call("POST", path_of(pipeline["tasks"]), {"function": FUNCTION, "reuse": True})
            runs = path_of(pipeline["runs"])
            look = api.request("GET", path_of(api.call("POST", runs, {"files": []})["url"]))
            while json.loads(api.send(look))["status"] != "FINISHED":
                time.sleep(LOOK)
            times = [_answered(api, runs) for _ in range(WARM_UP + STARTS)]
    return [at_most("POST a run of three jobs, until it is FINISHED by reuse", times[WARM_UP:], 0.100)]


def _answered(api: Connection, runs: str) -> float:
    """Start a run that is answered by an earlier one; returns the time in seconds."""
    begun = time.perf_counter()
    run = api.call("POST", runs, {"files": []})
    seconds = time.perf_counter() - begun
    if run["status"] != "FINISHED":
        raise RuntimeError(f"The run is {run['status']}.")
    return seconds


def _batch(api: Connection, runs: str) -> float:
    """Start a run and wait for its end; returns the jobs per second."""
    begun = time.perf_counter()
    run = api.call("POST", runs, {"files": []})
    look = api.request("GET", path_of(run["url"]))
    while json.loads(api.send(look))["progress"]["over"] < BATCH:
        time.sleep(REST / 5)
    return BATCH / (time.perf_counter() - begun)


def _bare_rate() -> float:
    """Start interpreters, as many at a time as there are slots; returns the starts per second."""
    with ThreadPoolExecutor(SLOTS) as pool:
        begun = time.perf_counter()
        list(pool.map(lambda _: _bare_start(), range(BARE)))
        return BARE / (time.perf_counter() - begun)


def _capacity() -> float:
    """The jobs per second if each took as long as the start of an interpreter alone, on every slot with a core."""
    return min(SLOTS, os.cpu_count() or 1) / median(_bare_start() for _ in range(BARE // 4))


def _measure(times: int) -> list[tuple[Life, float]]:
    """Run a job that does nothing `times` times; returns its times and the time of starting its interpreter."""
    with temporary_folder() as folder:
        service = Service(folder, scheduler=True)
        with service.serve(), service.log_in() as api:
            pipeline = api.call("POST", f"{HOME}/pipelines", {"name": "nothing", "enabled": True})
            api.call("POST", path_of(pipeline["tasks"]), {"function": FUNCTION})
            measured = []
            for _ in range(WARM_UP + times):
                time.sleep(REST)
                bare = _bare_start()
                measured.append((_live(api, path_of(pipeline["runs"])), bare))
    return measured[WARM_UP:]


def _bare_start() -> float:
    """Start the interpreter of modules; returns the time in seconds."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - begun


def _live(api: Connection, runs: str) -> Life:
    """Start a run and poll its only job until it has ended."""
    wall, begun = time.time(), time.perf_counter()
    run = api.call("POST", runs, {"files": []})
    look = api.request("GET", f"{path_of(run['jobs'])}?limit=1")
    running = None
    while True:
        job = json.loads(api.send(look))["items"][0]
        seen = time.perf_counter() - begun
        if running is None and job["started"]:
            running = seen
        if job["ended"]:
            break
        time.sleep(LOOK)
    if job["status"] != "FINISHED" or running is None:
        raise RuntimeError(f"The job is {job['status']}: {job['reason']}")
    return Life(running, seen, _clock(job["started"]) - wall, _clock(job["ended"]) - wall)


def _clock(stamp: str) -> float:
    """A time of the service, in seconds since 1970."""
    return datetime.datetime.fromisoformat(stamp).timestamp()
