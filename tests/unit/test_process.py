"""The process of a function, used by itself."""

import os
import select
import signal
import subprocess
import sys
import time

import pytest

from mlapi.execution.process import CannotStart, Child
from tests.processes import alive, wait_for

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def start(tmp_path):
    children = []

    def start(code):
        children.append(Child([sys.executable, "-c", code], str(tmp_path), ENVIRONMENT))
        return children[-1]

    yield start
    for child in children:
        child.close()


def read_all(child):
    """Return everything the child prints until its pipe ends."""
    text = b""
    while (piece := child.read()) != b"":
        text += piece or b""
        time.sleep(0 if piece else 0.005)
    return text.decode()


def test_stdout_and_stderr_share_one_pipe(start):
    child = start("import sys; print('out', flush=True); print('err', file=sys.stderr)")
    assert read_all(child) == "out\nerr\n"
    wait_for(child.exited)
    assert child.reap() == 0


def test_reading_never_waits(start):
    child = start("import time; time.sleep(60)")
    assert child.read() is None
    assert not child.exited()


def test_nothing_else_is_inherited(start, tmp_path, monkeypatch):
    monkeypatch.setenv("PASSWORD", "hunter2")
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    child = start(
        "import os, resource; print(sorted(os.listdir('/proc/self/fd')), sorted(os.environ), os.getcwd(),"
        "oct(os.umask(0)), os.getsid(0) == os.getpgrp() == os.getpid(), os.path.realpath('/proc/self/fd/0'),"
        "resource.getrlimit(resource.RLIMIT_CORE))"
    )
    os.close(reader)
    os.close(writer)
    output = read_all(child).replace("'LC_CTYPE', ", "")
    assert output == f"['0', '1', '2', '3'] ['PATH'] {tmp_path} 0o77 True /dev/null (0, 0)\n"


def test_the_exit_status_is_returned(start):
    child = start("raise SystemExit(7)")
    wait_for(child.exited)
    assert child.reap() == 7
    assert child.exited()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["./absent"], "No such file or directory"),
        (["/etc/passwd"], "Permission denied"),
        (["a\0b"], "embedded null byte"),
    ],
)
def test_a_command_that_cannot_be_started_is_an_error(tmp_path, command, words):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(CannotStart) as caught:
        Child(command, str(tmp_path), ENVIRONMENT)
    assert str(caught.value) == f"The command {command[0]!r} cannot be started: {words}."
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_child_has_a_grace_period_to_exit(start):
    child = start(
        "import signal, time\n"
        "def end(*_): time.sleep(0.1); print('tidied'); raise SystemExit(5)\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True); time.sleep(60)"
    )
    wait_for(child.read)
    child.terminate_group()
    wait_for(child.exited)
    assert child.reap() == 5
    assert read_all(child) == "tidied\n"


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace_period(start):
    child = start(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    )
    wait_for(child.read)
    child.terminate_group()
    began = time.monotonic()
    while not child.exited():
        child.terminate_group()
        time.sleep(0.01)
    assert time.monotonic() - began > 0.4
    assert child.reap() == -signal.SIGKILL


FORKS = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid, flush=True)
"""


def test_the_rest_of_the_group_dies_with_the_child(start):
    child = start(FORKS)
    wait_for(child.exited)
    left = int(child.read())
    assert alive(left)
    assert child.reap() == 0
    wait_for(lambda: not alive(left))
    assert read_all(child) == ""


def test_the_whole_group_is_killed(start):
    child = start(FORKS + "import time; time.sleep(60)")
    wait_for(lambda: select.select([child.output], [], [], 0)[0])
    other = int(child.read())
    child.kill_group()
    wait_for(child.exited)
    wait_for(lambda: not alive(other))


def test_a_reaped_child_is_not_signalled(start, monkeypatch):
    child = start("pass")
    wait_for(child.exited)
    child.reap()
    sent = []
    monkeypatch.setattr(os, "killpg", lambda *what: sent.append(what))
    child.kill_group()
    child.terminate_group()
    child.reap()
    assert sent == []


def test_the_end_is_detected_without_pidfd_and_waitid(start, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    monkeypatch.delattr(os, "waitid")
    child = start("raise SystemExit(2)")
    assert child.pidfd is None
    wait_for(child.exited)
    assert child.reap() == 2


def test_a_child_dies_with_the_process_that_started_it(tmp_path):
    code = (
        "import sys, time; from mlapi.execution.process import Child; "
        f"child = Child([sys.executable, '-c', 'import time; time.sleep(60)'], {str(tmp_path)!r}, {{}}); "
        "print(child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
        wait_for(lambda: not alive(pid))


def test_a_guarded_process_is_not_readable_and_dumps_no_core():
    code = (
        "import ctypes, os, resource; from mlapi.execution.process import guard_self; guard_self(); "
        "heir = ctypes.c_int(); ctypes.CDLL(None).prctl(37, ctypes.byref(heir)); "
        "print(ctypes.CDLL(None).prctl(3), heir.value, resource.getrlimit(resource.RLIMIT_CORE), os.umask(0))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert output == f"0 1 (0, 0) {0o077}\n"


def test_strays_of_every_generation_are_killed():
    # Each of the three leaves its group and loses its parent; each starts the next before it does.
    code = """
import os, sys, time
from mlapi.execution.process import guard_self, kill_strays
guard_self()
reader, writer = os.pipe()
if os.fork() == 0:
    for _ in range(3):
        os.setsid()
        if os.fork():
            os.write(writer, b"%d\\n" % os.getpid())
            time.sleep(60)
    os.write(writer, b"%d\\n" % os.getpid())
    time.sleep(60)
output = b""
while output.count(b"\\n") < 4:
    output += os.read(reader, 100)
kill_strays()
print(output.decode())
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("none")
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    *pids, last = output.stdout.split()
    assert last == "none", output.stderr
    assert len(pids) == 4
    assert not any(alive(int(pid)) for pid in pids)
