"""Runners as processes on this machine: starting, watching, stopping and detaching them."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from mlapi.execution.executors import local
from mlapi.execution.executors.base import Ticket
from mlapi.execution.executors.local import LocalExecutor
from tests.processes import alive, family, wait_for
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
    left = runners()  # After the end of the zygote, they are no descendants of this process.
    executor.close()
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def ticket(server, number=7):
    return Ticket(number, server.url, TOKEN)


def zygotes(parent=None):
    """Return the pids of the zygotes that a process has started."""
    above = parent or os.getpid()
    # Between its fork and its exec a zygote still has the arguments of the process that starts it.
    found = [each for each in family(above) if "mlapi.execution.zygote" in each.command]
    return [each.pid for each in found if each.lives and each.parent.pid == above]


def runners(parent=None):
    """Return the pids of the runners that the zygotes of a process have forked."""
    return [
        each.pid for zygote in zygotes(parent) for each in family(zygote) if each.lives and each.parent.pid == zygote
    ]


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


def test_runners_are_forked_by_one_process(executor, make_server):
    wait_for(zygotes)
    (zygote,) = zygotes()
    servers = [make_server("note(os.getppid()); time.sleep(60)") for _ in range(2)]
    for number, server in enumerate(servers):
        executor.submit(ticket(server, number))
    assert {read_note(server) for server in servers} == set(runners())
    assert zygotes() == [zygote]


def test_a_dead_zygote_is_replaced(executor, make_server):
    wait_for(zygotes)
    (waiting,) = zygotes()
    os.kill(waiting, signal.SIGKILL)
    wait_for(lambda: not alive(waiting))
    executor.submit(ticket(make_server("finish()")))
    assert ended(executor) == 0
    assert set(zygotes()).isdisjoint({waiting})


def kill_zygote(executor):
    """Kill the zygote of an executor, and wait until it is replaced."""
    (zygote,) = zygotes()
    os.kill(zygote, signal.SIGKILL)
    wait_for(lambda: executor.poll() == {} and zygotes() not in ([], [zygote]))


def test_the_runner_of_a_killed_zygote_continues_and_its_end_is_returned(executor, make_server, tmp_path):
    go = tmp_path / "go"
    server = make_server(f"note(os.getppid())\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nfinish()")
    executor.submit(ticket(server))
    runner = read_note(server)
    kill_zygote(executor)
    assert alive(runner)
    go.touch()
    assert ended(executor) is None
    assert [report["status"] for report in server.reports] == ["FINISHED"]


def test_the_runner_of_a_killed_zygote_can_be_killed(executor, make_server, scratch):
    server = make_server(FAMILY)
    executor.submit(ticket(server))
    pids = read_note(server)
    kill_zygote(executor)
    assert executor.kill(7) is True
    assert [alive(pid) for pid in pids] == [False, False, False]
    assert ended(executor) is None
    assert list(scratch.glob("*")) == []


def test_a_zygote_that_hangs_is_killed_with_the_attempt_that_it_has_not_started(executor, make_server, scratch):
    wait_for(zygotes)
    (zygote,) = zygotes()
    os.kill(zygote, signal.SIGSTOP)
    server = make_server("finish()")
    executor.submit(ticket(server))
    assert executor.poll() == {}
    assert executor.kill(7) is True
    assert not alive(zygote)
    assert ended(executor) is None
    executor.submit(ticket(server, 8))
    assert ended(executor, 8) == 0
    assert len(server.reports) == 1


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
    assert ended(executor) == -signal.SIGKILL
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


def test_a_zygote_that_cannot_be_started_is_started_later(executor, monkeypatch):
    monkeypatch.setattr(local, "RETRY", 0.1)
    wait_for(zygotes)
    (zygote,) = zygotes()
    os.kill(zygote, signal.SIGKILL)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # No connection with another process can be opened.
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        wait_for(lambda: executor.poll() == {} and executor._zygote is None)
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            executor.submit(Ticket(7, "http://127.0.0.1:1/attempts/7", TOKEN))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_for(lambda: executor.poll() == {} and executor._zygote is not None)


def test_the_end_of_a_killed_runner_is_returned(executor, make_server):
    server = make_server("note(os.getppid()); time.sleep(60)")
    executor.submit(ticket(server))
    os.kill(read_note(server), signal.SIGKILL)
    assert ended(executor) == -signal.SIGKILL


def test_running_attempts_continue_after_closing(executor, make_server):
    server = make_server("note(os.getppid()); time.sleep(0.5); finish()")
    executor.submit(ticket(server))
    runner = read_note(server)
    executor.poll()
    executor.close()
    assert zygotes() == []
    assert alive(runner)
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


def test_when_the_scheduler_is_killed_only_the_zygote_exits(make_server, scratch):
    server = make_server("note(os.getppid()); time.sleep(1.0); finish()")
    command = [sys.executable, "-c", PARENT, str(scratch), server.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        parent.stdin.write(TOKEN + "\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "started\n"
        working = read_note(server)
        assert runners(parent.pid) == [working]
        (zygote,) = zygotes(parent.pid)
        parent.kill()
        parent.wait()
        wait_for(lambda: not alive(zygote))
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
    assert runners() == zygotes() == []
    # Each server listens on one socket and has one to wake it.
    assert len(os.listdir("/proc/self/fd")) - before <= 4
