"""The runner as the program it is, against a small server that keeps to the protocol."""

import hashlib
import io
import json
import os
import pkgutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import mlapi.execution
from mlapi.execution.log import INTERVAL

TOKEN = "a-token-of-one-attempt-that-nobody-else-may-see"

PRELUDE = """
import json, os, signal, subprocess, sys, time
job = os.environ["MLAPI_JOB_DIR"]
given = json.load(open(f"{job}/input/input.json"))
options = given["options"]
def leave(files=(), **more):
    for name in files:
        open(f"{job}/output/{name}", "a").close()
    said = {"name": given["name"], "files": list(files), "files_created": list(files), "files_modified": []}
    json.dump(said | more, open(f"{job}/output/output.json", "w"))
def tell(value):
    with open(options["note"] + ".new", "w") as note:
        json.dump(value, note)
    os.rename(options["note"] + ".new", options["note"])
"""


def packed(main: str) -> bytes:
    """The archive of a module that runs this code."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, text in (("mlapi.yaml", "name: sample\n"), ("main.py", PRELUDE + main)):
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return made.getvalue()


class Server(ThreadingHTTPServer):
    """One attempt, kept in memory; `fault` may break any call."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/api/v1/attempts/7"
        self.archive, self.version = b"", None
        self.inputs, self.contents = [], {}
        self.settings = {"timeout": 20, "heartbeat": 0.1, "lease": 5.0, "log_limit": 2**20}
        self.command, self.arguments = ["python", "main.py"], {}
        self.log, self.outputs, self.reports, self.calls = b"", {}, [], []
        self.cancel, self.over, self.last_beat = False, False, 0.0
        self.fault = lambda method, path: None
        self.lock = threading.Lock()

    def add_input(self, name, content, **tags):
        number = len(self.inputs) + 1
        sha256 = hashlib.sha256(content).hexdigest()
        self.contents[number] = content
        promised = {"number": number, "name": name, "tags": tags, "sha256": sha256, "size": len(content)}
        self.inputs.append(promised | {"content": f"{self.url}/inputs/{number}"})

    def document(self):
        version = self.version or hashlib.sha256(self.archive).hexdigest()
        module = {"name": "sample", "version": version, "size": len(self.archive)}
        return self.settings | {
            "url": self.url,
            "job": "http://127.0.0.1/job",
            "number": 1,
            "status": "RUNNING",
            "function": "do_it",
            "arguments": self.arguments,
            "command": self.command,
            "module": module | {"archive": f"{self.url}/module"},
            "inputs": self.inputs,
        }

    def calls_of(self, method, path):
        return [call for call in self.calls if call == (method, path)]

    def beats(self):
        return len(self.calls_of("POST", "/heartbeat"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def handle_any(self):
        path, _, query = self.path.removeprefix("/api/v1/attempts/7").partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server = self.server
        with server.lock:
            server.calls.append((self.command, path))
        fault = server.fault(self.command, path)
        if isinstance(fault, int):
            return self.answer(fault, {"title": "Broken", "detail": "It is broken."})
        if fault == "hang up":
            self.close_connection = True
            return None
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.answer(401, {"title": "Unauthorized"})
        if server.over and self.command != "GET":
            return self.answer(409, {"title": "Conflict", "detail": "The attempt is over."})
        with server.lock:
            status, said = getattr(self, f"{self.command.lower()}_it")(path, query, body)
        if fault == "lose the answer":
            self.close_connection = True
            return None
        return self.answer(status, said)

    do_GET = do_PUT = do_POST = handle_any  # noqa: N815 - http.server looks for these

    def get_it(self, path, query, body):
        if path == "":
            return 200, self.server.document()
        if path == "/module":
            return 200, self.server.archive
        return 200, self.server.contents[int(path.removeprefix("/inputs/"))]

    def put_it(self, path, query, body):
        offset = int(query.removeprefix("offset="))
        if offset != len(self.server.log):
            return 409, {"title": "Conflict", "offset": len(self.server.log)}
        self.server.log += body
        return 200, {"offset": len(self.server.log)}

    def post_it(self, path, query, body):
        server = self.server
        if path == "/heartbeat":
            server.last_beat = time.monotonic()
            return 200, {"cancel": server.cancel}
        if path == "/outputs":
            sha256 = hashlib.sha256(body).hexdigest()
            server.outputs[sha256] = body
            return 201, {"sha256": sha256, "size": len(body)}
        report = json.loads(body)
        for output in report.get("outputs", ()):
            if output["sha256"] not in server.outputs:
                return 422, {"title": "Invalid", "detail": "No such upload."}
        server.reports.append(report)
        server.over = True
        return 200, {}

    def answer(self, status, said):
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


class Runner:
    """A runner that was given its ticket."""

    def __init__(self, server, folder: Path, main: str | bytes, **settings):
        server.archive = main if isinstance(main, bytes) else packed(main)
        self.note = folder / "note"
        server.arguments = {"note": str(self.note), **server.arguments}
        server.settings |= settings
        self.server, self.scratch = server, folder / "scratch"
        ticket = {
            "attempt": server.url,
            "token": TOKEN,
            "scratch": str(self.scratch),
            "python": sys.executable,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlapi.execution.runner"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"SECRET_OF_THE_SERVICE": "hunter2"},
        )
        self.process.stdin.write(json.dumps(ticket) + "\n")
        self.process.stdin.close()

    def told(self):
        """What the function noted, once it has."""
        wait_for(self.note.exists)
        return json.loads(self.note.read_text())

    def end(self) -> int:
        """Wait for the runner's end; nothing of the attempt is left."""
        with self.process:
            code = self.process.wait(15)
            self.stderr = self.process.stderr.read()
        assert list(self.scratch.glob("*")) == []
        return code

    def report(self):
        assert self.end() == 0, self.stderr
        (report,) = self.server.reports
        return report


@pytest.fixture
def start(server, tmp_path):
    runners = []

    def start(main, **settings):
        runners.append(Runner(server, tmp_path, main, **settings))
        return runners[-1]

    yield start
    for runner in runners:
        with runner.process:
            runner.process.kill()


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_a_job_gets_what_mlsploit_modules_expect_and_hands_in_what_it_made(server, start):
    server.add_input("ä 文.txt", b"one", label="cat")
    server.add_input("b.bin", b"two")
    server.arguments = {"epsilon": 0.5}
    runner = start("""
tell(given | {"cwd": os.listdir(), "input": sorted(os.listdir(f"{job}/input"))})
os.link(f"{job}/input/b.bin", f"{job}/output/b.bin")
with open(f"{job}/output/ä 文.txt", "w") as changed:
    changed.write(open(f"{job}/input/ä 文.txt").read().upper())
open(f"{job}/output/neu €.txt", "w").write("new")
open(f"{job}/output/scrap", "w")
leave(["neu €.txt", "ä 文.txt", "b.bin", "scrap"], files_created=["neu €.txt"], files_modified=["ä 文.txt"],
      tags=[{"a": 1}, {}, {"c": "d"}, {}], metrics={"accuracy": 0.75, "deep": {"er": [1, None, True]}})
print("done, ß")
""")
    report = runner.report()
    told = runner.told()
    assert (told["name"], told["num_files"], told["files"]) == ("do_it", 2, ["ä 文.txt", "b.bin"])
    assert told["options"]["epsilon"] == 0.5
    assert told["tags"] == [{"label": "cat"}, {}]
    assert set(told["cwd"]) == {"main.py", "mlapi.yaml"}
    assert told["input"] == ["b.bin", "input.json", "ä 文.txt"]
    assert (report["status"], report["reason"]) == ("FINISHED", None)
    assert report["metrics"] == {"accuracy": 0.75, "deep": {"er": [1, None, True]}}
    found = [(each["name"], each["origin"], each["input"], each["tags"]) for each in report["outputs"]]
    assert found == [
        ("neu €.txt", "created", None, {"a": 1}),
        ("ä 文.txt", "modified", 1, {}),
        ("b.bin", "unchanged", 2, {"c": "d"}),
    ]
    assert [server.outputs[each["sha256"]] for each in report["outputs"]] == [b"new", b"ONE", b"two"]
    assert server.log.decode().splitlines() == [
        "done, ß",
        "[mlapi] Output 'scrap' ignored: neither created, modified nor an input.",
    ]


def test_a_function_sees_a_minimal_environment_and_no_token(server, start):
    runner = start("""
def read(path):
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="replace")
    except PermissionError:
        return ""  # what only root may read of the runner
runner = os.getppid()
tell({"env": dict(os.environ), "job": job, "cwd": os.getcwd(), "group": os.getpgrp() == os.getpid(),
      "session": os.getsid(0) == os.getpid(), "stdin": sys.stdin.read(), "umask": os.umask(0o077),
      "fds": sorted(os.listdir("/proc/self/fd")), "modes": oct(os.stat(job).st_mode & 0o777),
      "seen": [read(f"/proc/{pid}/{what}") for pid in ("self", runner) for what in ("environ", "cmdline")],
      "core": __import__("resource").getrlimit(4)})
leave()
""")
    assert runner.report()["status"] == "FINISHED"
    told = runner.told()
    # CPython adds LC_CTYPE itself where it takes the locale for the C one.
    told["env"].pop("LC_CTYPE", None)
    job = told["job"]
    assert told["env"] == {
        "PATH": f"{os.path.dirname(sys.executable)}:/usr/local/bin:/usr/bin:/bin",
        "HOME": job,
        "LANG": "C.UTF-8",
        "TMPDIR": f"{job}/tmp",
        "MPLCONFIGDIR": f"{job}/tmp/matplotlib",
        "MLAPI_JOB_DIR": job,
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    assert told["cwd"] == f"{os.path.dirname(job)}/module"
    assert (told["group"], told["session"], told["stdin"], told["umask"]) == (True, True, "", 0o077)
    assert told["modes"] == "0o700"
    assert told["core"] == [0, 0]
    # The fourth is the folder that lists them.
    assert told["fds"] == ["0", "1", "2", "3"]
    assert "mlapi.execution.runner" in told["seen"][3]
    assert TOKEN not in "".join(told["seen"])


@pytest.mark.parametrize(
    ("main", "reason"),
    [
        ("sys.exit(3)", "The function ended with exit status 3."),
        ("os.kill(os.getpid(), 9)", "The function was killed by signal 9 (SIGKILL)."),
        ("os.kill(os.getpid(), 40)", "The function was killed by signal 40."),
        ("pass", "The function left no output.json."),
        ("leave(); open(job + '/output/output.json', 'w').write('{')", "output.json is not JSON: "),
        (
            "leave(['x']); os.unlink(job + '/output/x')",
            "output.json names 'x', but the file is not in the output folder.",
        ),
        (
            "leave(['x']); os.unlink(job + '/output/x'); os.symlink('/etc/passwd', job + '/output/x')",
            "'x' in the output folder is not a readable file.",
        ),
        (
            "leave(files=[], files_created=[]); leave(['../../module/main.py'])",
            "Invalid file name '../../module/main.py' in output.json. A file name must not be a path.",
        ),
        (
            "import shutil; shutil.rmtree(job + '/output'); os.symlink('/etc', job + '/output')",
            "The function removed its output folder.",
        ),
        ("import shutil; shutil.rmtree(job); shutil.rmtree(os.getcwd())", "The function removed its output"),
    ],
)
def test_every_bad_end_has_a_reason_that_a_person_understands(server, start, main, reason):
    report = start(main).report()
    assert report["status"] == "FAILED"
    assert report["reason"].startswith(reason)
    assert not report.get("outputs")
    assert server.outputs == {}


def test_a_long_reason_is_cut(start):
    report = start("leave(['x'] , files_created=['y' * 200, 'z' * 100_000])").report()
    assert len(report["reason"]) <= 1000


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["./absent"], "The command './absent' cannot be started: No such file or directory."),
        (["main.py\0"], "The command 'main.py\\x00' cannot be started: embedded null byte."),
    ],
)
def test_a_command_that_cannot_be_started_fails_the_job(server, start, command, reason):
    server.command = command
    report = start("").report()
    assert (report["status"], report["reason"]) == ("FAILED", reason)


def test_a_function_over_its_time_limit_is_stopped_even_if_it_will_not(server, start):
    runner = start(
        "signal.signal(signal.SIGTERM, lambda *_: print('no', flush=True))\ntell(os.getpid())\n"
        "while True: time.sleep(1)",
        timeout=0.5,
    )
    pid = runner.told()
    report = runner.report()
    assert not alive(pid)
    assert report["status"] == "FAILED"
    assert report["reason"] == "The function was stopped after its time limit of 0.5 s."
    # It was asked before it was killed.
    assert server.log == b"no\n"


def test_a_cancelled_function_is_stopped_at_once(server, start):
    runner = start("print('begun')\ntell(os.getpid())\ntime.sleep(60)")
    pid = runner.told()
    server.cancel = True
    report = runner.report()
    assert not alive(pid)
    assert (report["status"], report["reason"]) == ("CANCELLED", "Cancelled while it ran.")
    assert server.log == b"begun\n"


def test_a_job_that_is_cancelled_before_its_function_starts_never_starts_it(server, start):
    server.cancel = True
    runner = start("tell(1)")
    assert runner.report()["status"] == "CANCELLED"
    assert not runner.note.exists()


DAEMON = """
child = subprocess.Popen([sys.executable, "-c", "import time, signal; signal.signal(15, signal.SIG_IGN); "
                          "time.sleep(60)"], start_new_session=%s)
tell(child.pid)
leave()
"""


@pytest.mark.parametrize("leaves_the_group", [False, True])
def test_what_a_function_leaves_running_is_killed(start, leaves_the_group):
    runner = start(DAEMON % leaves_the_group)
    assert runner.report()["status"] == "FINISHED"
    assert not alive(runner.told())


def test_a_closed_stdout_is_no_end(start):
    runner = start("os.close(1); os.close(2); time.sleep(0.5); tell('lived'); leave()")
    assert runner.report()["status"] == "FINISHED"
    assert runner.told() == "lived"


def test_a_flood_is_cut_at_the_limit_and_says_so(server, start):
    runner = start("for i in range(160): print(chr(97 + i % 26) * 65535)\ntime.sleep(0.5); leave()", log_limit=100_000)
    assert runner.report()["status"] == "FINISHED"
    assert len(server.log) <= 100_000
    text, last = server.log.decode().rstrip("\n").rsplit("\n", 1)
    dropped = 160 * 65536 - len(text)
    assert last == f"[mlapi] Log limit of 100000 bytes reached: {dropped} bytes dropped."
    assert text.startswith("a" * 65535 + "\n" + "b" * 20_000)
    assert len(server.log) > 99_980


def test_a_log_of_just_the_limit_is_whole(server, start):
    assert start("print('x' * 999)\nleave()", log_limit=1000).report()["status"] == "FINISHED"
    assert server.log == b"x" * 999 + b"\n"


def test_a_function_is_never_kept_waiting_by_a_server_that_takes_no_log(server, start):
    server.fault = lambda method, path: 503 if method == "PUT" and not server.note.exists() else None
    runner = start("sys.stdout.write('y' * 500_000); sys.stdout.flush()\ntell('written'); leave()")
    server.note = runner.note
    assert runner.told() == "written"
    assert runner.report()["status"] == "FINISHED"
    assert server.log == b"y" * 500_000


def test_the_log_is_sent_as_it_grows_and_not_in_crumbs(server, start):
    began = time.monotonic()
    runner = start(
        "for i in range(100): print(i); time.sleep(0.01)\n"
        "while not os.path.exists(options['note'] + '.seen'): time.sleep(0.01)\n"
        "leave()"
    )
    wait_for(lambda: server.log.endswith(b"\n99\n"))
    (runner.note.parent / "note.seen").touch()
    assert runner.report()["status"] == "FINISHED"
    assert len(server.calls_of("PUT", "/log")) <= (time.monotonic() - began) / INTERVAL + 2
    assert server.log == b"".join(b"%d\n" % number for number in range(100))


def test_an_answer_to_the_log_that_was_lost_doubles_nothing(server, start):
    lost = []

    def fault(method, path):
        if method == "PUT" and len(lost) < 2:
            lost.append(path)
            return "lose the answer"
        return None

    server.fault = fault
    runner = start("for i in range(20): print(i); time.sleep(0.05)\nleave()")
    assert runner.report()["status"] == "FINISHED"
    assert lost == ["/log", "/log"]
    assert server.log == b"".join(b"%d\n" % number for number in range(20))


def test_every_call_is_repeated_when_the_server_fails(server, start):
    server.add_input("a.txt", b"content")
    failed = {}

    def fault(method, path):
        failed[method, path] = failed.get((method, path), 0) + 1
        return {1: 500, 2: "hang up", 3: 503}.get(failed[method, path])

    server.fault = fault
    runner = start("print('hello')\nleave(['x'])")
    report = runner.report()
    assert report["status"] == "FINISHED"
    assert set(failed) == {
        ("GET", ""),
        ("GET", "/module"),
        ("GET", "/inputs/1"),
        ("POST", "/heartbeat"),
        ("PUT", "/log"),
        ("POST", "/outputs"),
        ("POST", "/report"),
    }
    assert min(failed.values()) >= 4
    assert server.log == b"hello\n"


def test_a_report_whose_answer_was_lost_is_made_once(server, start):
    server.fault = lambda method, path: "lose the answer" if path == "/report" else None
    runner = start("leave()")
    assert runner.end() == 3
    assert [report["status"] for report in server.reports] == ["FINISHED"]


def test_a_report_that_is_refused_becomes_a_failure(server, start):
    refused = []

    def fault(method, path):
        if path == "/report" and not refused:
            refused.append(path)
            return 422
        return None

    server.fault = fault
    report = start("leave()").report()
    assert report["status"] == "FAILED"
    assert report["reason"] == "The report was rejected: It is broken."


def test_an_output_that_is_refused_fails_the_job(server, start):
    server.fault = lambda method, path: 413 if path == "/outputs" else None
    report = start("leave(['big'])").report()
    assert (report["status"], report["reason"]) == (
        "FAILED",
        "Output 'big' was rejected: It is broken.",
    )


def test_heartbeats_go_on_while_outputs_are_uploaded(server, start):
    seen = []

    def fault(method, path):
        if path == "/outputs":
            before = server.beats()
            wait_for(lambda: server.beats() >= before + 4)
            seen.append(path)

    server.fault = fault
    assert start("leave(['x'])", lease=0.8).report()["status"] == "FINISHED"
    assert seen == ["/outputs"]


def test_damaged_downloads_are_named(server, start):
    server.add_input("a.txt", b"content")
    server.contents[1] = b"CONTENT"
    assert start("leave()").report()["reason"] == "Input 'a.txt' was damaged in transfer."


@pytest.mark.parametrize("content", [b"content and more", b"cont"])
def test_a_download_of_another_size_is_damaged(server, start, content):
    server.add_input("a.txt", b"content")
    server.contents[1] = content
    assert start("leave()").report()["reason"] == "Input 'a.txt' was damaged in transfer."


def test_a_damaged_module_is_not_run(server, start):
    server.version = "0" * 64
    runner = start("tell(1)")
    assert runner.report()["reason"] == "Module 'sample' was damaged in transfer."
    assert not runner.note.exists()


def test_a_module_that_is_no_archive_is_not_run(server, start):
    report = start(b"no archive" * 100).report()
    assert report["reason"].startswith("Module 'sample' cannot be unpacked: ")


def test_an_input_cannot_take_the_place_of_input_json(server, start):
    server.add_input("input.json", b"{}")
    report = start("leave()").report()
    assert report["reason"] == "Invalid input name 'input.json'. This file name is reserved."


def test_a_large_input_arrives_whole_after_a_broken_connection(server, start):
    content = os.urandom(3 * 2**20)
    server.add_input("large", content)
    handler_of, broken = Handler.answer, []

    def answer(self, status, said):
        if said is content and not broken:
            broken.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: 2**20])
            self.close_connection = True
            return
        handler_of(self, status, said)

    server.RequestHandlerClass = type("Breaking", (Handler,), {"answer": answer})
    runner = start("os.link(f'{job}/input/large', f'{job}/output/large')\nleave(['large'], files_created=[])")
    report = runner.report()
    assert broken
    assert report["status"] == "FINISHED"
    assert server.outputs[report["outputs"][0]["sha256"]] == content


SLEEPER = "print('begun')\ntell(os.getpid())\ntime.sleep(60)"


@pytest.mark.parametrize("status", [401, 403, 404, 409])
def test_an_attempt_that_is_over_is_left_without_a_word(server, start, status):
    runner = start(SLEEPER)
    pid = runner.told()
    server.fault = lambda method, path: status if path == "/heartbeat" else None
    assert runner.end() == 3
    assert not alive(pid)
    assert server.reports == []


@pytest.mark.parametrize("trouble", [500, "hang up"])
def test_a_function_is_dead_before_the_lease_that_cannot_be_renewed_ends(server, start, trouble):
    runner = start(SLEEPER, lease=3.2)
    pid = runner.told()
    wait_for(lambda: server.beats() > 2)
    assert alive(pid)
    server.fault = lambda method, path: trouble
    beats = server.beats()
    wait_for(lambda: server.beats() > beats + 1)
    # Not before it must: a server may come back.
    assert alive(pid)
    wait_for(lambda: not alive(pid))
    assert time.monotonic() < server.last_beat + 3.2
    assert runner.end() == 3
    assert server.reports == []


def test_a_function_goes_on_when_the_server_comes_back_in_time(server, start):
    runner = start("tell(1)\nwhile not os.path.exists(options['note'] + '.go'): time.sleep(0.01)\nleave()", lease=10.0)
    runner.told()
    server.fault = lambda method, path: 503
    beats = server.beats()
    wait_for(lambda: server.beats() > beats + 1)
    server.fault = lambda method, path: None
    beats = server.beats()
    wait_for(lambda: server.beats() > beats + 1)
    (runner.note.parent / "note.go").touch()
    assert runner.report()["status"] == "FINISHED"


def test_a_runner_that_slept_through_its_lease_does_nothing_more(server, start):
    runner = start(SLEEPER, lease=1.0)
    pid = runner.told()
    os.kill(runner.process.pid, signal.SIGSTOP)
    time.sleep(1.5)
    server.over = True
    os.kill(runner.process.pid, signal.SIGCONT)
    assert runner.end() == 3
    assert not alive(pid)
    assert server.reports == []


def test_an_attempt_that_is_over_before_it_began_starts_nothing(server, start):
    server.over = True
    runner = start("tell(1)")
    assert runner.end() == 3
    assert not runner.note.exists()


def test_a_runner_that_is_told_to_stop_leaves_without_a_report(server, start):
    runner = start(SLEEPER)
    pid = runner.told()
    runner.process.terminate()
    assert runner.end() == 3
    assert not alive(pid)
    assert server.reports == []


def test_a_function_dies_with_its_runner_and_the_next_runner_sweeps(server, start):
    runner = start(SLEEPER)
    pid = runner.told()
    runner.process.kill()
    wait_for(lambda: not alive(pid))
    (left,) = runner.scratch.iterdir()
    (runner.scratch / "not-ours").mkdir()
    runner.note.unlink()
    # The report of the last one ends the attempt, which the neighbour is not to hear: it says nothing.
    neighbour = start("tell(os.getpid()); time.sleep(60)", heartbeat=30, lease=60)
    neighbour.told()
    held = set(runner.scratch.iterdir()) - {left, runner.scratch / "not-ours"}
    last = start("leave()")
    last.process.wait(10)
    assert set(runner.scratch.iterdir()) == held | {runner.scratch / "not-ours"}
    assert alive(neighbour.told())


def test_locked_and_deep_folders_of_a_function_are_removed(start):
    runner = start("""
for i in range(600):
    os.mkdir("deep-deep-deep"); os.chdir("deep-deep-deep")
open("file", "w")
os.chdir(job)
os.mkdir("locked"); open("locked/file", "w"); os.symlink(os.path.dirname(options["note"]), "locked/link")
os.chmod("locked", 0o000); os.chmod("output", 0o700)
leave()
""")
    assert runner.report()["status"] == "FINISHED"
    assert runner.note.parent.exists()


def test_a_failure_of_the_runner_itself_is_reported(server, start):
    runner = start("leave()", timeout="soon")
    assert runner.end() == 1
    (report,) = server.reports
    assert report["status"] == "FAILED"
    assert report["reason"].startswith("The runner failed: TypeError: ")
    assert "Traceback" not in report["reason"]


@pytest.mark.parametrize("line", ["nonsense\n", "[]\n", '{"attempt": "file:///etc/passwd"}\n'])
def test_what_is_no_ticket_is_refused(line):
    ran = subprocess.run([sys.executable, "-m", "mlapi.execution.runner"], input=line, capture_output=True, text=True)
    assert ran.returncode == 2
    assert "one line of JSON" in ran.stderr


def test_a_runner_whose_ticket_never_comes_leaves(tmp_path):
    ran = subprocess.run([sys.executable, "-m", "mlapi.execution.runner"], input="", text=True)
    assert ran.returncode == 0


def loaded_by(*modules):
    """The modules that a new interpreter loads to import these."""
    # The modules of the environment's own start-up files do not count.
    code = f"import sys; old = set(sys.modules); import {', '.join(modules)}; print(*set(sys.modules) - old)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(loaded.stdout.split())


def test_importing_the_runner_loads_no_slow_module():
    slow = {"urllib.request", "logging", "tempfile", "tarfile", "zipfile", "asyncio", "shutil", "dataclasses"}
    loaded = loaded_by("mlapi.execution.runner")
    assert "http.client" in loaded
    assert slow & loaded == set()


RUNNER = sorted(
    module.name
    for module in pkgutil.walk_packages(mlapi.execution.__path__, "mlapi.execution.")
    if module.name != "mlapi.execution.scheduler"
)


def test_runner_and_archives_need_the_standard_library_alone():
    loaded = loaded_by(*RUNNER, "mlapi.archives.canonical", "mlapi.archives.readers")
    assert "mlapi.execution.runner" in loaded
    assert {name.partition(".")[0] for name in loaded} <= {"mlapi", *sys.stdlib_module_names}
    assert loaded & {"mlapi.archives.manifests", "mlapi.models", "mlapi.schemas"} == set()
