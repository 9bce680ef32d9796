"""A seeded random killer of servers, schedulers and runners: every job of every run finishes nevertheless."""

import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Process, Service, process, wait_for
from tests.support import API

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
KILLS_OF_A_JOB = 2
"""Runners of one job that are killed at most: `job_attempts` has its default, 3."""


def start_diamonds(service: Service, note: Path, count: int) -> None:
    """Start runs of four jobs: one, two after it, and one after both."""
    pipeline = service.api("POST", "users/ada/pipelines", {"name": "diamond", "enabled": True}, status=201).json
    function = {
        "function": f"{API}/modules/trouble/functions/nap",
        "arguments": {"note": str(note), "seconds": 0.1},
    }

    def task(after: list[Any]) -> str:
        body = {**function, "after": after}
        return str(service.api("POST", pipeline["tasks"], body, status=201).json["url"])

    first = task([])
    task([task([first]), task([first])])
    for _ in range(count):
        service.api("POST", pipeline["runs"], {"files": []}, status=201)


def unfinished(service: Service) -> int:
    """The number of jobs that have not ended."""
    query = "SELECT count(*) FROM jobs WHERE status NOT IN ('FINISHED', 'FAILED', 'CANCELLED')"
    return int(service.rows(query)[0][0])


def runners(service: Service) -> list[Process]:
    """The runners of the schedulers, the idle ones included."""
    found = [each for scheduler in service.schedulers for each in service.family(scheduler)]
    return [each for each in found if "mlapi.execution.runner" in each.command]


def kill_something(service: Service, chance: random.Random) -> None:
    """Kill the server, the scheduler or a runner; the first two are started again."""
    victim = chance.choices(["runner", "scheduler", "server"], [6, 2, 1])[0]
    if victim == "server" and service.server is not None:
        service.end(service.server)
        time.sleep(chance.uniform(0, 1))
        service.serve()
    elif victim == "scheduler":
        service.end_schedulers()
        time.sleep(chance.uniform(0, 1))
        service.schedule()
    else:
        worst = service.rows("SELECT coalesce(max(failures), 0) FROM jobs WHERE status = 'RUNNING'")[0][0]
        candidates = runners(service)
        if worst < KILLS_OF_A_JOB and candidates:
            chance.choice(candidates).send(signal.SIGKILL)


def no_folder_left(service: Service) -> bool:
    """Whether no folder of an attempt is left."""
    return not list((service.folder / "data" / "scratch").glob("attempt-*"))


def survive(service: Service, note: Path, runs: int, seed: int, seconds: float) -> None:
    """Run diamonds under random kills; everything finishes, and nothing is left."""
    chance = random.Random(seed)
    start_diamonds(service, note, runs)
    end = time.monotonic() + seconds
    while left := unfinished(service):
        assert time.monotonic() < end, f"{left} jobs have not ended, seed {seed}"
        time.sleep(chance.uniform(0.2, 1.2))
        kill_something(service, chance)
    counts = service.rows(
        "SELECT status, count(*) FROM jobs WHERE CAST(arguments AS TEXT) LIKE '%diamond%' GROUP BY status"
    )
    assert dict(map(tuple, counts)) == {"FINISHED": 4 * runs}, f"seed {seed}"
    wait_for(lambda: no_folder_left(service), "the folders of attempts to be removed", 60)
    functions = {process(int(line)) for line in note.read_text().split()}
    wait_for(lambda: not any(each.lives for each in functions), "the functions to end", 20)
    assert service.violations() == []


def test_every_job_finishes_under_random_kills(service: Service, tmp_path: Path) -> None:
    survive(service, tmp_path / "diamond", runs=3, seed=1, seconds=120)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_every_job_of_many_runs_finishes_under_random_kills(service: Service, tmp_path: Path) -> None:
    survive(service, tmp_path / "diamond", runs=100, seed=random.randrange(10**6), seconds=1500)
