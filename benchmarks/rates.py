"""Requests per second of one connection, in rounds that alternate with the yardstick, and of several at once."""

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from statistics import quantiles

from benchmarks.client import Connection, path_of
from benchmarks.service import FUNCTION, HOME, ROOT, Service, postgresql, service_and_yardstick, temporary_folder
from benchmarks.table import Row, at_least, at_most
from mlapi.models.pipelines import TASKS

ROUNDS = 5
CLIENTS = 4
POLLERS = 50
SETTLED = 1.0
"""Seconds until all clients that poll are connected."""

WARM_UP = 50
"""Number of requests before the first round, which fill caches."""

Burst = Callable[[float], float]
"""A function that makes requests for some seconds; returns the rate per second."""

TASK = {"function": FUNCTION, "arguments": {"effort": 3, "mood": "curious"}}


def get(seconds: float) -> list[Row]:
    """Measure GET of a job, five levels deep, with the token of a user, over both databases."""
    rows = []
    for kind, wanted, stretch in (("SQLite", 0.40, 0.50), ("PostgreSQL", 0.16, 0.20)):
        with service_and_yardstick(kind) as (api, bare):
            jobs = _hundred_jobs(api)
            job = path_of(api.call("GET", f"{jobs}?limit=100")["items"][50]["url"])
            rounds = _alternate(_repeat(api, job), bare, seconds)
        rows.append(at_least(f"GET a job, five levels deep, {kind}", rounds, wanted, stretch))
    return rows


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


def concurrent(seconds: float) -> list[Row]:
    """Measure POST of tasks over four connections at once: the 99th percentile of the times of all."""
    with service_and_yardstick() as (api, _), ThreadPoolExecutor(CLIENTS) as pool:
        clients = pool.map(lambda _: _creations(api, seconds * ROUNDS), range(CLIENTS))
        times = list(chain.from_iterable(clients))
    return [at_most(f"POST a task, {CLIENTS} connections: p99", [quantiles(times, n=100)[-1]], 0.040)]


def processes(seconds: float) -> list[Row]:
    """Measure GET of a job by eight clients in processes of their own, with two server processes and with one."""
    rows = []
    with temporary_folder() as folder:
        rows.append(_two_against_one(folder / "sqlite", "", seconds))
        with postgresql(folder) as url:
            rows.append(_two_against_one(folder / "postgresql", url, seconds))
    return rows


def polling(seconds: float) -> list[Row]:
    """Measure GET of a job while clients follow the events and the log of its run, against the same without them."""
    with service_and_yardstick() as (api, _):
        job = api.call("GET", path_of(_one_job(api)))
        api.call("POST", f"{path_of(job['url'])}/cancel")
        events = path_of(api.call("GET", path_of(job["run"]))["events"])
        last = api.call("GET", events)["items"][-1]["number"]
        burst = _repeat(api, path_of(job["url"]))
        command = [sys.executable, "-m", "benchmarks.poll", str(api.port), str(POLLERS), api.token]
        rounds = []
        for _ in range(ROUNDS):
            alone = burst(seconds)
            with subprocess.Popen([*command, f"{events}?after={last}", path_of(job["log"])], cwd=ROOT) as clients:
                try:
                    time.sleep(SETTLED)
                    rounds.append((burst(seconds), alone))
                finally:
                    clients.terminate()
    return [at_least(f"GET a job while {POLLERS} clients poll events and log at 1/s", rounds, 0.80, 0.90)]


def _two_against_one(folder: Path, url: str, seconds: float) -> Row:
    """Two services of one database, or of a file each for SQLite, in alternate rounds."""
    folder.mkdir()
    rates: dict[int, list[float]] = {1: [], 2: []}
    service = Service(folder, database_url=url)
    with service.serve(), service.log_in() as api:
        path, token = path_of(_one_job(api)), api.token
    for _ in range(ROUNDS):
        for count, found in rates.items():
            service.processes(count)
            with service.serve():
                found.append(_load(service.port, path, token, seconds))
    rounds = list(zip(rates[2], rates[1], strict=True))
    return at_least(f"GET a job, 2 processes against 1, {folder.name}", rounds, 1.8, 1.9)


def _load(port: int, path: str, token: str, seconds: float) -> float:
    """The rate of GETs by several clients, each in a process of its own."""
    arguments = [str(port), path, str(seconds), token]
    clients = [
        subprocess.Popen([sys.executable, "-m", "benchmarks.load", *arguments], cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(2 * CLIENTS)
    ]
    return sum(float(client.communicate()[0]) for client in clients)


def _one_job(api: Connection) -> str:
    """Start a run of a task, which is not executed; returns the URL of its job."""
    pipeline = api.call("POST", f"{HOME}/pipelines", {"name": "one", "enabled": True})
    api.call("POST", path_of(pipeline["tasks"]), TASK)
    jobs = path_of(api.call("POST", path_of(pipeline["runs"]), {"files": []})["jobs"])
    return str(api.call("GET", jobs)["items"][0]["url"])


def _creations(api: Connection, seconds: float) -> list[float]:
    """Create tasks over a connection of its own for some seconds; returns the times."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    with Connection(api.port, api.token) as own:
        while time.perf_counter() < end:
            pipeline = own.call("POST", f"{HOME}/pipelines", {"name": "filled"})
            request = own.request("POST", path_of(pipeline["tasks"]), TASK)
            for _ in range(TASKS):
                begun = time.perf_counter()
                own.send(request)
                times.append(time.perf_counter() - begun)
    return times


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
