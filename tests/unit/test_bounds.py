"""Every phase of an attempt ends: by its time limit, a cancellation, a stop of the runner, or refusals."""

import hashlib
import os
import signal
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mlapi.execution import client as clients
from mlapi.execution.bounds import Bounds
from mlapi.execution.client import Client
from mlapi.execution.errors import JobCancelled, JobReturned, Rejected
from mlapi.execution.lease import Lease
from mlapi.execution.runner import EXIT_STOPPED
from mlapi.execution.watchdog import Watchdog
from tests.processes import alive, wait_for
from tests.unit.test_runner import SLEEPER, server, start

__all__ = ["server", "start"]  # fixtures

NEVER = 300.0
"""A bound in seconds that no test waits for."""


def refuse(server, *paths, status=507, until=lambda: False):
    """Refuse the requests to these paths."""
    server.fault = lambda method, path: status if path in paths and not until() else None


REFUSED = [("/outputs", 507), ("/outputs", 500), ("/log", 500), ("/report", 500), ("/outputs", "hang up")]


@pytest.mark.parametrize(("path", "status"), [*REFUSED, ("/module", 500), ("/inputs/1", 503)])
def test_a_job_is_handed_back_if_the_service_refuses_for_too_long(server, start, path, status):
    server.add_input("a.txt", b"content")
    refuse(server, path, status=status, until=lambda: b"RETURNED" in server.body)
    runner = start("print('hello'); finish(['x'])", delivery_timeout=1.0)
    report = runner.report()
    assert (report["status"], report["fault"]) == ("RETURNED", "service")
    words = "There was no response." if status == "hang up" else "It is broken."
    assert words in report["reason"]
    # It was not refused once: the pauses grow.
    assert 2 <= len([call for call in server.calls if call[1] == path]) <= 8


def test_a_refused_output_is_delivered_if_the_service_takes_it_in_time(server, start):
    refuse(server, "/outputs", until=lambda: len(server.calls_of("POST", "/outputs")) > 3)
    report = start("finish(['x'])").report()
    assert (report["status"], report["reason"], len(report["outputs"])) == ("FINISHED", None, 1)


@pytest.mark.parametrize(("path", "status"), REFUSED)
def test_the_time_limit_ends_a_delivery_that_is_refused(server, start, path, status):
    refuse(server, path, status=status, until=lambda: b"FAILED" in server.body)
    runner = start("print('hello'); finish(['x'])", timeout=1.0, delivery_timeout=NEVER)
    report = runner.report()
    assert report["status"] == "FAILED"
    words = "There was no response." if status == "hang up" else "It is broken."
    assert report["reason"] == f"The results were not delivered within 5 s. {words}"


def test_the_time_limit_ends_a_download_that_is_refused(server, start):
    server.add_input("a.txt", b"content")
    refuse(server, "/inputs/1", status=500)
    report = start("note(1)", timeout=1.0, delivery_timeout=NEVER).report()
    assert report["status"] == "FAILED"
    assert report["reason"] == "The module and the inputs were not downloaded within 5 s. It is broken."


PHASES = ["/inputs/1", "/outputs", "/report"]


def in_phase(server, start, path):
    """Start a runner, and wait until it repeats a request of a phase."""
    server.add_input("a.txt", b"content")
    let = threading.Event()
    refuse(server, path, until=let.is_set)
    runner = start("finish(['x'])", delivery_timeout=NEVER)
    wait_for(lambda: len([call for call in server.calls if call[1] == path]) > 1)
    return runner, let


@pytest.mark.parametrize("path", PHASES)
def test_a_cancellation_ends_every_phase(server, start, path):
    runner, let = in_phase(server, start, path)
    server.cancel = True
    if path == "/report":
        beats = server.beats()
        wait_for(lambda: server.beats() > beats + 1)
        let.set()
    report = runner.report()
    # A result that the service takes in the end is as good as the cancellation.
    assert report["status"] in ({"CANCELLED", "FINISHED"} if path == "/report" else {"CANCELLED"})


@pytest.mark.parametrize("path", PHASES)
def test_a_stop_ends_every_phase_and_hands_the_job_back(server, start, path):
    runner, let = in_phase(server, start, path)
    runner.process.terminate()
    if path == "/report":
        let.set()
    report = runner.report()
    assert report["status"] in ({"RETURNED", "FINISHED"} if path == "/report" else {"RETURNED"})
    if report["status"] == "RETURNED":
        for measured in ("usage", "exit_code"):  # Of a function that has run by then.
            report.pop(measured, None)
        assert report == {"status": "RETURNED", "reason": "The runner was told to stop.", "fault": None}


def test_a_runner_whose_report_is_never_taken_leaves(server, start):
    refuse(server, "/report", status=500)
    runner = start("finish()", delivery_timeout=0.5)
    assert runner.end() == 4
    assert server.reports == []


def test_a_stopped_runner_whose_service_is_gone_leaves(server, start):
    runner = start(SLEEPER, lease=60.0)
    pid = runner.read_note()
    server.fault = lambda method, path: "hang up"
    runner.process.terminate()
    assert runner.end() == EXIT_STOPPED
    assert not alive(pid)


def test_a_function_that_is_stopped_with_its_runner_has_not_failed(server, start):
    runner = start("child = subprocess.Popen(['sleep', '60'], start_new_session=True)\nnote([os.getpid(), child.pid])\n"
                   "time.sleep(60)")  # fmt: skip
    pid, child = runner.read_note()
    # As systemd does: every process of the service gets the signal, the function first.
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not alive(pid))
    runner.process.terminate()
    report = runner.report()
    assert (report["status"], report["fault"]) == ("RETURNED", None)
    assert not alive(child)


def test_a_function_that_is_stopped_alone_has_failed(start):
    report = start("os.kill(os.getpid(), 15)").report()
    assert report["reason"] == "The function was killed by signal 15 (SIGTERM)."


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        ({"python": "/absent/python"}, "The machine has no Python interpreter '/absent/python'."),
        ({"python": "/"}, "The machine has no Python interpreter '/'."),
        ({"file_size": 50_000}, "The machine cannot run jobs: File too large."),
    ],
)
def test_a_fault_of_the_machine_hands_the_job_back(server, start, machine, reason):
    server.add_input("large", b"x" * 100_000)
    report = start("finish()", **machine).report()
    assert report == {"status": "RETURNED", "reason": reason, "fault": "worker"}


def test_a_scratch_folder_that_cannot_be_written_is_a_fault_of_the_machine(server, start, tmp_path):
    (tmp_path / "scratch").symlink_to("/proc/sys")
    runner = start("finish()")
    assert runner.process.wait(15) == 0
    (report,) = server.reports
    assert (report["status"], report["fault"]) == ("RETURNED", "worker"), report


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"metrics_limit": 20}, "The metrics are larger than 20 bytes."),
        ({"tags_limit": 20}, "The tags of output 'x' are larger than 20 bytes."),
        ({"report_limit": 200}, "The report, with metrics and the tags of all outputs, is larger than 200 bytes."),
    ],
)
def test_results_beyond_a_limit_fail_in_words_of_the_job(server, start, limits, reason):
    report = start("finish(['x'], metrics={'a': 'b' * 99}, tags=[{'c': 'd' * 99}])", **limits).report()
    assert (report["status"], report["reason"]) == ("FAILED", reason)
    assert "report_limit" in limits or server.outputs == {}


def test_results_at_their_limits_are_accepted(start):
    metrics = {"ä": ["€", 1.5, None, True]}
    limits = {"metrics_limit": len('{"ä":["€",1.5,null,true]}'.encode()), "tags_limit": 2}
    assert start(f"finish(['x'], metrics={metrics}, tags=[{{}}])", **limits).report()["status"] == "FINISHED"


def test_a_log_is_sent_in_pieces_that_the_service_accepts(server, start):
    sizes = []
    handle = server.RequestHandlerClass.put_it
    server.RequestHandlerClass = type(
        "Small",
        (server.RequestHandlerClass,),
        {"put_it": lambda self, path, query, body: sizes.append(len(body)) or handle(self, path, query, body)},
    )
    runner = start("sys.stdout.write('y' * 50_000); sys.stdout.flush(); finish()", log_piece_limit=1000)
    assert runner.report()["status"] == "FINISHED"
    assert server.log == b"y" * 50_000
    assert max(sizes) == 1000


@pytest.mark.parametrize(("main", "result"), [("finish()", None), ("sys.exit(3)", "The function ended with exit")])
def test_a_log_that_the_service_rejects_is_not_lost_in_silence(server, start, main, result):
    refuse(server, "/log", status=413)
    report = start(f"print('hello')\n{main}").report()
    assert report["reason"].endswith("The log is incomplete: It is broken.")
    assert report["reason"].startswith(result or "The log")
    assert report["status"] == ("FAILED" if result else "FINISHED")


class Slow(ThreadingHTTPServer):
    """A server that stores an upload longer than a request may wait for its response."""

    daemon_threads = True

    def __init__(self, seconds):
        super().__init__(("127.0.0.1", 0), SlowHandler)
        self.seconds, self.received, self.answered = seconds, 0, 0
        self.hangs = threading.Event()


class SlowHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
        while left:
            chunk = self.rfile.read(min(left, 65536))
            digest.update(chunk)
            self.server.received += len(chunk)
            left -= len(chunk)
        self.server.hangs.wait(self.server.seconds)
        data = b'{"sha256": "%s"}' % digest.hexdigest().encode()
        self.send_response(201)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.server.answered += 1


@pytest.fixture
def slow():
    with Slow(3.0) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.hangs.set()
        server.shutdown()


def client_of(server, bounds):
    return Client(f"http://127.0.0.1:{server.server_port}/attempts/7", "token", bounds)


def test_a_large_file_that_takes_long_to_store_is_sent_once(slow, tmp_path, monkeypatch):
    monkeypatch.setattr(clients, "UPLOAD_TIMEOUT", 1.0)  # The real one is a minute.
    size = 40 * 2**20
    file = tmp_path / "large"
    with file.open("wb") as out:
        out.truncate(size)
    client = client_of(slow, Bounds(Lease()))
    assert client.upload(lambda: file.open("rb", buffering=0), size)
    client.close()
    wait_for(lambda: slow.answered)
    assert (slow.received, slow.answered) == (size, 1)


@pytest.mark.parametrize(("end", "error"), [("cancelled", JobCancelled), ("stopped", JobReturned)])
def test_the_wait_for_a_large_file_to_be_stored_can_be_ended(slow, tmp_path, end, error):
    slow.seconds = NEVER
    file = tmp_path / "large"
    file.write_bytes(b"x" * 2**20)
    bounds = Bounds(Lease())
    client = client_of(slow, bounds)
    watchdog = Watchdog(bounds, client)
    watchdog.start()
    timer = threading.Thread(target=lambda: (wait_for(lambda: slow.received == 2**20), setattr(bounds, end, True)))
    timer.start()
    with pytest.raises(error):
        client.upload(lambda: file.open("rb", buffering=0), 2**20)
    watchdog.stop()
    timer.join()
    assert slow.answered == 0


def test_an_interrupted_client_connects_again(server):
    client = Client(server.url, "token", Bounds(Lease()))
    client.interrupt()  # It has no connection yet.
    for _ in range(2):
        with pytest.raises(Exception, match="Unauthorized"):
            client.attempt()
        client._bounds.lease.ended = None
        client.interrupt()
    client.close()


def test_a_log_over_the_limit_of_the_service_is_rejected_and_ends_nothing(server):
    server.fault = None
    bounds = Bounds(Lease())
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                body = b'{"detail": "The log is limited to 1 bytes.", "limit": 1}'
                connection.sendall(b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

        thread = threading.Thread(target=answer)
        thread.start()
        client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}/attempts/7", "token", bounds)
        with pytest.raises(Rejected, match="limited to 1"):
            client.append_log(0, b"xy")
        client.close()
        thread.join()
    assert bounds.end() is None


def test_bounds_end_in_the_order_of_their_weight():
    bounds = Bounds(Lease())
    bounds.begin("Too long.", 0.0)
    bounds.refusal = "Not now."
    assert str(bounds.end()) == "Too long."
    bounds.begin_transfer("Not within {} s.", 0.0)
    assert bounds.end() is None
    bounds.begin("Too long.", NEVER)
    bounds.stop()
    assert isinstance(bounds.end(), JobReturned)
    bounds.cancelled = True
    assert isinstance(bounds.end(), JobCancelled)
    bounds.conclude(NEVER)
    assert bounds.end() is None
    assert bounds.remaining() > 0
    bounds.lease.end("It has ended.")
    assert str(bounds.end()) == "It has ended."
    assert bounds.remaining() == 0


def test_a_sleep_ends_with_the_attempt():
    bounds = Bounds(Lease())
    began = time.monotonic()
    threading.Timer(0.1, bounds.stop).start()
    with pytest.raises(JobReturned):
        bounds.sleep(NEVER)
    assert time.monotonic() - began < NEVER


def test_a_heartbeat_after_the_report_does_not_keep_the_runner_from_repeating_it(server, start):
    """The first report has ended the attempt, its response is lost, and a heartbeat learns of the end before."""
    reports, beats = [], []

    def fault(method, path):
        if path == "/heartbeat" and reports:
            beats.append(path)
            return 409
        if path == "/report":
            reports.append(server.body)
            if len(reports) == 1:
                wait_for(lambda: beats)
                return "hang up"
        return None

    server.fault = fault
    assert start("finish()").report()["status"] == "FINISHED"
    assert len(reports) == 2
    assert reports[0] == reports[1]
