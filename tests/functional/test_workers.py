"""Machines that fail, and schedulers that are killed: no job fails by it, and none runs twice at a time."""

import errno
import os
import resource
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.functional.test_processes import noted, task
from tests.processes import HASTY, Process, Service, family, wait_for
from tests.support import little_room

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
PATIENT = 90.0
"""Seconds to wait for what needs several attempts, also on a slow machine."""


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """The file in which functions write the ids of their processes."""
    return tmp_path / "note"


@pytest.fixture
def service(service: Service) -> Iterator[Service]:
    """A service whose server and schedulers have their usual settings afterwards."""
    yield service
    service.end_schedulers()
    service.serve()


def faults(service: Service, worker: str) -> Any:
    """The health, the number of faults and the last fault of a worker, or None."""
    rows = service.rows(f"SELECT health, faults, reason FROM workers WHERE name = '{worker}'")
    return tuple(rows[0]) if rows else None


def statuses(service: Service, run: dict[str, Any]) -> set[tuple[str, int]]:
    """The statuses and failures of the jobs of a run."""
    return {(job["status"], job["failures"]) for job in service.jobs(run)}


def jobs(note: Path, count: int) -> list[dict[str, Any]]:
    """Independent tasks."""
    return [task("wait", note, after=[]) for _ in range(count)]


def fails(service: Service, run: dict[str, Any], worker: str, reason: str) -> None:
    """Wait until a worker has failed at several jobs in a row, and assert that none of them has."""
    wait_for(lambda: (faults(service, worker) or (0, 0))[1] >= 3, f"the faults of {worker}", PATIENT)
    health, _, told = faults(service, worker)
    assert health == "failing"
    assert reason in told
    assert statuses(service, run) <= {("QUEUED", 0), ("RUNNING", 0)}
    assert any(reason in (job["reason"] or "") for job in service.jobs(run))
    # With a pause after every fault, the queue outlasts the machine.
    first = min(job["id"] for job in service.jobs(run))
    assert service.rows(f"SELECT count(*) FROM attempts WHERE job_id >= {first}")[0][0] < 12
    assert "This machine fails, and claims no job for" in service.log("mlapi-scheduler")
    assert reason in service.admin("listworkers").stdout


def recovers(service: Service, run: dict[str, Any]) -> None:
    """Assert that a machine that works runs all jobs."""
    service.end_schedulers()
    service.schedule()
    over = service.over(run, PATIENT)
    assert {(job["status"], job["failures"]) for job in over} == {("FINISHED", 0)}


def test_a_worker_with_another_secret_key_fails_no_job(service: Service, note: Path) -> None:
    service.end_schedulers()
    service.schedule("stranger", MLAPI_SECRET_KEY=os.urandom(24).hex())
    run = service.start(*jobs(note, 8))
    fails(service, run, "stranger", "401")
    recovers(service, run)


def test_a_worker_with_a_full_disk_fails_no_job(service: Service, note: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with little_room("disk", scratch):
        with suppress(OSError):
            (scratch / "ballast").write_bytes(b"0" * 2**25)
        service.end_schedulers()
        service.schedule("full", MLAPI_SCRATCH_DIR=str(scratch))
        run = service.start(*jobs(note, 8))
        fails(service, run, "full", os.strerror(errno.ENOSPC))
        recovers(service, run)


def test_a_worker_without_an_interpreter_fails_no_job(service: Service, note: Path, tmp_path: Path) -> None:
    service.end_schedulers()
    service.schedule("bare", MLAPI_MODULE_PYTHON=str(tmp_path / "python"))
    run = service.start(*jobs(note, 8))
    fails(service, run, "bare", "no Python interpreter")
    recovers(service, run)


def test_a_worker_recovers_with_its_machine(service: Service, note: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    service.end_schedulers()
    service.schedule("ill", MLAPI_MODULE_PYTHON=str(python))
    run = service.start(*jobs(note, 4))
    wait_for(lambda: (faults(service, "ill") or (0, 0))[1] >= 1, "a fault", PATIENT)
    python.symlink_to(sys.executable)
    over = service.over(run, PATIENT)
    assert {(job["status"], job["failures"]) for job in over} == {("FINISHED", 0)}
    assert faults(service, "ill") == ("healthy", 0, None)
    wait_for(lambda: "This machine runs jobs again." in service.log("mlapi-scheduler") or no_job(service), "the log")


def no_job(service: Service) -> bool:
    """Whether nothing is queued, so that the scheduler does not look at its health."""
    return not service.rows("SELECT 1 FROM jobs WHERE status = 'QUEUED'")


def test_no_job_is_claimed_while_the_server_is_down(service: Service, note: Path) -> None:
    (scheduler,) = service.schedulers
    service.over(service.start(task("wait", note)))  # The scheduler has started.
    scheduler.send_signal(signal.SIGSTOP)
    run = service.start(*jobs(note, 4))
    assert service.server is not None
    service.end(service.server)
    told = service.log("mlapi-scheduler").count("No mlapi service answers")
    time.sleep(1.5)  # What the scheduler knows of the service is out of date.
    scheduler.send_signal(signal.SIGCONT)
    wait_for(lambda: service.log("mlapi-scheduler").count("No mlapi service answers") > told, "the refusal")
    time.sleep(1.0)
    ids = ", ".join(str(row[0]) for row in service.rows("SELECT id FROM jobs ORDER BY id DESC LIMIT 4"))
    assert service.rows(f"SELECT count(*) FROM attempts WHERE job_id IN ({ids})")[0][0] == 0
    service.serve()
    over = service.over(run, PATIENT)
    assert {(job["status"], job["attempt"], job["failures"]) for job in over} == {("FINISHED", 1, 0)}


def zygote(service: Service) -> Process:
    """Wait for the process that forks the runners."""
    (scheduler,) = service.schedulers

    def zygotes() -> list[Process]:
        return [each for each in service.family(scheduler) if "mlapi.execution.zygote" in each.command]

    return wait_for(lambda: next(iter(zygotes()), None), "the zygote")


def test_an_attempt_that_never_fetches_its_job_costs_nothing(service: Service, note: Path) -> None:
    service.serve(MLAPI_JOB_LEASE=HASTY)
    service.end_schedulers()
    service.schedule(MLAPI_JOB_LEASE=HASTY)
    hanging = zygote(service)
    hanging.send(signal.SIGSTOP)
    (job,) = service.over(service.start(task("wait", note)), PATIENT)
    assert (job["status"], job["attempt"], job["failures"]) == ("FINISHED", 2, 0)
    assert not hanging.lives
    assert faults(service, "one") == ("healthy", 0, None)


def test_killed_zygotes_cost_nothing(service: Service, note: Path) -> None:
    run = service.start(task("nap", note, 1.0), task("nap", note, 0.0))
    noted(note, 1)
    zygote(service).send(signal.SIGKILL)
    over = service.over(run, PATIENT)
    assert {(job["status"], job["attempt"], job["failures"]) for job in over} == {("FINISHED", 1, 0)}
    assert faults(service, "one") == ("healthy", 0, None)


def test_the_service_and_the_ends_of_jobs_wake_the_scheduler(service: Service, note: Path) -> None:
    service.end_schedulers()
    # After its first look, the scheduler would look again in an hour.
    service.schedule(MLAPI_SCHEDULER_INTERVAL="3600")
    for _ in range(2):
        over = service.over(service.start(*(task("wait", note) for _ in range(3))))
        assert {job["status"] for job in over} == {"FINISHED"}


def suspended(service: Service, note: Path) -> tuple[dict[str, Any], list[Process]]:
    """A run of a function whose runner is suspended; returns it with the processes of the attempt."""
    service.serve(MLAPI_JOB_LEASE=HASTY)
    service.end_schedulers()
    service.schedule(MLAPI_JOB_LEASE=HASTY)
    run = service.start(task("lonely", note, 60.0))
    processes = noted(note, 2)
    runner = processes[1].parent
    service.family(service.schedulers[0])
    runner.send(signal.SIGSTOP)
    return run, [runner, *processes]


@pytest.mark.parametrize("scheduler", ["the same", "restarted", "killed and restarted"])
def test_what_a_suspended_runner_runs_is_killed_before_its_job_is_queued_again(
    service: Service, note: Path, scheduler: str
) -> None:
    run, processes = suspended(service, note)
    if scheduler != "the same":
        service.end(service.schedulers[0], signal.SIGKILL if "killed" in scheduler else signal.SIGTERM)
        service.schedule(MLAPI_JOB_LEASE=HASTY)
    (job,) = service.over(run, PATIENT)
    assert (job["status"], job["attempt"], job["failures"]) == ("FINISHED", 2, 1)
    assert service.text(job["log"]) == "begins\nends\n"
    assert [each.lives for each in processes] == [False, False, False]


def test_a_started_scheduler_queues_the_jobs_of_killed_runners_at_once(service: Service, note: Path) -> None:
    run = service.start(*(task("lonely", note.with_name(f"note-{number}"), 60.0, after=[]) for number in range(4)))
    processes = [each for number in range(4) for each in noted(note.with_name(f"note-{number}"), 2)]
    (scheduler,) = service.schedulers
    runners = {each.parent for each in processes[1::2]}
    service.end(scheduler)
    for runner in runners:
        runner.send(signal.SIGKILL)
    service.schedule()
    wait_for(lambda: {job["attempt"] for job in service.jobs(run)} == {2}, "the next attempts", 45)
    over = service.over(run, PATIENT)
    assert {(job["status"], job["attempt"], job["failures"]) for job in over} == {("FINISHED", 2, 1)}
    assert {service.text(job["log"]) for job in over} == {"begins\nends\n"}
    assert not any(each.lives for each in processes)


@contextmanager
def no_processes(pid: int) -> Iterator[None]:
    """Let every fork of a process and of its descendants fail with EAGAIN."""
    members = [pid, *(each.pid for each in family(pid))]
    group = Path("/sys/fs/cgroup/pids") / f"mlapi-{uuid.uuid4().hex}"
    try:
        group.mkdir()
        for member in members:
            (group / "cgroup.procs").write_text(str(member))
    except OSError:
        pytest.skip("limiting the processes of another process needs the cgroup of pids")
    try:
        (group / "pids.max").write_text("1")  # Below what is there already, of which nothing ends by it.
        yield
        (group / "pids.max").write_text("max")
    finally:
        for member in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(member)
        group.rmdir()


@contextmanager
def no_files(pid: int) -> Iterator[None]:
    """Let a process open no file, connection or pipe: EMFILE."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("lacking", [no_processes, no_files])
def test_a_scheduler_survives_a_machine_without_resources(
    service: Service, note: Path, lacking: Callable[[int], Any]
) -> None:
    (scheduler,) = service.schedulers
    service.over(service.start(task("wait", note)))
    before = len(service.log("mlapi-scheduler"))
    with lacking(scheduler.pid):
        run = service.start(*jobs(note, 6))
        name = os.strerror(errno.EAGAIN if lacking is no_processes else errno.EMFILE)
        wait_for(lambda: name in service.log("mlapi-scheduler")[before:], "the error", PATIENT)
        if lacking is no_processes:
            wait_for(lambda: (faults(service, "one") or (0, 0))[1] >= 1, "a fault", PATIENT)
            assert faults(service, "one")[2] == f"The runner cannot be started: {name}."
        assert scheduler.poll() is None
    over = service.over(run, PATIENT)
    assert scheduler.poll() is None
    assert {(job["status"], job["failures"]) for job in over} == {("FINISHED", 0)}
