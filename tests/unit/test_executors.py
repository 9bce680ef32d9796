"""Runners as processes of this machine: started, watched, stopped, and let go."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mlapi.execution.executors import local
from mlapi.execution.executors.base import Ticket
from mlapi.execution.executors.local import LocalExecutor
from tests.unit.test_runner import SLEEPER, TOKEN, Server, alive, packed, wait_for


@pytest.fixture
def make_server(tmp_path):
    """Makes servers of one attempt each, whose function runs the given code."""
    servers = []

    def make_server(main):
        server = Server()
        servers.append(server)
        server.archive = packed(main)
        server.note = tmp_path / f"note-{len(servers)}"
        server.arguments = {"note": str(server.note)}
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server

    yield make_server
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def scratch(tmp_path):
    return tmp_path / "scratch"


@pytest.fixture
def executor(scratch):
    executor = LocalExecutor(scratch, sys.executable)
    yield executor
    executor.close()
    for runner in local._DETACHED:
        runner.kill()
        runner.wait()
    local._DETACHED.clear()


def ticket(server, number=7):
    return Ticket(number, server.url, TOKEN)


def runners(parent=None):
    """The runners that a process has started."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            ours = (folder / "stat").read_text().rpartition(")")[2].split()[1] == str(parent or os.getpid())
            # Between its fork and its exec a runner still has the arguments of the process that starts it.
            if ours and b"mlapi.execution.runner" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError, IndexError):
            continue
    return [pid for pid in found if alive(pid)]


def ended(executor, number=7):
    """Poll until an attempt has ended; return its code."""
    codes = {}
    wait_for(lambda: codes.update(executor.poll()) or number in codes)
    return codes[number]


def noted(server):
    wait_for(server.note.exists)
    return json.loads(server.note.read_text())


def test_attempts_run_side_by_side_and_their_ends_are_told_once(executor, make_server):
    servers = [make_server("leave(); print('hello')"), make_server("sys.exit(3)")]
    for number, server in enumerate(servers):
        executor.submit(ticket(server, number))
    codes = {}
    wait_for(lambda: codes.update(executor.poll()) or len(codes) == 2)
    assert codes == {0: 0, 1: 0}
    assert executor.poll() == {}
    assert [server.reports[0]["status"] for server in servers] == ["FINISHED", "FAILED"]
    assert servers[0].log == b"hello\n"


def test_a_ticket_does_not_show_its_token(make_server):
    assert TOKEN not in repr(ticket(make_server("")))


def test_a_runner_knows_nothing_of_the_service(executor, make_server, monkeypatch):
    monkeypatch.setenv("MLAPI_DATABASE_URL", "postgresql://hunter2@host/mlapi")
    server = make_server(SLEEPER)
    executor.submit(ticket(server, 1))  # takes the one that was started before the variable was set
    executor.submit(ticket(server))
    noted(server)
    for pid in runners():
        seen = Path(f"/proc/{pid}/cmdline").read_bytes()
        if os.geteuid() == 0:
            # For any other user a runner hides it.
            seen += Path(f"/proc/{pid}/environ").read_bytes()
        assert b"hunter2" not in seen
        assert TOKEN.encode() not in seen
        assert os.getsid(pid) == pid


def test_a_runner_is_found_from_anywhere_and_takes_no_code_from_there(make_server, scratch, monkeypatch):
    server = make_server("leave()")
    folder = scratch.parent / "elsewhere"
    folder.mkdir()
    (folder / "json.py").write_text("raise SystemExit(99)")
    monkeypatch.chdir(folder)
    executor = LocalExecutor(scratch, sys.executable)
    executor.submit(ticket(server))
    assert ended(executor) == 0
    executor.close()


def test_a_runner_waits_ahead_and_is_used_and_replaced(executor, make_server):
    wait_for(runners)
    (waiting,) = runners()
    server = make_server("tell(os.getppid()); leave()")
    executor.submit(ticket(server))
    assert noted(server) == waiting
    executor.poll()
    wait_for(lambda: set(runners()) - {waiting})
    assert ended(executor) == 0
    assert len(runners()) == 1


def test_a_waiting_runner_that_died_is_no_loss(executor, make_server):
    wait_for(runners)
    (waiting,) = runners()
    os.kill(waiting, signal.SIGKILL)
    wait_for(lambda: not alive(waiting))
    executor.submit(ticket(make_server("leave()")))
    assert ended(executor) == 0


def test_cancelling_stops_the_function_and_leaves_the_report_to_others(executor, make_server):
    server = make_server(SLEEPER)
    executor.submit(ticket(server))
    pid = noted(server)
    (runner,) = [process.pid for process in executor._running.values()]
    os.kill(runner, signal.SIGSTOP)
    executor.cancel(7)
    executor.cancel(7)
    executor.cancel(8)
    # A stopped runner cannot obey, so none of these has waited for it.
    assert alive(pid)
    os.kill(runner, signal.SIGCONT)
    assert ended(executor) == 3
    assert not alive(pid)
    assert server.reports == []
    executor.cancel(7)


def test_a_runner_that_will_not_leave_is_killed_with_its_function(executor, make_server, monkeypatch):
    monkeypatch.setattr(local, "KILL_AFTER", 0.4)
    server = make_server("tell([os.getppid(), os.getpid()]); time.sleep(60)")
    executor.submit(ticket(server))
    runner, function = noted(server)
    os.kill(runner, signal.SIGSTOP)
    began = time.monotonic()
    executor.cancel(7)
    assert executor.poll() == {}
    assert ended(executor) == -signal.SIGKILL
    assert time.monotonic() - began > 0.3
    wait_for(lambda: not alive(function))


def test_the_end_of_a_killed_runner_is_told(executor, make_server):
    server = make_server("tell(os.getppid()); time.sleep(60)")
    executor.submit(ticket(server))
    os.kill(noted(server), signal.SIGKILL)
    assert ended(executor) == -signal.SIGKILL


def test_what_runs_goes_on_after_closing(executor, make_server):
    server = make_server("tell(1); time.sleep(0.5); leave()")
    executor.submit(ticket(server))
    noted(server)
    executor.poll()
    executor.close()
    assert len(runners()) == 1
    assert executor.poll() == {}
    wait_for(lambda: server.reports)
    assert server.reports[0]["status"] == "FINISHED"


PARENT = """
import sys, time
from pathlib import Path
from mlapi.execution.executors.base import Ticket
from mlapi.execution.executors.local import LocalExecutor
executor = LocalExecutor(Path(sys.argv[1]), sys.executable)
executor.submit(Ticket(7, sys.argv[2], sys.stdin.readline().strip()))
executor.poll()
print("started", flush=True)
time.sleep(60)
"""


def test_when_the_scheduler_is_killed_the_idle_runner_leaves_and_the_others_finish(make_server, scratch):
    server = make_server("tell(os.getppid()); time.sleep(1.0); leave()")
    command = [sys.executable, "-c", PARENT, str(scratch), server.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        parent.stdin.write(TOKEN + "\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "started\n"
        working = noted(server)
        wait_for(lambda: len(runners(parent.pid)) == 2)
        (idle,) = set(runners(parent.pid)) - {working}
        parent.kill()
        parent.wait()
        wait_for(lambda: not alive(idle))
        assert alive(working)
        wait_for(lambda: server.reports)
    assert server.reports[0]["status"] == "FINISHED"
    wait_for(lambda: not alive(working))
    assert list(scratch.iterdir()) == []


def test_nothing_is_left_of_a_closed_executor(make_server, scratch):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        executor = LocalExecutor(scratch, sys.executable)
        executor.submit(ticket(make_server("leave()")))
        assert ended(executor) == 0
        executor.close()
        executor.close()
    assert runners() == []
    # Each server listens on one socket and has one to wake it.
    assert len(os.listdir("/proc/self/fd")) - before <= 4
