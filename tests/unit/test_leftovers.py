"""What killed runners leave: it is found by folder, session and environment, killed and deleted; nothing else is."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlapi import scratch as folders
from mlapi.execution import leftovers
from mlapi.execution.workspace import Workspace
from tests.processes import alive, process, wait_for
from tests.unit.test_runner import server, start

__all__ = ["server", "start"]  # fixtures

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")

WAYS = """
ways = [
    {},
    {"start_new_session": True},
    {"env": {}},
    {"start_new_session": True, "env": {}},
    {"start_new_session": True, "cwd": "/"},
]
sleep = ["sleep", "300"]
note([subprocess.Popen(sleep, **way).pid for way in ways] + [os.getpid()])
time.sleep(300)
"""
"""Every way in which a child of a function may leave it, but in one trait."""


@pytest.fixture
def spawned():
    """Start processes, and kill them at the end of the test."""
    started = []

    def spawn(*command, **options):
        started.append(subprocess.Popen(command, **options))
        return started[-1]

    yield spawn
    for each in started:
        each.kill()
        each.wait()


def left(pids):
    return [pid for pid in pids if alive(pid)]


def killed_runner(start):
    """Kill a runner with SIGKILL; returns it and the children of its function, which live on."""
    runner = start(WAYS)
    *children, function = runner.read_note()
    runner.process.kill()
    runner.process.wait()
    wait_for(lambda: not alive(function))
    assert left(children) == children
    return runner, children


def test_the_next_attempt_on_the_machine_kills_what_a_killed_runner_left(server, start):
    runner, children = killed_runner(start)
    runner.note.unlink()
    # Dead processes remain as zombies until they are reaped.
    following = start(f"""
stats = [f"/proc/{{pid}}/stat" for pid in {children}]
note([stat for stat in stats if os.path.exists(stat) and ") Z" not in open(stat).read()])
finish()
""")
    following.process.wait(20)
    assert [report["status"] for report in server.reports] == ["FINISHED"]
    # Before its function started.
    assert following.read_note() == []
    assert left(children) == []
    assert list(runner.scratch.iterdir()) == []


def test_what_an_attempt_left_is_killed_by_its_id(start):
    runner, children = killed_runner(start)
    (folder,) = runner.scratch.iterdir()
    assert folder.name.startswith("attempt-7-")
    assert leftovers.runner(runner.scratch, 7) is None
    assert leftovers.kill(runner.scratch, 77) is True
    assert left(children) == children
    assert leftovers.kill(runner.scratch, 7) is True
    assert left(children) == []
    assert list(runner.scratch.iterdir()) == []
    assert leftovers.kill(runner.scratch, 7) is True


@pytest.mark.parametrize("suspended", [False, True])
def test_a_living_runner_is_killed_with_all_it_has_started(server, start, suspended):
    runner = start(WAYS)
    pids = runner.read_note()
    if suspended:
        os.kill(runner.process.pid, signal.SIGSTOP)
    assert leftovers.runner(runner.scratch, 7) == runner.process.pid
    assert leftovers.kill(runner.scratch, 7) is True
    assert runner.process.wait(10) == -signal.SIGKILL
    assert left(pids) == []
    assert list(runner.scratch.iterdir()) == []
    assert server.reports == []


def test_a_sweep_spares_living_attempts_and_everything_else(start, spawned, tmp_path):
    runner = start(WAYS)
    pids = runner.read_note()
    with Workspace(str(runner.scratch), "8") as mine:
        assert leftovers.sweep(runner.scratch) is True
        assert os.path.isdir(mine.output)
    assert left(pids) == pids
    # A shell of the operator, elsewhere in the scratch folder.
    other = spawned("sleep", "300", cwd=runner.scratch, env={"PLACE": str(runner.scratch)})
    runner.process.kill()
    runner.process.wait()
    (runner.scratch / "module-left" / "deep").mkdir(parents=True)
    (runner.scratch / "other").mkdir()
    folder, lock = folders.create(str(runner.scratch), folders.MODULE)
    assert leftovers.sweep(runner.scratch) is True
    assert left(pids) == []
    assert other.poll() is None
    assert {path.name for path in runner.scratch.iterdir()} == {"other", os.path.basename(folder)}
    os.close(lock)
    assert leftovers.sweep(tmp_path / "absent") is True


def test_processes_that_are_started_while_others_are_killed_are_killed_too(start):
    runner = start("""
code = "import os, time\\nfor _ in range(400):\\n    os.fork() or time.sleep(300)\\n    time.sleep(0.005)"
subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
note(1)
time.sleep(300)
""")
    runner.read_note()
    runner.process.kill()
    runner.process.wait()
    (folder,) = runner.scratch.iterdir()
    assert leftovers.kill(runner.scratch, 7) is True
    assert [pid for pid, _ in leftovers._belonging(str(folder))] == []


@pytest.mark.parametrize("name", [leftovers.RUNNER, leftovers.FUNCTION])
def test_a_process_that_has_got_a_recorded_id_later_is_spared(tmp_path, spawned, name):
    other = spawned("sleep", "300", start_new_session=True)
    folder = tmp_path / "attempt-7-0"
    folder.mkdir()
    wait_for(lambda: "sleep" in process(other.pid).command)
    leftovers.record(str(folder), name, other.pid)
    path = folder / name
    pid, started = path.read_text().split()
    path.write_text(f"{pid} {int(started) - 1}")
    assert leftovers.kill(tmp_path, 7) is True
    assert other.poll() is None
    # With its own start, it is the recorded one.
    folder.mkdir()
    leftovers.record(str(folder), name, other.pid)
    assert leftovers.kill(tmp_path, 7) is True
    assert other.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize("text", ["", "nonsense", "1", "-1 x", "999999999999999999999 1", "\xff"])
def test_a_broken_record_is_ignored(tmp_path, text):
    folder = tmp_path / "attempt-7-0"
    folder.mkdir()
    for name in (leftovers.RUNNER, leftovers.FUNCTION):
        (folder / name).write_bytes(text.encode("latin-1"))
    assert leftovers.runner(tmp_path, 7) is None
    assert leftovers.kill(tmp_path, 7) is True
    assert list(Path(tmp_path).iterdir()) == []
