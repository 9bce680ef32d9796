"""Processes that are killed, suspended and restarted during their work: nothing is lost or duplicated."""

import hashlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.processes import HASTY, Process, Service, family, free_port, memory, process, wait_for
from tests.support import API, multipart

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
MEBIBYTE = 2**20


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """The folder in which functions write the ids of their processes."""
    return tmp_path / "note"


def task(function: str, note: Path, seconds: float = 0.0, **more: Any) -> dict[str, Any]:
    """A task of the test module; only the first with the same note waits."""
    arguments = {"note": str(note), "seconds": seconds}
    return {"function": f"{API}/modules/trouble/functions/{function}", "arguments": arguments, **more}


def noted(note: Path, count: int = 1, seconds: float = 20.0) -> list[Process]:
    """Wait until this number of processes have written their ids."""

    def numbers() -> list[int]:
        return [int(line) for line in note.read_text().split()] if note.exists() else []

    wait_for(lambda: len(numbers()) >= count, f"{count} function(s) to begin", seconds)
    return [process(pid) for pid in numbers()]


def test_links_lead_from_an_output_back_to_its_origin(service: Service) -> None:
    file = service.upload("ada.txt", b"Ada")
    function = f"{API}/modules/helloworld/functions/say_hello"
    hello = {"function": function, "arguments": {"greeting": "Ave", "excited": True}}
    run = service.start(hello, files=[file["url"]])
    (job,) = service.over(run)
    assert (job["status"], job["reason"], job["attempt"]) == ("FINISHED", None, 1)
    assert service.text(job["log"]) == "Greeted ada.txt.\n"
    (output,) = service.outputs(job)
    assert service.text(output["content"]) == "Ave, Ada!\n"
    assert output["sha256"] == hashlib.sha256(b"Ave, Ada!\n").hexdigest()
    assert (output["name"], output["kind"], output["tags"]) == ("hello_ada.txt", "OUTPUT", {"language": "en"})
    # Follow the links from the output.
    made_by = service.api("GET", output["job"]).json
    assert made_by == job
    assert made_by["arguments"] == {"greeting": "Ave", "excited": True}
    assert [service.api("GET", url).json for url in made_by["inputs"]] == [file]
    assert service.api("GET", made_by["run"]).json["files"] == [file["url"]]
    assert service.api("GET", made_by["task"]).json["arguments"] == made_by["arguments"]
    used = service.api("GET", made_by["function"]).json
    assert used["name"] == "say_hello"
    version = service.api("GET", used["version"]).json
    assert version["version"] in made_by["function"]
    assert service.api("GET", used["module"]).json["version"] == version["url"]


def test_a_running_job_is_watched_by_its_metrics_and_its_run_by_events(service: Service, note: Path) -> None:
    run = service.start(task("nap", note, 60.0))
    noted(note)
    (job,) = service.api("GET", run["jobs"]).json["items"]
    metrics = f"{job['url']}/metrics?name=loss"
    wait_for(lambda: service.api("GET", metrics).json["series"], "the first point")
    (series,) = service.api("GET", metrics).json["series"]
    assert [(point["step"], point["value"]) for point in series["points"]] == [(1, 0.5)]
    service.api("POST", f"{run['url']}/cancel")
    service.over(run)
    (attempt,) = service.api("GET", f"{job['url']}/attempts").json["items"]
    assert (attempt["status"], attempt["reason"]) == ("CANCELLED", "Cancelled while it ran.")
    assert all(used > 0 for used in attempt["usage"].values())
    assert service.text(attempt["log"]) == "begins\n"
    events = service.api("GET", f"{run['url']}/events").json["items"]
    assert [(event["actor"].partition(":")[0], event["action"], event["data"].get("status")) for event in events] == [
        ("user", "create", None),
        ("worker", "move", "RUNNING"),
        ("user", "cancel", None),
        ("attempt", "move", "CANCELLED"),
    ]


def test_a_job_survives_its_scheduler(service: Service, note: Path) -> None:
    run = service.start(task("wait", note, 2.0))
    noted(note)
    service.end_schedulers()
    service.schedule()
    (job,) = service.over(run)
    assert (job["status"], job["attempt"], len(noted(note))) == ("FINISHED", 1, 1)
    assert service.text(job["log"]) == "begins\nends\n"


def test_a_job_is_queued_again_after_the_lease_if_scheduler_and_runner_are_killed(service: Service, note: Path) -> None:
    service.serve(MLAPI_JOB_LEASE=HASTY)
    run = service.start(task("wait", note, 60.0))
    (function,) = noted(note)
    runner = function.parent
    service.end_schedulers()
    runner.send(signal.SIGKILL)
    wait_for(lambda: not function.lives, "the function to die with its runner", 2)
    service.schedule()
    (job,) = service.over(run)
    assert (job["status"], job["attempt"], len(noted(note))) == ("FINISHED", 2, 2)
    assert [file["name"] for file in service.outputs(job)] == ["out.json"]
    assert service.text(job["log"]) == "begins\nends\n"


def test_a_job_is_queued_again_immediately_if_its_runner_is_killed(service: Service, note: Path) -> None:
    run = service.start(task("wait", note, 60.0))
    (function,) = noted(note)
    function.parent.send(signal.SIGKILL)
    (job,) = service.over(run)
    assert (job["status"], job["attempt"], len(job["outputs"])) == ("FINISHED", 2, 1)
    lost = f"Job {job['id']}: attempt 1 is lost. The runner ended with exit status -9"
    assert lost in service.log("mlapi-scheduler")
    assert not function.lives


def test_a_runner_suspended_beyond_its_lease_changes_nothing(service: Service, note: Path, tmp_path: Path) -> None:
    service.serve(MLAPI_JOB_LEASE=HASTY)
    run = service.start(task("wait", note, 60.0))
    (function,) = noted(note)
    runner = function.parent
    service.end_schedulers()  # The scheduler that started the runner would kill it.
    runner.send(signal.SIGSTOP)
    # Nor can the scheduler of another machine kill it.
    another = service.schedule("another", MLAPI_SCRATCH_DIR=str(tmp_path / "scratch"))
    (job,) = service.over(run)
    assert runner.lives
    assert (job["status"], job["attempt"]) == ("FINISHED", 2)
    runner.send(signal.SIGCONT)
    wait_for(lambda: not runner.lives and not function.lives, "the late runner to leave", 5)
    assert service.jobs(run) == [job]
    assert len(noted(note)) == 2
    service.end(another)


def test_a_job_survives_the_server(service: Service, note: Path) -> None:
    run = service.start(task("wait", note, 2.0))
    noted(note)
    assert service.server is not None
    service.end(service.server)
    time.sleep(0.5)
    service.serve()
    (job,) = service.over(run)
    assert (job["status"], len(job["outputs"])) == ("FINISHED", 1)
    assert service.text(job["log"]) == "begins\nends\n"


def test_a_scheduler_that_starts_before_the_server_waits_for_it(service: Service, note: Path) -> None:
    run = service.start(task("wait", note))
    service.end_schedulers()
    assert service.server is not None
    service.end(service.server)
    scheduler = service.schedule()
    time.sleep(2.0)
    assert scheduler.poll() is None
    service.serve()
    (job,) = service.over(run)
    assert job["status"] == "FINISHED"


@pytest.mark.parametrize("function", ["wait", "stubborn"])
def test_cancelling_a_running_job_ends_all_its_processes_within_two_seconds(
    service: Service, note: Path, function: str
) -> None:
    run = service.start(task(function, note, 60.0))
    processes = noted(note, 2 if function == "stubborn" else 1)
    (job,) = service.jobs(run)
    asked = time.monotonic()
    service.api("POST", f"{job['url']}/cancel", {})
    (job,) = service.over(run)
    assert time.monotonic() - asked < 2.0
    assert (job["status"], job["reason"], job["outputs"]) == ("CANCELLED", "Cancelled while it ran.", [])
    assert not any(each.lives for each in processes)


def test_cancelling_a_run_ends_running_and_waiting_jobs(service: Service, note: Path) -> None:
    run = service.start(task("wait", note, 60.0), task("wait", note))
    (function,) = noted(note)
    asked = time.monotonic()
    service.api("POST", f"{run['url']}/cancel", {})
    reasons = [(job["status"], job["reason"]) for job in service.over(run)]
    assert time.monotonic() - asked < 2.0
    assert reasons == [("CANCELLED", "Cancelled while it ran."), ("CANCELLED", "Cancelled before it ran.")]
    assert not function.lives


def test_a_job_over_its_time_limit_fails(service: Service, note: Path) -> None:
    run = service.start(task("wait", note, 60.0, timeout=0.5))
    (job,) = service.over(run)
    assert (job["status"], job["attempt"]) == ("FAILED", 1)
    assert job["reason"] == "The function was stopped after its time limit of 0.5 s. The log ends with:\nbegins"
    assert not noted(note)[0].lives


def test_dependents_of_a_failed_job_are_cancelled_with_a_reason(service: Service, note: Path) -> None:
    run = service.start(task("fail", note), task("wait", note), task("wait", note))
    failed, *after = service.over(run)
    reason = "The function ended with exit status 1. The log ends with:\nbegins\nI fail."
    assert (failed["status"], failed["reason"]) == ("FAILED", reason)
    assert service.text(failed["log"]) == "begins\nI fail.\n"
    before = [(failed["id"], "fail", "FAILED"), (after[0]["id"], "wait", "CANCELLED")]
    for job, (number, name, status) in zip(after, before, strict=True):
        assert job["status"] == "CANCELLED"
        assert job["reason"] == f"Not run: parent job {number} ({name}) is {status}."
    assert service.api("GET", run["url"]).json["status"] == "FAILED"


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("absent", "output.json names 'absent.txt', but the file is not in the output folder."),
        ("nonsense", "output.json is not JSON: "),
    ],
)
def test_an_invalid_output_is_the_reason_of_the_failure(
    service: Service, note: Path, function: str, reason: str
) -> None:
    (job,) = service.over(service.start(task(function, note)))
    assert (job["status"], job["outputs"]) == ("FAILED", [])
    assert job["reason"].startswith(reason)


def test_two_schedulers_run_every_job_once(service: Service, note: Path) -> None:
    second = service.schedule("two")
    run = service.start(*(task("wait", note, after=[]) for _ in range(40)))
    jobs = service.over(run, 60)
    service.end(second, signal.SIGTERM)
    assert {(job["status"], job["attempt"], len(job["outputs"])) for job in jobs} == {("FINISHED", 1, 1)}
    assert len(set(noted(note, 40))) == 40
    last = f"SELECT worker, count(*) FROM attempts WHERE job_id >= {jobs[0]['id']} GROUP BY worker"
    assert sum(count for _, count in service.rows(last)) == 40
    assert {worker for worker, _ in service.rows(last)} == {"one", "two"}


def test_a_function_inherits_no_secrets(service: Service, note: Path) -> None:
    (job,) = service.over(service.start(task("look", note)))
    seen = service.text(service.outputs(job)[0]["content"])
    for secret in (service.url, service.environ["MLAPI_SECRET_KEY"]):
        assert secret not in seen
    assert re.search(r"eyJ[\w-]+\.eyJ", seen) is None  # The start of every signed token.
    seen_by_function = json.loads(seen)
    assert [name for name in seen_by_function["own"] if name.startswith("MLAPI")] == ["MLAPI_JOB_DIR"]
    assert seen_by_function["open"] == ["0", "1", "2", "3"]  # The last is the listed folder.


def test_a_stopped_scheduler_leaves_its_jobs_running(service: Service, note: Path) -> None:
    run = service.start(task("wait", note, 2.0))
    noted(note)
    (scheduler,) = service.schedulers
    asked = time.monotonic()
    assert service.end(scheduler, signal.SIGTERM) == 0
    assert time.monotonic() - asked < 5.0
    (job,) = service.over(run)
    assert (job["status"], job["attempt"]) == ("FINISHED", 1)


def test_a_stopped_server_completes_its_requests(service: Service) -> None:
    content = os.urandom(64 * MEBIBYTE)
    folder = service.folder / "data" / "files" / "tmp"
    answers: list[dict[str, Any]] = []
    uploading = threading.Thread(target=lambda: answers.append(service.upload("at-the-end", content)))
    uploading.start()
    wait_for(lambda: any(each.stat().st_size for each in folder.iterdir()), "the upload to be written")
    asked = time.monotonic()
    assert service.server is not None
    assert service.end(service.server, signal.SIGTERM) == 0
    assert time.monotonic() - asked < 5.0
    uploading.join()
    service.serve()
    assert service.api("GET", answers[0]["content"]).content == content


def test_idle_connections_do_not_block_the_server(service: Service) -> None:
    with ExitStack() as sockets:
        for _ in range(110):
            sockets.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=5))
        asked = time.monotonic()
        service.api("GET", "modules")
        assert time.monotonic() - asked < 5.0


@pytest.mark.parametrize("how", ["hangs up", "sends a broken form"])
def test_an_aborted_upload_leaves_nothing(service: Service, how: str) -> None:
    def kept() -> set[Path]:
        return {path for path in (service.folder / "data" / "files").rglob("*") if path.is_file()}

    service.admin("sweep", MLAPI_SWEEP_GRACE="0.001")
    files, before = service.rows("SELECT count(*) FROM files"), kept()
    content = os.urandom(MEBIBYTE)
    if how == "hangs up":
        with socket.create_connection(("127.0.0.1", service.port), timeout=5) as connection:
            head = f"PUT {API}/users/ada/files?name=half HTTP/1.1\r\nHost: localhost\r\n"
            head += f"Content-Length: {2 * len(content)}\r\n"
            head += "".join(f"{name}: {value}\r\n" for name, value in service.api.headers.items())
            connection.sendall(head.encode() + b"\r\n" + content)
    else:
        body, kind = multipart({}, "file", "half", content)
        url = "users/ada/files"
        service.api("POST", url, body=body[:-10], status=400, **{"Content-Type": kind})
    service.api("GET", "modules")
    service.admin("sweep", MLAPI_SWEEP_GRACE="0.001")
    assert service.rows("SELECT count(*) FROM files") == files
    assert kept() == before


def test_a_large_file_is_never_held_in_memory(service: Service) -> None:
    content = os.urandom(64 * MEBIBYTE)
    service.upload("warm-up", b"once")
    assert service.server is not None
    pid = service.server.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # Reset the peak.
    before = memory(pid)
    file = service.upload("large", content)
    assert service.api("GET", file["content"]).content == content
    assert memory(pid, "VmHWM") - before < 64 * MEBIBYTE


@pytest.fixture
def developer(service: Service) -> Service:
    """A service whose server starts a scheduler, as in development.ini."""
    service.end_schedulers()
    service.serve(MLAPI_SCHEDULER="true")
    return service


def own_scheduler(service: Service, other_than: Process | None = None) -> Process:
    """Wait for a scheduler that the server has started."""
    assert service.server is not None
    server = service.server
    return wait_for(
        lambda: next(
            (each for each in service.family(server) if "cli.scheduler" in each.command and each != other_than),
            None,
        ),
        "the server's scheduler",
    )


def test_the_servers_scheduler_is_restarted_when_it_is_killed(developer: Service, note: Path) -> None:
    first = own_scheduler(developer)
    first.send(signal.SIGKILL)
    assert own_scheduler(developer, first).lives
    (job,) = developer.over(developer.start(task("wait", note)))
    assert job["status"] == "FINISHED"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)])
def test_the_servers_scheduler_ends_with_it(developer: Service, note: Path, number: Any, status: int) -> None:
    scheduler = own_scheduler(developer)
    (job,) = developer.over(developer.start(task("wait", note)))
    assert job["status"] == "FINISHED"
    runners = [each for each in family(scheduler.pid) if "mlapi.execution.runner" in each.command]
    assert runners
    assert developer.server is not None
    assert developer.end(developer.server, number) == status
    wait_for(lambda: not any(each.lives for each in (scheduler, *runners)), "the scheduler to end", 5)


def test_the_port_setting_applies_to_the_server_and_to_all_schedulers(service: Service, note: Path) -> None:
    service.end_schedulers()
    assert service.server is not None
    service.end(service.server)
    moved, before = free_port(), service.port
    environ = {"MLAPI_PORT": str(moved)}
    service.move(moved)
    try:
        service.serve(**environ, MLAPI_SCHEDULER="true")
        (job,) = service.over(service.start(task("wait", note)))
        assert job["status"] == "FINISHED"
        service.serve(**environ)
        service.schedule(**environ)
        (job,) = service.over(service.start(task("wait", note)))
        assert job["status"] == "FINISHED"
    finally:
        service.end_schedulers()
        if service.server is not None:
            service.end(service.server)
        service.move(before)
