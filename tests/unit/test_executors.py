"""Runners as processes on this machine: starting, watching, stopping and detaching them."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlapi.execution.executors import local
from mlapi.execution.executors.base import Ticket
from mlapi.execution.executors.local import LocalExecutor
from tests.processes import alive, wait_for
from tests.unit.test_runner import SLEEPER, TOKEN, Server, pack_module


@pytest.fixture
def make_server(tmp_path):
    """Return a function that starts a server of one attempt."""
    servers = []

    def make_server(main):
        server = Server()
        servers.append(server)
        server.archive = pack_module(main)
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
    """Return the pids of the runners that a process has started."""
    pids = []
    for folder in Path("/proc").iterdir():
        try:
            is_child = (folder / "stat").read_text().rpartition(")")[2].split()[1] == str(parent or os.getpid())
            # Between its fork and its exec a runner still has the arguments of the process that starts it.
            if is_child and b"mlapi.execution.runner" in (folder / "cmdline").read_bytes():
                pids.append(int(folder.name))
        except (OSError, ValueError, IndexError):
            continue
    return [pid for pid in pids if alive(pid)]


def ended(executor, number=7):
    """Poll until an attempt has ended, and return the exit code of its runner."""
    codes = {}
    wait_for(lambda: codes.update(executor.poll()) or number in codes)
    return codes[number]


def read_note(server):
    wait_for(server.note.exists)
    return json.loads(server.note.read_text())


def test_attempts_run_concurrently_and_their_ends_are_returned_once(executor, make_server):
    servers = [make_server("finish(); print('hello')"), make_server("sys.exit(3)")]
    for number, server in enumerate(servers):
        executor.submit(ticket(server, number))
    codes = {}
    wait_for(lambda: codes.update(executor.poll()) or len(codes) == 2)
    assert codes == {0: 0, 1: 0}
    assert executor.poll() == {}
    assert [server.reports[0]["status"] for server in servers] == ["FINISHED", "FAILED"]
    assert servers[0].log == b"hello\n"


def test_the_repr_of_a_ticket_hides_its_token(make_server):
    assert TOKEN not in repr(ticket(make_server("")))


def test_a_runner_inherits_no_secrets(executor, make_server, monkeypatch):
    monkeypatch.setenv("MLAPI_DATABASE_URL", "postgresql://hunter2@host/mlapi")
    server = make_server(SLEEPER)
    executor.submit(ticket(server, 1))  # takes the one that was started before the variable was set
    executor.submit(ticket(server))
    read_note(server)
    for pid in runners():
        seen = Path(f"/proc/{pid}/cmdline").read_bytes()
        if os.geteuid() == 0:
            # For any other user a runner hides it.
            seen += Path(f"/proc/{pid}/environ").read_bytes()
        assert b"hunter2" not in seen
        assert TOKEN.encode() not in seen
        assert os.getsid(pid) == pid


def test_a_runner_starts_from_any_folder_and_imports_nothing_from_it(make_server, scratch, monkeypatch):
    server = make_server("finish()")
    folder = scratch.parent / "elsewhere"
    folder.mkdir()
    (folder / "json.py").write_text("raise SystemExit(99)")
    monkeypatch.chdir(folder)
    executor = LocalExecutor(scratch, sys.executable)
    executor.submit(ticket(server))
    assert ended(executor) == 0
    executor.close()


def test_the_idle_runner_is_used_and_replaced(executor, make_server):
    wait_for(runners)
    (waiting,) = runners()
    server = make_server("note(os.getppid()); finish()")
    executor.submit(ticket(server))
    assert read_note(server) == waiting
    executor.poll()
    wait_for(lambda: set(runners()) - {waiting})
    assert ended(executor) == 0
    assert len(runners()) == 1


def test_a_dead_idle_runner_is_replaced(executor, make_server):
    wait_for(runners)
    (waiting,) = runners()
    os.kill(waiting, signal.SIGKILL)
    wait_for(lambda: not alive(waiting))
    executor.submit(ticket(make_server("finish()")))
    assert ended(executor) == 0


FAMILY = """
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
note([os.getppid(), os.getpid(), child.pid])
time.sleep(60)
"""
"""A function that starts a process in a session of its own, and writes the ids of its runner, itself and its child."""


def test_killing_ends_a_suspended_runner_and_everything_it_started(executor, make_server, scratch):
    server = make_server(FAMILY)
    executor.submit(ticket(server))
    pids = read_note(server)
    os.kill(pids[0], signal.SIGSTOP)
    assert executor.kill(7) is True
    assert [alive(pid) for pid in pids] == [False, False, False]
    assert executor.poll() == {7: -signal.SIGKILL}
    assert server.reports == []
    assert list(scratch.glob("*")) == []
    assert executor.kill(7) is True


def test_killing_what_a_killed_runner_left_ends_the_children_of_its_function(executor, make_server, scratch):
    server = make_server(FAMILY)
    executor.submit(ticket(server))
    pids = read_note(server)
    os.kill(pids[0], signal.SIGKILL)
    assert ended(executor) == -signal.SIGKILL
    assert executor.kill(7) is True
    assert [alive(pid) for pid in pids] == [False, False, False]
    assert list(scratch.glob("*")) == []


def test_an_adopted_runner_is_watched_and_can_be_killed(executor, make_server, scratch):
    server = make_server(FAMILY)
    executor.submit(ticket(server))
    pids = read_note(server)
    assert executor.poll() == {}
    executor.close()
    again = LocalExecutor(scratch, sys.executable)
    try:
        assert again.adopt(7) is True
        assert again.adopt(8) is None
        assert again.poll() == {}
        os.kill(pids[0], signal.SIGSTOP)
        assert again.kill(7) is True
        assert [alive(pid) for pid in pids] == [False, False, False]
        wait_for(lambda: again.poll() == {7: None})
        assert again.poll() == {}
    finally:
        again.close()


def test_a_runner_that_was_killed_while_nothing_watched_it_is_not_adopted(executor, make_server, scratch):
    server = make_server(FAMILY)
    executor.submit(ticket(server))
    runner, *_ = read_note(server)
    os.kill(runner, signal.SIGKILL)
    wait_for(lambda: not alive(runner))
    assert executor.adopt(7) is False
    assert executor.kill(7) is True
    assert executor.adopt(7) is None


def test_a_runner_that_cannot_be_started_ahead_is_started_later(executor, make_server, monkeypatch):
    monkeypatch.setattr(local, "RETRY", 0.1)
    server = make_server("finish()")
    executor.submit(ticket(server))
    wait_for(lambda: server.reports)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # No pipe to another process can be opened.
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        assert ended(executor) == 0
        assert executor._idle is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_for(lambda: executor.poll() == {} and executor._idle is not None)


def test_the_end_of_a_killed_runner_is_returned(executor, make_server):
    server = make_server("note(os.getppid()); time.sleep(60)")
    executor.submit(ticket(server))
    os.kill(read_note(server), signal.SIGKILL)
    assert ended(executor) == -signal.SIGKILL


def test_running_attempts_continue_after_closing(executor, make_server):
    server = make_server("note(1); time.sleep(0.5); finish()")
    executor.submit(ticket(server))
    read_note(server)
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


def test_when_the_scheduler_is_killed_only_the_idle_runner_exits(make_server, scratch):
    server = make_server("note(os.getppid()); time.sleep(1.0); finish()")
    command = [sys.executable, "-c", PARENT, str(scratch), server.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        parent.stdin.write(TOKEN + "\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "started\n"
        working = read_note(server)
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
        executor.submit(ticket(make_server("finish()")))
        assert ended(executor) == 0
        executor.close()
        executor.close()
    assert runners() == []
    # Each server listens on one socket and has one to wake it.
    assert len(os.listdir("/proc/self/fd")) - before <= 4
