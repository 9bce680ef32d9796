"""Random kills of servers, schedulers and runners, and random changes: every job of every run finishes nevertheless."""

import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Http, Process, Service, process, wait_for
from tests.support import API, PASSWORD

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
KILLS_OF_A_JOB = 2
"""Runners of one job that are killed at most: `job_attempts` has its default, 3."""


DIAMONDS = "CAST(arguments AS TEXT) LIKE '%diamond%'"
"""The condition for jobs of these tests."""

QUEUE = "narrow"
"""A queue with a limit of one running job."""


def start_diamonds(service: Service, note: Path, count: int) -> None:
    """Start runs of four jobs: one in a queue with a limit, two after it, and one after both.

    Half of the runs are a grid; each of the others depends on the one before.
    """
    pipeline = service.api("POST", "users/ada/pipelines", {"name": "diamond", "enabled": True}, status=201).json
    function = {
        "function": f"{API}/modules/trouble/functions/nap",
        "arguments": {"note": str(note), "seconds": 0.1},
    }

    def task(after: list[Any], **others: object) -> str:
        body = {**function, "after": after, **others}
        return str(service.api("POST", pipeline["tasks"], body, status=201).json["url"])

    first = task([], queue=f"{API}/queues/{QUEUE}")
    task([task([first]), task([first])])
    values = [0.1 + number / 1000 for number in range(count // 2)]
    grid = [{"tasks": [first], "option": "seconds", "values": values}]
    if values:
        service.api("POST", pipeline["runs"], {"files": [], "grid": grid}, status=201)
    before: list[str] = []
    for _ in range(count - len(values)):
        run = service.api("POST", pipeline["runs"], {"files": [], "depends_on": before}, status=201).json
        before = [run["url"]]


def statuses(service: Service) -> dict[str, int]:
    """The number of jobs in each status."""
    return dict(map(tuple, service.rows(f"SELECT status, count(*) FROM jobs WHERE {DIAMONDS} GROUP BY status")))


def steer_something(service: Service, chance: random.Random, *, cancels: bool) -> None:
    """Lock or unlock the queue, cancel a job or a run, or retry what was cancelled."""
    action = chance.choice(["lock", "unlock", "retry", *(["cancel"] if cancels else ["unlock", "retry"])])
    if action in ("lock", "unlock"):
        service.admin(f"{action}queue", QUEUE)
        return
    wanted = "= 'CANCELLED'" if action == "retry" else "NOT IN ('FINISHED', 'FAILED', 'CANCELLED')"
    rows = service.rows(f"SELECT id, run_id, pipeline_id FROM jobs WHERE {DIAMONDS} AND status {wanted} ORDER BY id")
    if rows:
        job, run, pipeline = chance.choice(rows) if cancels else rows[0]
        resource = f"users/ada/pipelines/{pipeline}/runs/{run}{chance.choice(['', f'/jobs/{job}'])}"
        service.api("POST", f"{resource}/{action}", status=(200, 409))  # It can have ended, or be retried, since.


def runners(service: Service) -> list[Process]:
    """The runners of the schedulers, the idle ones included."""
    found = [process for scheduler in service.schedulers for process in service.family(scheduler)]
    return [process for process in found if "mlapi.execution.runner" in process.command]


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
    """Run diamonds under random kills and changes; everything finishes, and nothing is left."""
    chance = random.Random(seed)
    password = service.folder / "password"
    service.admin("createuser", "root", "--role", "admin", "--password-file", str(password), check=False)
    token = service.api("POST", "auth/token", {"name": "root", "password": PASSWORD}).json["access_token"]
    Http(service.port, token)("POST", "queues", {"name": QUEUE, "limit": 1}, status=(201, 409))
    start_diamonds(service, note, runs)
    begin = time.monotonic()
    while (found := statuses(service)) != {"FINISHED": 4 * runs}:
        passed = time.monotonic() - begin
        assert passed < seconds, f"{found}, seed {seed}"
        time.sleep(chance.uniform(0.2, 1.2))
        kill_something(service, chance)
        steer_something(service, chance, cancels=passed < seconds / 8)
    wait_for(lambda: no_folder_left(service), "the folders of attempts to be removed", 60)
    functions = {process(int(line)) for line in note.read_text().split()}
    wait_for(lambda: not any(function.lives for function in functions), "the functions to end", 20)
    assert service.violations() == []


def test_every_job_finishes_under_random_kills(service: Service, tmp_path: Path) -> None:
    survive(service, tmp_path / "diamond", runs=2, seed=1, seconds=120)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_every_job_of_many_runs_finishes_under_random_kills(service: Service, tmp_path: Path) -> None:
    survive(service, tmp_path / "diamond", runs=100, seed=random.randrange(10**6), seconds=1500)
