"""How soon a job runs, and how long one takes that does nothing, as a client sees it.

The client asks every few milliseconds. What the job itself says of its times is shown as well.
"""

import datetime
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median

from benchmarks.client import Connection, path_of
from benchmarks.service import FUNCTION, HOME, Service, temporary_folder
from benchmarks.table import Row, at_most, on_top, shown

STARTS, LIVES = 50, 25
WARM_UP = 3
"""Runs before the first that counts."""

LOOK = 0.005
"""Seconds between two looks at the job; what is seen is late by as much at most, and by one request."""

REST = 0.25
"""Seconds between two runs: each finds the service idle and the next runner ready, as on a quiet day."""


@dataclass(frozen=True)
class Life:
    """When a job ran and was over, as seen and by its own word, in seconds since the run was asked for."""

    seen_running: float
    seen_over: float
    started: float
    ended: float


def start(_seconds: float) -> list[Row]:
    """From the request for a run until its first job is seen to run."""
    lives = [life for life, _ in _measure(STARTS)]
    by_itself = shown(median(life.started for life in lives))
    return [
        at_most("POST a run, until a job is seen RUNNING", [life.seen_running for life in lives], 0.100),
        Row("  by the job's own `started`", by_itself),
    ]


def life(_seconds: float) -> list[Row]:
    """From the request for a run until its job is seen FINISHED, beside the bare start of its interpreter."""
    measured = _measure(LIVES)
    by_itself = shown(median(life.ended for life, _ in measured))
    rounds = [(life.seen_over, bare) for life, bare in measured]
    return [
        on_top("POST a run, until its job is seen FINISHED", rounds, 0.250),
        Row("  by the job's own `ended`", by_itself),
    ]


def _measure(times: int) -> list[tuple[Life, float]]:
    """Run a job that does nothing so often; returns, for each, its life and its interpreter's bare start."""
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
    """Start the interpreter that runs modules, for nothing; returns the seconds it took."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - begun


def _live(api: Connection, runs: str) -> Life:
    """Start a run and watch its only job until it is over."""
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
