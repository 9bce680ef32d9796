"""Requests per second of one connection, in rounds that alternate with the yardstick."""

import time
from collections.abc import Callable

from benchmarks.client import Connection, path_of
from benchmarks.service import FUNCTION, HOME, service_and_yardstick
from benchmarks.table import Row, at_least
from mlapi.models.pipelines import TASKS

ROUNDS = 5
WARM_UP = 50
"""Number of requests before the first round, which fill caches."""

Burst = Callable[[float], float]
"""A function that makes requests for some seconds; returns the rate per second."""

TASK = {"function": FUNCTION, "arguments": {"effort": 3, "mood": "curious"}}


def get(seconds: float) -> list[Row]:
    """Measure GET of a job, five levels deep, with the token of a user."""
    with service_and_yardstick() as (api, bare):
        jobs = _hundred_jobs(api)
        job = path_of(api.call("GET", f"{jobs}?limit=100")["items"][50]["url"])
        rounds = _alternate(_repeat(api, job), bare, seconds)
    return [at_least("GET a job, five levels deep", rounds, 0.20, 0.30)]


def listing(seconds: float) -> list[Row]:
    """Measure GET of a list of a hundred jobs, with the token of a user."""
    with service_and_yardstick() as (api, bare):
        jobs = _hundred_jobs(api)
        found = len(api.call("GET", f"{jobs}?limit=100")["items"])
        if found != 100:
            raise RuntimeError(f"The list has {found} jobs.")
        rounds = _alternate(_repeat(api, f"{jobs}?limit=100"), bare, seconds)
    return [at_least("GET a list of 100 jobs", rounds, 0.10, 0.15)]


def create(seconds: float) -> list[Row]:
    """Measure POST of a task; full pipelines are replaced outside the measured time."""
    with service_and_yardstick() as (api, bare):
        rounds = _alternate(_fill_pipelines(api), bare, seconds)
    return [at_least("POST a task", rounds, 0.10, 0.15)]


def _hundred_jobs(api: Connection) -> str:
    """Create a pipeline of a hundred tasks and start a run; returns the path of its jobs, which are not executed."""
    pipeline = api.call("POST", f"{HOME}/pipelines", {"name": "hundred", "enabled": True})
    for _ in range(100):
        api.call("POST", path_of(pipeline["tasks"]), TASK)
    return path_of(api.call("POST", path_of(pipeline["runs"]), {"files": []})["jobs"])


def _alternate(ours: Burst, bare: Connection, seconds: float) -> list[tuple[float, float]]:
    """Measure yardstick and service alternately; returns the pairs of rates, that of the service first."""
    theirs = _repeat(bare, "/bare")
    rounds = []
    for _ in range(ROUNDS):
        rate = theirs(seconds)
        rounds.append((ours(seconds), rate))
    return rounds


def _repeat(connection: Connection, path: str) -> Burst:
    """A burst that repeats a GET."""
    request = connection.request("GET", path)
    for _ in range(WARM_UP):
        connection.send(request)

    def burst(seconds: float) -> float:
        count, begun = 0, time.perf_counter()
        while (spent := time.perf_counter() - begun) < seconds:
            connection.send(request)
            count += 1
        return count / spent

    return burst


def _fill_pipelines(api: Connection) -> Burst:
    """A burst that creates tasks; the creation of pipelines is not measured."""

    def fill() -> float:
        pipeline = api.call("POST", f"{HOME}/pipelines", {"name": "filled"})
        request = api.request("POST", path_of(pipeline["tasks"]), TASK)
        begun = time.perf_counter()
        for _ in range(TASKS):
            api.send(request)
        return time.perf_counter() - begun

    def burst(seconds: float) -> float:
        count, spent = 0, 0.0
        while spent < seconds:
            spent += fill()
            count += TASKS
        return count / spent

    fill()
    return burst
