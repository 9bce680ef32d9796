"""Every attempt ends, in whatever phase it is, and leaves nothing: by refusals, limits, cancellations and signals."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.functional.conftest import database_url
from tests.processes import Process, Service, process, wait_for
from tests.support import API

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
PATIENT = 90.0
"""Seconds to wait for what needs several attempts, also on a slow machine."""

MEBIBYTE = 2**20

DO = """
import json, os, signal, subprocess, sys, time
job = os.environ["MLAPI_JOB_DIR"]
options = json.load(open(f"{job}/input/input.json"))["options"]


def note(*pids):
    with open(options["note"], "a") as file:
        file.write("".join(f"{pid}\\n" for pid in pids))


def finish(size=0, **more):
    with open(f"{job}/output/made", "wb") as file:
        file.write(os.urandom(size))
    document = {"name": "do", "files": ["made"], "files_created": ["made"], **more}
    with open(f"{job}/output/output.json", "w") as file:
        json.dump(document, file)


first = not os.path.exists(options["note"])
exec(options["code"])
"""
"""A module whose function executes the code in its arguments."""


def executing(folder: Path) -> Path:
    """Write the module of `DO` into a new folder."""
    option = {"type": "str", "doctxt": "", "required": True}
    function = {
        "name": "do",
        "doctxt": "",
        "options": [{"name": "code", **option}, {"name": "note", **option}],
        "expected_filetype": "",
        "creates_new_files": True,
        "modifies_input_files": False,
        "input_files": {"minimum": 0},
    }
    manifest = {"display_name": "Do", "tagline": "", "doctxt": "", "functions": [function]}
    folder.mkdir()
    (folder / "main.py").write_text(DO)
    (folder / "mlapi.yaml").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def tight_service(request: Any, tmp_path_factory: Any) -> Iterator[Service]:
    """A service with a store of 16 MiB, small pieces of logs, and little patience."""
    folder = tmp_path_factory.mktemp(f"endings-{request.param}")
    store = folder / "store"
    store.mkdir()
    with ExitStack() as stack:
        mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(store)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small disk needs root")
        stack.callback(subprocess.run, ["umount", "-l", str(store)], check=True)
        limits = {"media_dir": store / "files", "log_piece_limit": 1000, "body_limit": 10_000, "delivery_timeout": 2}
        service = Service(folder, database_url(request, folder), **limits)
        stack.callback(service.close)
        service.prepare()
        service.admin("createmodule", "executing", str(executing(folder / "executing")))
        yield service


@pytest.fixture
def service(tight_service: Service) -> Iterator[Service]:
    """A service that serves and schedules; afterwards every invariant holds and no attempt has left anything."""
    tight_service.serve()
    if not tight_service.schedulers:
        tight_service.schedule()
    yield tight_service
    assert tight_service.violations() == []
    wait_for(lambda: not list((tight_service.folder / "data" / "scratch").glob("attempt-*")), "the end of all folders")


@pytest.fixture
def do(service: Service, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Start a run of a job that executes code; the code can note process ids."""

    def do(code: str, **more: Any) -> dict[str, Any]:
        arguments = {"code": code, "note": str(tmp_path / "note")}
        return service.start({"function": f"{API}/modules/executing/functions/do", "arguments": arguments, **more})

    return do


@pytest.fixture
def noted(tmp_path: Path) -> Callable[[int], list[Process]]:
    """Wait until functions have noted this number of process ids; returns the processes."""
    note = tmp_path / "note"

    def noted(count: int) -> list[Process]:
        wait_for(lambda: note.exists() and len(note.read_text().split()) >= count, f"{count} processes", PATIENT)
        return [process(int(pid)) for pid in note.read_text().split()]

    return noted


FULL = "note(os.getpid()); finish(17 * 2**20)"


def delivering(noted: Any) -> None:
    """Wait until the only function has ended, and its runner delivers the results."""
    (function,) = noted(1)
    wait_for(lambda: not function.lives, "the end of the function", PATIENT)
    time.sleep(1.0)


def test_a_job_whose_output_is_refused_for_good_fails_in_the_words_of_the_refusal(service: Service, do: Any) -> None:
    (job,) = service.over(do(FULL), PATIENT)
    assert (job["status"], job["attempt"], job["failures"]) == ("FAILED", 3, 3)
    assert job["reason"] == (
        "Handed back in 3 of 3 attempts. Last: output 'made' was refused for 2 s: No space left in the storage."
    )


def test_a_refused_output_does_not_outlast_the_time_limit(service: Service, do: Any) -> None:
    service.serve(MLAPI_DELIVERY_TIMEOUT="600")
    (job,) = service.over(do(FULL, timeout=3.0), PATIENT)
    assert (job["status"], job["attempt"]) == ("FAILED", 1)
    assert job["reason"] == "The results were not delivered within 5 s. No space left in the storage."


def test_a_job_whose_output_is_refused_can_be_cancelled(service: Service, do: Any, noted: Any) -> None:
    service.serve(MLAPI_DELIVERY_TIMEOUT="600")
    run = do(FULL)
    delivering(noted)
    (job,) = service.jobs(run)
    service.api("POST", f"{job['url']}/cancel", {})
    (job,) = service.over(run, PATIENT)
    assert (job["status"], job["reason"]) == ("CANCELLED", "Cancelled while it ran.")


def test_an_output_that_is_refused_for_a_while_is_delivered(service: Service, do: Any, noted: Any) -> None:
    service.serve(MLAPI_DELIVERY_TIMEOUT="600")
    ballast = service.folder / "store" / "ballast"
    with suppress(OSError):
        ballast.write_bytes(b"0" * 17 * MEBIBYTE)
    run = do("note(os.getpid()); finish(2 * 2**20)")
    delivering(noted)
    assert {job["status"] for job in service.jobs(run)} == {"RUNNING"}
    ballast.unlink()
    (job,) = service.over(run, PATIENT)
    assert (job["status"], job["attempt"], len(job["outputs"])) == ("FINISHED", 1, 1)


def test_a_server_without_room_for_bodies_does_not_hold_jobs_for_ever(service: Service, do: Any) -> None:
    assert service.server is not None
    # What the server writes to its temporary folder fails beyond 8 MiB, as on a full disk.
    resource.prlimit(service.server.pid, resource.RLIMIT_FSIZE, (8 * MEBIBYTE, 8 * MEBIBYTE))
    (job,) = service.over(do("finish(9 * 2**20)"), PATIENT)
    service.end(service.server)
    assert (job["status"], job["failures"]) == ("FAILED", 3)
    assert "output 'made' was refused for 2 s" in job["reason"]


def test_a_job_whose_runner_is_stopped_again_and_again_does_not_fail(service: Service, do: Any, noted: Any) -> None:
    run = do("""
child = subprocess.Popen(["sleep", "300"], start_new_session=True)
note(os.getpid(), child.pid)
if len(open(options["note"]).read().split()) <= 8:
    time.sleep(300)
finish()
""")
    for count in (2, 4, 6, 8):
        function, _ = noted(count)[-2:]
        # As systemd stops a service: all processes at once.
        runner = function.parent
        for each in (function, runner):
            each.send(signal.SIGTERM)
        wait_for(lambda pair=(runner, function): not any(each.lives for each in pair), "the end of the runner", PATIENT)
    (job,) = service.over(run, PATIENT)
    assert (job["status"], job["attempt"], job["failures"]) == ("FINISHED", 5, 0)
    assert (
        service.rows(f"SELECT status, reason FROM attempts WHERE job_id = {job['id']} ORDER BY number")[:2]
        == [("RETURNED", "The runner was told to stop.")] * 2
    )
    assert not any(each.lives for each in noted(10))


LEAVING = """
if not first:
    pids = open(options["note"]).read().split()
    stats = [f"/proc/{pid}/stat" for pid in pids]
    print([stat for stat in stats if os.path.exists(stat) and ") Z" not in open(stat).read()])
    finish()
    sys.exit()
sleep, away = ["sleep", "300"], {"start_new_session": True}
ways = [{}, away, {"env": {}}, {**away, "env": {}}, {**away, "cwd": "/"}]
note(*[subprocess.Popen(sleep, **way).pid for way in ways], os.getpid())
time.sleep(300)
"""


def test_nothing_of_a_killed_runner_lives_beside_the_next_attempt(service: Service, do: Any, noted: Any) -> None:
    runs = [do(LEAVING)]
    *children, function = noted(6)
    runner = function.parent
    assert all(each.lives for each in children)
    runner.send(signal.SIGKILL)
    (job,) = service.over(runs[0], PATIENT)
    assert (job["status"], job["attempt"]) == ("FINISHED", 2)
    assert service.text(job["log"]) == "[]\n"
    assert not any(each.lives for each in [*children, function])


def test_a_report_is_repeated_until_its_response_arrives(service: Service, do: Any) -> None:
    service.end_schedulers()
    before = len(service.log("mlapi-scheduler"))
    with closing(Cut(service.port)) as cut:
        service.schedule(MLAPI_URL=f"http://127.0.0.1:{cut.port}")
        (job,) = service.over(do("finish()"), PATIENT)
        wait_for(lambda: cut.reports >= 2, "the repetition")
        service.end_schedulers()
    assert (job["status"], job["attempt"], len(job["outputs"])) == ("FINISHED", 1, 1)
    # The runner has learnt that its attempt ended well.
    assert "abandoned" not in service.log("mlapi-scheduler")[before:]


class Cut:
    """A proxy on loopback that cuts the connection instead of passing on the response to the first report."""

    def __init__(self, port: int) -> None:
        self._to, self.reports = port, 0
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Close all connections."""
        for each in [self._listener, *self._sockets]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                self._sockets += [client, server]
                state = {"cut": False}
                for pair in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._copy, args=(*pair, state), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, asks: bool, state: dict[str, bool]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if asks and b"/report HTTP/1.1" in data:
                    self.reports += 1
                    state["cut"] = self.reports == 1
                elif not asks and state["cut"]:
                    break
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def test_the_limits_of_a_job_are_not_those_of_other_bodies(service: Service, do: Any) -> None:
    text = "line of the log\n" * 5000
    code = "sys.stdout.write('line of the log\\n' * 5000); sys.stdout.flush(); finish(metrics={'a': 'b' * 60_000})"
    (job,) = service.over(do(code), PATIENT)
    assert (job["status"], job["reason"]) == ("FINISHED", None)
    assert service.text(job["log"]) == text
    assert job["metrics"] == {"a": "b" * 60_000}


def test_metrics_beyond_their_limit_fail_the_job_in_its_words(service: Service, do: Any) -> None:
    (job,) = service.over(do("finish(metrics={'a': 'b' * 3_000_000})"), PATIENT)
    assert (job["status"], job["reason"]) == ("FAILED", "The metrics are larger than 65536 bytes.")


def test_a_scheduler_soon_sweeps_what_killed_processes_left(service: Service) -> None:
    service.end_schedulers()
    scratch = service.folder / "data" / "scratch"
    for name in ("module-left/deep", "attempt-1-left/job", "kept"):
        (scratch / name).mkdir(parents=True)
    service.schedule()
    wait_for(lambda: [path.name for path in scratch.iterdir()] == ["kept"], "the sweep", 60.0)
    (scratch / "kept").rmdir()
