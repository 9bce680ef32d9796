"""The runner as a process, against a small server that implements the attempt contract."""

import hashlib
import io
import json
import os
import pkgutil
import resource
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
from mlapi.execution.bounds import Bounds
from mlapi.execution.client import Client
from mlapi.execution.lease import Lease
from mlapi.execution.log import INTERVAL, Log
from mlapi.execution.series import Series
from tests.processes import alive, wait_for

TOKEN = "a-token-of-one-attempt-that-nobody-else-may-see"

PRELUDE = """
import json, os, signal, subprocess, sys, time
job = os.environ["MLAPI_JOB_DIR"]
request = json.load(open(f"{job}/input/input.json"))
options = request["options"]
def finish(files=(), **more):
    for name in files:
        open(f"{job}/output/{name}", "a").close()
    document = {"name": request["name"], "files": list(files), "files_created": list(files), "files_modified": []}
    json.dump(document | more, open(f"{job}/output/output.json", "w"))
def note(value):
    with open(options["note"] + ".new", "w") as file:
        json.dump(value, file)
    os.rename(options["note"] + ".new", options["note"])
"""


def pack_module(main: str) -> bytes:
    """Return the archive of a module that runs this code."""
    archive_file = io.BytesIO()
    with tarfile.open(fileobj=archive_file, mode="w") as archive:
        for name, text in (("mlapi.yaml", "name: sample\n"), ("main.py", PRELUDE + main)):
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return archive_file.getvalue()


class Server(ThreadingHTTPServer):
    """A server of one attempt, in memory. `fault` may break any request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/api/v1/attempts/7"
        self.archive, self.version = b"", None
        self.inputs, self.contents, self.page = [], {}, 1000
        self.settings = {"timeout": 20, "heartbeat": 0.1, "lease": 5.0, "log_limit": 2**20}
        self.command, self.arguments = ["python", "main.py"], {}
        self.points = []
        self.log, self.outputs, self.reports, self.calls = b"", {}, [], []
        self.cancel, self.over, self.last_beat = False, False, 0.0
        self.body = b""
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
            "inputs": self.inputs[: self.page],
            "more_inputs": self.after(self.page),
        }

    def after(self, number):
        return f"{self.url}/inputs?after={number}" if number < len(self.inputs) else None

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
            server.body = body
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
            status, document = getattr(self, f"{self.command.lower()}_it")(path, query, body)
        if fault == "lose the answer":
            self.close_connection = True
            return None
        return self.answer(status, document)

    do_GET = do_PUT = do_POST = handle_any  # noqa: N815 - http.server looks for these

    def get_it(self, path, query, body):
        if path == "":
            return 200, self.server.document()
        if path == "/module":
            return 200, self.server.archive
        if path == "/inputs":
            after = int(query.removeprefix("after="))
            end = after + self.server.page
            return 200, {"items": self.server.inputs[after:end], "next": self.server.after(end)}
        return 200, self.server.contents[int(path.removeprefix("/inputs/"))]

    def put_it(self, path, query, body):
        offset = int(query.removeprefix("offset="))
        if path == "/metrics":
            points = self.server.points
            if offset != len(points):
                return 409, {"title": "Conflict", "offset": len(points)}
            points += json.loads(body)["points"]
            return 200, {"offset": len(points)}
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

    def answer(self, status, document):
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
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
    """A runner with a ticket."""

    def __init__(self, server, folder: Path, main: str | bytes, python=sys.executable, file_size=None, **settings):
        server.archive = main if isinstance(main, bytes) else pack_module(main)
        self.note = folder / "note"
        server.arguments = {"note": str(self.note), **server.arguments}
        server.settings |= settings
        self.server, self.scratch = server, folder / "scratch"
        ticket = {
            "attempt": server.url,
            "token": TOKEN,
            "scratch": str(self.scratch),
            "python": python,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlapi.execution.runner"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"SECRET_OF_THE_SERVICE": "hunter2"},
        )
        if file_size is not None:
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (file_size, file_size))
        self.process.stdin.write(json.dumps(ticket) + "\n")
        self.process.stdin.close()

    def read_note(self):
        """Wait for the note of the function and return it."""
        wait_for(self.note.exists)
        return json.loads(self.note.read_text())

    def end(self) -> int:
        """Wait for the end of the runner, and check that it left no files."""
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


def test_a_job_reads_mlsploit_inputs_and_delivers_its_outputs(server, start):
    server.add_input("ä 文.txt", b"one", label="cat")
    server.add_input("b.bin", b"two")
    server.arguments = {"epsilon": 0.5}
    runner = start("""
note(request | {"cwd": os.listdir(), "input": sorted(os.listdir(f"{job}/input"))})
os.link(f"{job}/input/b.bin", f"{job}/output/b.bin")
with open(f"{job}/output/ä 文.txt", "w") as changed:
    changed.write(open(f"{job}/input/ä 文.txt").read().upper())
open(f"{job}/output/neu €.txt", "w").write("new")
open(f"{job}/output/scrap", "w")
finish(["neu €.txt", "ä 文.txt", "b.bin", "scrap"], files_created=["neu €.txt"], files_modified=["ä 文.txt"],
      tags=[{"a": 1}, {}, {"c": "d"}, {}], metrics={"accuracy": 0.75, "deep": {"er": [1, None, True]}})
print("done, ß")
""")
    report = runner.report()
    note = runner.read_note()
    assert (note["name"], note["num_files"], note["files"]) == ("do_it", 2, ["ä 文.txt", "b.bin"])
    assert note["options"]["epsilon"] == 0.5
    assert note["tags"] == [{"label": "cat"}, {}]
    assert set(note["cwd"]) == {"main.py", "mlapi.yaml"}
    assert note["input"] == ["b.bin", "input.json", "ä 文.txt"]
    assert (report["status"], report["reason"]) == ("FINISHED", None)
    assert report["metrics"] == {"accuracy": 0.75, "deep": {"er": [1, None, True]}}
    found = [(output["name"], output["origin"], output["input"], output["tags"]) for output in report["outputs"]]
    assert found == [
        ("neu €.txt", "created", None, {"a": 1}),
        ("ä 文.txt", "modified", 1, {}),
        ("b.bin", "unchanged", 2, {"c": "d"}),
    ]
    assert [server.outputs[output["sha256"]] for output in report["outputs"]] == [b"new", b"ONE", b"two"]
    assert server.log.decode().splitlines() == [
        "done, ß",
        "[mlapi] Output 'scrap' ignored: neither created, modified nor an input.",
    ]


def test_a_job_reads_the_inputs_of_all_pages(server, start):
    for number in range(5):
        server.add_input(f"{number}", b"%d" % number)
    server.page = 2
    runner = start('note([open(f"{job}/input/{name}").read() for name in request["files"]])\nfinish()')
    assert runner.report()["status"] == "FINISHED"
    assert runner.read_note() == ["0", "1", "2", "3", "4"]


def test_the_tags_that_an_output_inherits_count(server, start):
    server.add_input("a", b"one", label="x" * 60)
    link = 'os.link(f"{job}/input/a", f"{job}/output/a")\nfinish(["a"], files_created=[], tags=[{"own": "x" * 40}])'
    report = start(link, tags_limit=100).report()
    assert (report["status"], report["reason"]) == ("FAILED", "The tags of output 'a' are larger than 100 bytes.")


def test_a_function_sees_a_minimal_environment_and_no_token(server, start):
    runner = start("""
def read(path):
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="replace")
    except PermissionError:
        return ""  # what only root may read of the runner
runner = os.getppid()
note({"env": dict(os.environ), "job": job, "cwd": os.getcwd(), "group": os.getpgrp() == os.getpid(),
      "session": os.getsid(0) == os.getpid(), "stdin": sys.stdin.read(), "umask": os.umask(0o077),
      "fds": sorted(os.listdir("/proc/self/fd")), "modes": oct(os.stat(job).st_mode & 0o777),
      "seen": [read(f"/proc/{pid}/{what}") for pid in ("self", runner) for what in ("environ", "cmdline")],
      "core": __import__("resource").getrlimit(4)})
finish()
""")
    assert runner.report()["status"] == "FINISHED"
    note = runner.read_note()
    # CPython adds LC_CTYPE itself where it takes the locale for the C one.
    note["env"].pop("LC_CTYPE", None)
    job = note["job"]
    assert note["env"] == {
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
    assert note["cwd"] == f"{os.path.dirname(job)}/module"
    assert (note["group"], note["session"], note["stdin"], note["umask"]) == (True, True, "", 0o077)
    assert note["modes"] == "0o700"
    assert note["core"] == [0, 0]
    # The fourth is the folder that lists them.
    assert note["fds"] == ["0", "1", "2", "3"]
    assert "mlapi.execution.runner" in note["seen"][3]
    assert TOKEN not in "".join(note["seen"])


@pytest.mark.parametrize(
    ("main", "reason"),
    [
        ("sys.exit(3)", "The function ended with exit status 3."),
        ("os.kill(os.getpid(), 9)", "The function was killed by signal 9 (SIGKILL)."),
        ("os.kill(os.getpid(), 40)", "The function was killed by signal 40."),
        ("pass", "The function left no output.json."),
        ("finish(); open(job + '/output/output.json', 'w').write('{')", "output.json is not JSON: "),
        (
            "finish(['x']); os.unlink(job + '/output/x')",
            "output.json names 'x', but the file is not in the output folder.",
        ),
        (
            "finish(['x']); os.unlink(job + '/output/x'); os.symlink('/etc/passwd', job + '/output/x')",
            "'x' in the output folder is not a readable file.",
        ),
        (
            "finish(files=[], files_created=[]); finish(['../../module/main.py'])",
            "Invalid file name '../../module/main.py' in output.json. A file name must not be a path.",
        ),
        (
            "import shutil; shutil.rmtree(job + '/output'); os.symlink('/etc', job + '/output')",
            "The function removed its output folder.",
        ),
        ("import shutil; shutil.rmtree(job); shutil.rmtree(os.getcwd())", "The function removed its output"),
    ],
)
def test_every_failure_has_a_clear_reason(server, start, main, reason):
    report = start(main).report()
    assert report["status"] == "FAILED"
    assert report["reason"].startswith(reason)
    assert not report.get("outputs")
    assert server.outputs == {}


@pytest.mark.parametrize(
    ("main", "end"),
    [
        ("print(*range(100), sep='\\n')", "95\n96\n97\n98\n99"),
        ("print('a', end='\\n\\n\\n'); print('  b')", "a\n  b"),
        ("print('x' * 100_000, 'end')", f"…{'x' * 495} end"),
        ("print('\\x1b[1;31mE\\x1b[0m\\tr\\x00r\\x07\\u202eor')", "E rror"),
        ("sys.stdout.buffer.write(b'\\xff' * 3)", "\ufffd" * 3),
        ("print('50 %', end='\\r'); print('100 %')", "50 %\n100 %"),
        ("raise ValueError('no such layer')", "ValueError: no such layer"),
    ],
)
def test_the_reason_of_a_failure_has_the_last_lines_of_the_log(start, main, end):
    reason = start(f"{main}\nsys.stdout.flush()\nsys.exit(1)").report()["reason"]
    begin, _, lines = reason.partition(" The log ends with:\n")
    assert begin == "The function ended with exit status 1."
    assert lines == end or lines.endswith(f"\n{end}")
    assert len(lines.splitlines()) <= 5
    assert len(lines) <= 500


def test_a_long_reason_is_truncated(start):
    report = start("finish(['x'] , files_created=['y' * 200, 'z' * 100_000])").report()
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


def test_a_function_that_ignores_its_time_limit_is_killed(server, start):
    runner = start(
        "signal.signal(signal.SIGTERM, lambda *_: print('no', flush=True))\nnote(os.getpid())\n"
        "while True: time.sleep(1)",
        timeout=0.5,
    )
    pid = runner.read_note()
    report = runner.report()
    assert not alive(pid)
    assert report["status"] == "FAILED"
    assert report["reason"] == "The function was stopped after its time limit of 0.5 s. The log ends with:\nno"
    assert (report["failure"], report["exit_code"]) == ("timeout", 128 + signal.SIGKILL)
    # It was asked before it was killed.
    assert server.log == b"no\n"


def test_a_cancelled_function_is_stopped(server, start):
    runner = start("print('begun')\nnote(os.getpid())\ntime.sleep(60)")
    pid = runner.read_note()
    server.cancel = True
    report = runner.report()
    assert not alive(pid)
    assert (report["status"], report["reason"]) == ("CANCELLED", "Cancelled while it ran.")
    assert server.log == b"begun\n"


def test_a_job_cancelled_early_never_starts_its_function(server, start):
    server.cancel = True
    runner = start("note(1)")
    assert runner.report()["status"] == "CANCELLED"
    assert not runner.note.exists()


DAEMON = """
child = subprocess.Popen([sys.executable, "-c", "import time, signal; signal.signal(15, signal.SIG_IGN); "
                          "time.sleep(60)"], start_new_session=%s)
note(child.pid)
finish()
"""


@pytest.mark.parametrize("leaves_the_group", [False, True])
def test_processes_that_a_function_started_are_killed(start, leaves_the_group):
    runner = start(DAEMON % leaves_the_group)
    assert runner.report()["status"] == "FINISHED"
    assert not alive(runner.read_note())


def test_a_closed_stdout_does_not_end_the_function(start):
    runner = start("os.close(1); os.close(2); time.sleep(0.5); note('lived'); finish()")
    assert runner.report()["status"] == "FINISHED"
    assert runner.read_note() == "lived"


def test_a_log_over_the_limit_is_truncated_with_a_notice(server, start):
    runner = start("for i in range(160): print(chr(97 + i % 26) * 65535)\ntime.sleep(0.5); finish()", log_limit=100_000)
    assert runner.report()["status"] == "FINISHED"
    assert len(server.log) <= 100_000
    text, last = server.log.decode().rstrip("\n").rsplit("\n", 1)
    dropped = 160 * 65536 - len(text)
    assert last == f"[mlapi] Log limit of 100000 bytes reached: {dropped} bytes dropped."
    assert text.startswith("a" * 65535 + "\n" + "b" * 20_000)
    assert len(server.log) > 99_980


def test_a_log_at_the_limit_is_complete(server, start):
    assert start("print('x' * 999)\nfinish()", log_limit=1000).report()["status"] == "FINISHED"
    assert server.log == b"x" * 999 + b"\n"


def test_a_function_never_waits_for_its_log_to_be_sent(server, start):
    server.fault = lambda method, path: 503 if method == "PUT" and not server.note.exists() else None
    runner = start("sys.stdout.write('y' * 500_000); sys.stdout.flush()\nnote('written'); finish()")
    server.note = runner.note
    assert runner.read_note() == "written"
    assert runner.report()["status"] == "FINISHED"
    assert server.log == b"y" * 500_000


def test_the_log_is_sent_as_it_grows_in_few_requests(server, start):
    began = time.monotonic()
    runner = start(
        "for i in range(100): print(i); time.sleep(0.01)\n"
        "while not os.path.exists(options['note'] + '.seen'): time.sleep(0.01)\n"
        "finish()"
    )
    wait_for(lambda: server.log.endswith(b"\n99\n"))
    (runner.note.parent / "note.seen").touch()
    assert runner.report()["status"] == "FINISHED"
    assert len(server.calls_of("PUT", "/log")) <= (time.monotonic() - began) / INTERVAL + 2
    assert server.log == b"".join(b"%d\n" % number for number in range(100))


def test_a_lost_response_to_the_log_duplicates_nothing(server, start):
    lost = []

    def fault(method, path):
        if method == "PUT" and len(lost) < 2:
            lost.append(path)
            return "lose the answer"
        return None

    server.fault = fault
    runner = start("for i in range(20): print(i); time.sleep(0.05)\nfinish()")
    assert runner.report()["status"] == "FINISHED"
    assert lost == ["/log", "/log"]
    assert server.log == b"".join(b"%d\n" % number for number in range(20))


def test_every_request_is_repeated_when_the_server_fails(server, start):
    server.add_input("a.txt", b"content")
    failed = {}

    def fault(method, path):
        failed[method, path] = failed.get((method, path), 0) + 1
        return {1: 500, 2: "hang up", 3: 503}.get(failed[method, path])

    server.fault = fault
    runner = start("print('hello')\nfinish(['x'])")
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


def test_a_report_whose_response_was_lost_is_recorded_once(server, start):
    server.fault = lambda method, path: "lose the answer" if path == "/report" else None
    runner = start("finish()")
    assert runner.end() == 3
    assert [report["status"] for report in server.reports] == ["FINISHED"]


def test_a_rejected_report_becomes_a_failure(server, start):
    refused = []

    def fault(method, path):
        if path == "/report" and not refused:
            refused.append(path)
            return 422
        return None

    server.fault = fault
    report = start("finish()").report()
    assert report["status"] == "FAILED"
    assert report["reason"] == "The report was rejected: It is broken."


def test_a_rejected_output_fails_the_job(server, start):
    server.fault = lambda method, path: 413 if path == "/outputs" else None
    report = start("finish(['big'])").report()
    assert (report["status"], report["reason"]) == (
        "FAILED",
        "Output 'big' was rejected: It is broken.",
    )


def test_heartbeats_continue_while_outputs_are_uploaded(server, start):
    seen = []

    def fault(method, path):
        if path == "/outputs":
            before = server.beats()
            wait_for(lambda: server.beats() >= before + 4)
            seen.append(path)

    server.fault = fault
    assert start("finish(['x'])", lease=0.8).report()["status"] == "FINISHED"
    assert seen == ["/outputs"]


def test_a_damaged_input_fails_the_job(server, start):
    server.add_input("a.txt", b"content")
    server.contents[1] = b"CONTENT"
    assert start("finish()").report()["reason"] == "Input 'a.txt' was damaged in transfer."


@pytest.mark.parametrize("content", [b"content and more", b"cont"])
def test_an_input_of_another_size_fails_the_job(server, start, content):
    server.add_input("a.txt", b"content")
    server.contents[1] = content
    assert start("finish()").report()["reason"] == "Input 'a.txt' was damaged in transfer."


def test_a_damaged_module_is_not_run(server, start):
    server.version = "0" * 64
    runner = start("note(1)")
    assert runner.report()["reason"] == "Module 'sample' was damaged in transfer."
    assert not runner.note.exists()


def test_a_module_that_is_not_an_archive_is_not_run(server, start):
    report = start(b"no archive" * 100).report()
    assert report["reason"].startswith("Module 'sample' cannot be unpacked: ")


def test_an_input_cannot_replace_input_json(server, start):
    server.add_input("input.json", b"{}")
    report = start("finish()").report()
    assert report["reason"] == "Invalid input name 'input.json'. This file name is reserved."


def test_a_large_input_is_complete_after_a_lost_connection(server, start):
    content = os.urandom(3 * 2**20)
    server.add_input("large", content)
    handler_of, broken = Handler.answer, []

    def answer(self, status, document):
        if document is content and not broken:
            broken.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: 2**20])
            self.close_connection = True
            return
        handler_of(self, status, document)

    server.RequestHandlerClass = type("Breaking", (Handler,), {"answer": answer})
    runner = start("os.link(f'{job}/input/large', f'{job}/output/large')\nfinish(['large'], files_created=[])")
    report = runner.report()
    assert broken
    assert report["status"] == "FINISHED"
    assert server.outputs[report["outputs"][0]["sha256"]] == content


SLEEPER = "print('begun')\nnote(os.getpid())\ntime.sleep(60)"


@pytest.mark.parametrize("status", [401, 403, 404, 409])
def test_an_attempt_that_has_ended_is_abandoned_without_a_report(server, start, status):
    runner = start(SLEEPER)
    pid = runner.read_note()
    server.fault = lambda method, path: status if path == "/heartbeat" else None
    assert runner.end() == 3
    assert not alive(pid)
    assert server.reports == []


@pytest.mark.parametrize("trouble", [500, "hang up"])
def test_a_function_is_killed_before_its_lease_expires(server, start, trouble):
    runner = start(SLEEPER, lease=3.2)
    pid = runner.read_note()
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


def test_a_function_survives_a_short_outage_of_the_server(server, start):
    runner = start("note(1)\nwhile not os.path.exists(options['note'] + '.go'): time.sleep(0.01)\nfinish()", lease=10.0)
    runner.read_note()
    server.fault = lambda method, path: 503
    beats = server.beats()
    wait_for(lambda: server.beats() > beats + 1)
    server.fault = lambda method, path: None
    beats = server.beats()
    wait_for(lambda: server.beats() > beats + 1)
    (runner.note.parent / "note.go").touch()
    assert runner.report()["status"] == "FINISHED"


def test_a_runner_suspended_beyond_its_lease_does_nothing_more(server, start):
    runner = start(SLEEPER, lease=1.0)
    pid = runner.read_note()
    os.kill(runner.process.pid, signal.SIGSTOP)
    time.sleep(1.5)
    server.over = True
    os.kill(runner.process.pid, signal.SIGCONT)
    assert runner.end() == 3
    assert not alive(pid)
    assert server.reports == []


def test_an_attempt_that_has_already_ended_starts_nothing(server, start):
    server.over = True
    runner = start("note(1)")
    assert runner.end() == 3
    assert not runner.note.exists()


def test_the_report_has_what_the_function_and_its_processes_used(start):
    runner = start("""
child = "import time\\nkept = b'x' * 2**26\\nwhile time.process_time() < 0.2: pass"
subprocess.run([sys.executable, "-c", child], check=True)
while time.process_time() < 0.1: pass
sys.exit(3)
""")
    report = runner.report()
    assert report["status"] == "FAILED"
    assert (report["exit_code"], report.get("failure")) == (3, None)
    assert report["usage"].keys() == {"peak_memory", "cpu_seconds", "wall_seconds"}
    assert 2**26 <= report["usage"]["peak_memory"] < 2**28
    assert report["usage"]["cpu_seconds"] >= 0.3


def test_the_report_of_an_attempt_without_a_process_has_neither_usage_nor_an_exit_code(server, start):
    server.command = ["no-such-program"]
    assert start("").report().keys().isdisjoint({"usage", "exit_code", "failure"})


@pytest.mark.parametrize(
    ("main", "exit_code"), [("finish()", 0), ("sys.exit(75)", 75), ("os.kill(os.getpid(), 9)", 137), ("pass", 0)]
)
def test_the_report_has_the_exit_code_of_the_function(main, exit_code, start):
    assert start(main).report()["exit_code"] == exit_code


METRICS = """
import math
lines = open(f"{job}/output/metrics.jsonl", "a", buffering=1)
def add(**point):
    lines.write(json.dumps(point) + chr(10))
"""
LIMITS = {"points_limit": 5000, "names_limit": 3}


def test_metrics_are_sent_while_the_function_runs(server, start, tmp_path):
    go = server.arguments["go"] = str(tmp_path / "go")
    runner = start(
        METRICS
        + """
add(name="loss", value=1, step=1, time=7.5)
note(1)
lines.write('{"name": "lo')
while not os.path.exists(options["go"]): time.sleep(0.01)
lines.write('ss", "value": 0.5, "step": 2}' + chr(10) + '{"name": "end", "value": -3e-300}')
lines.flush()
finish()
""",
        **LIMITS,
    )
    runner.read_note()
    wait_for(lambda: server.points, "the first point")
    assert server.points == [{"name": "loss", "value": 1, "step": 1, "time": 7.5}]
    Path(go).touch()
    report = runner.report()
    assert (report["status"], report["outputs"]) == ("FINISHED", [])
    assert [(found["name"], found["value"], found["step"]) for found in server.points] == [
        ("loss", 1, 1),
        ("loss", 0.5, 2),
        ("end", -3e-300, None),
    ]
    assert server.points[-1]["time"] > 1.7e9
    assert server.log == b""


def test_wrong_metrics_are_ignored_and_said_in_the_log_once(server, start):
    runner = start(
        METRICS
        + """
lines.write("[" + chr(10) + chr(10))
for value in (math.nan, math.inf, True, None, "1", 10**30):
    add(name="a", value=value)
for wrong in ({"name": 1}, {"name": ""}, {"name": "x" * 201}, {"step": 1.5}, {"time": -1}, {"time": "x"}, {"no": 1}):
    add(**({"name": "a", "value": 1} | wrong))
lines.write("x" * 200000 + chr(10))
lines.write(json.dumps({"name": "a", "value": 1}) + " " * 5000 + chr(10))
os.write(lines.fileno(), bytes([255, 10]))
add(name="a", value=2)
finish()
""",
        **LIMITS,
    )
    assert runner.report()["status"] == "FINISHED"
    assert [(found["name"], found["value"]) for found in server.points] == [("a", 2)]
    [line] = server.log.decode().splitlines()
    assert line.startswith("[mlapi] Line 1 of metrics.jsonl is ignored, and so are further ones that are wrong: Expect")


def test_a_file_of_broken_lines_is_read_up_to_a_thousand_of_them(server, start):
    runner = start(
        """
with open(f"{job}/output/metrics.jsonl", "wb") as lines:
    lines.write(b'{"name": "a", "value": 1}' + bytes([10]))
    for _ in range(64):
        lines.write(b"x\\n" * 2**19)
time.sleep(60)
""",
        **LIMITS,
    )
    wait_for(lambda: server.points, "the first point")
    server.cancel = True
    assert runner.report()["status"] == "CANCELLED"
    assert [found["value"] for found in server.points] == [1]
    first, last = server.log.decode().splitlines()
    assert first.startswith("[mlapi] Line 2 of metrics.jsonl is ignored, and so are further ones that are wrong: Expec")
    assert last == "[mlapi] metrics.jsonl has 1000 lines that are wrong; the rest is ignored."


def test_a_file_of_metrics_over_its_size_is_read_up_to_it(server, start):
    main = """
with open(f"{job}/output/metrics.jsonl", "wb") as lines:
    lines.write(b'{"name": "a", "value": 1}' + bytes([10]))
    lines.truncate(2**26)
    lines.seek(2**26)
    lines.write(bytes([10]) + b'{"name": "a", "value": 2}' + bytes([10]))
finish()
"""
    assert start(main, **LIMITS).report()["status"] == "FINISHED"
    assert [found["value"] for found in server.points] == [1]
    assert server.log.decode().splitlines() == [
        "[mlapi] Line 2 of metrics.jsonl is ignored, and so are further ones that are wrong: "
        "it has more than 4096 bytes.",
        "[mlapi] metrics.jsonl is larger than 67108864 bytes; the rest is ignored.",
    ]


def test_metrics_are_not_read_beyond_the_end_of_an_attempt(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("x\n")
    bounds = Bounds(Lease())
    client = Client("http://127.0.0.1:1", TOKEN, bounds)
    log = Log(client, 2**20, 2**20)
    bounds.cancelled = True
    series = Series(client, bounds, log, str(tmp_path), 10, 10)
    series.start()
    series.close()
    assert log.last_lines() == ""


@pytest.mark.parametrize("size", [2**16 - 10, 2**16, 2**17])
def test_notes_of_the_runner_appear_in_a_log_over_its_limit(size, server, start):
    runner = start(
        METRICS + f"sys.stdout.write('y' * {size}); sys.stdout.flush()\nlines.write('x' + chr(10)); finish(['x'])",
        log_limit=2**16,
        **LIMITS,
    )
    assert runner.report()["status"] == "FINISHED"
    assert len(server.log) <= 2**16
    text, note, last = server.log.decode().splitlines()
    assert note.startswith("[mlapi] Line 1 of metrics.jsonl is ignored")
    assert last == f"[mlapi] Log limit of 65536 bytes reached: {size - len(text)} bytes dropped."


def test_metrics_of_a_million_names_are_capped(server, start):
    runner = start(
        METRICS
        + """
lines = open(f"{job}/output/metrics.jsonl", "a")
for number in range(10**6):
    add(name=f"m{number}", value=number)
for number in range(10**4):
    add(name="m1", value=number)
lines.close()
finish()
""",
        **LIMITS,
    )
    assert runner.report()["status"] == "FINISHED"
    assert len(server.points) == 5000
    assert {found["name"] for found in server.points} == {"m0", "m1", "m2"}
    assert server.log.decode().splitlines() == [
        "[mlapi] Metrics have more than 3 names; the others are ignored.",
        "[mlapi] Metrics have the maximum of 5000 points; further ones are ignored.",
    ]
    assert len(server.calls_of("PUT", "/metrics")) < 30


def test_a_lost_response_to_metrics_duplicates_nothing(server, start):
    lost = []

    def fault(method, path):
        """Lose the first two responses."""
        if path == "/metrics" and len(lost) < 2:
            lost.append(path)
            return "lose the answer"
        return None

    server.fault = fault
    runner = start(METRICS + "for step in range(1200): add(name='a', value=step)\nfinish()", **LIMITS)
    assert runner.report()["status"] == "FINISHED"
    assert [found["value"] for found in server.points] == list(range(1200))
    assert len(lost) == 2


def test_the_metrics_of_a_failed_function_are_complete(server, start):
    main = METRICS + "for step in range(100): add(name='a', value=step)\nsys.exit(3)"
    assert start(main, **LIMITS).report()["status"] == "FAILED"
    assert len(server.points) == 100


@pytest.mark.parametrize(
    "main",
    [
        "os.mkdir(f'{job}/output/metrics.jsonl')",
        "os.mkfifo(f'{job}/output/metrics.jsonl')",
        "os.symlink('/etc/passwd', f'{job}/output/metrics.jsonl')",
    ],
)
def test_metrics_are_read_from_a_file_only(server, start, main):
    assert start(f"{main}\nfinish()", **LIMITS).report()["status"] == "FINISHED"
    assert (server.points, server.log) == ([], b"")


def test_metrics_are_no_output(server, start):
    report = start("finish(['metrics.jsonl'])", **LIMITS).report()
    assert report["status"] == "FAILED"
    assert report["reason"].startswith("Invalid file name 'metrics.jsonl' in output.json.")


def test_a_stopped_runner_hands_its_job_back(server, start):
    runner = start(SLEEPER)
    pid = runner.read_note()
    runner.process.terminate()
    report = runner.report()
    assert not alive(pid)
    assert report.pop("usage")["wall_seconds"] > 0
    assert report.pop("exit_code") == 128 + signal.SIGTERM
    assert report == {"status": "RETURNED", "reason": "The runner was told to stop.", "fault": None}
    assert server.log == b"begun\n"


def test_a_function_dies_with_its_runner_and_the_next_runner_sweeps(server, start):
    runner = start(SLEEPER)
    pid = runner.read_note()
    runner.process.kill()
    wait_for(lambda: not alive(pid))
    (left,) = runner.scratch.iterdir()
    (runner.scratch / "not-ours").mkdir()
    runner.note.unlink()
    # The report of the last one ends the attempt, which the neighbour is not to hear: it says nothing.
    neighbour = start("note(os.getpid()); time.sleep(60)", heartbeat=30, lease=60)
    neighbour.read_note()
    held = set(runner.scratch.iterdir()) - {left, runner.scratch / "not-ours"}
    last = start("finish()")
    last.process.wait(10)
    assert set(runner.scratch.iterdir()) == held | {runner.scratch / "not-ours"}
    assert alive(neighbour.read_note())


def test_locked_and_deep_folders_of_a_function_are_removed(start):
    runner = start("""
for i in range(600):
    os.mkdir("deep-deep-deep"); os.chdir("deep-deep-deep")
open("file", "w")
os.chdir(job)
os.mkdir("locked"); open("locked/file", "w"); os.symlink(os.path.dirname(options["note"]), "locked/link")
os.chmod("locked", 0o000); os.chmod("output", 0o700)
finish()
""")
    assert runner.report()["status"] == "FINISHED"
    assert runner.note.parent.exists()


def test_a_failure_of_the_runner_itself_is_reported(server, start):
    runner = start("finish()", timeout="soon")
    assert runner.end() == 1
    (report,) = server.reports
    assert report["status"] == "FAILED"
    assert report["reason"].startswith("The runner failed: TypeError: ")
    assert "Traceback" not in report["reason"]


@pytest.mark.parametrize("line", ["nonsense\n", "[]\n", '{"attempt": "file:///etc/passwd"}\n'])
def test_an_invalid_ticket_is_an_error(line):
    ran = subprocess.run([sys.executable, "-m", "mlapi.execution.runner"], input=line, capture_output=True, text=True)
    assert ran.returncode == 2
    assert "one line of JSON" in ran.stderr


def test_a_runner_without_a_ticket_exits(tmp_path):
    ran = subprocess.run([sys.executable, "-m", "mlapi.execution.runner"], input="", text=True)
    assert ran.returncode == 0


def loaded_by(*modules):
    """Return the modules that a new interpreter loads to import these."""
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
    if module.name not in {"mlapi.execution.scheduler", "mlapi.execution.archive"}
)


def test_runner_and_archives_need_only_the_standard_library():
    loaded = loaded_by(*RUNNER, "mlapi.archives.canonical", "mlapi.archives.readers")
    assert "mlapi.execution.runner" in loaded
    assert {name.partition(".")[0] for name in loaded} <= {"mlapi", *sys.stdlib_module_names}
    assert loaded & {"mlapi.archives.manifests", "mlapi.models", "mlapi.schemas"} == set()
