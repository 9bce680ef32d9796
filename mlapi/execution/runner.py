"""The runner: a program that runs one attempt at a job, from its URL to its report.

It reads one line of JSON from stdin, which keeps the token out of arguments and environment::

    {"attempt": URL, "token": TOKEN, "scratch": FOLDER, "python": PROGRAM}

It needs only the standard library and starts quickly. On the machine of a scheduler it is forked by `zygote`. Its exit
status is one of the `EXIT_` constants.
"""

from __future__ import annotations

import json
import signal
import sys

from mlapi.execution.bounds import Bounds
from mlapi.execution.client import Client
from mlapi.execution.conclusion import conclusion, explained, failed, machine_fault
from mlapi.execution.deliver import collect, upload
from mlapi.execution.errors import (
    SERVICE,
    WORKER,
    AttemptOver,
    JobCancelled,
    JobFailed,
    JobReturned,
    Refused,
    Rejected,
    TokenRefused,
)
from mlapi.execution.fetch import fetch
from mlapi.execution.heartbeat import Heartbeat
from mlapi.execution.lease import Lease
from mlapi.execution.log import CHUNK, Log
from mlapi.execution.process import guard_self, kill_strays
from mlapi.execution.series import Series
from mlapi.execution.watch import start, watch
from mlapi.execution.watchdog import Watchdog
from mlapi.execution.workspace import Workspace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlapi.execution.contract import Attempt, Report, Ticket
    from mlapi.execution.outputs import Outputs

EXIT_REPORTED = 0
"""The result of the attempt was reported, whatever it was; or no ticket came."""

EXIT_FAILED = 1
"""The runner itself failed. It reported that if it could."""

EXIT_BAD_TICKET = 2
"""The line on stdin is not a ticket."""

EXIT_ABANDONED = 3
"""The attempt was over: nothing was reported, and nothing is left running."""

EXIT_UNREPORTED = 4
"""The service did not take the report in time: nothing is left running."""

EXIT_REFUSED = 5
"""The service refused the token of the attempt with status 401: nothing was reported, and nothing is left running."""

EXIT_STOPPED = 6
"""The runner was told to stop while the service was not reachable: nothing was reported."""

SIGNALLED = 128
"""What shells add to the number of the signal that ended a process, to make it an exit code."""

LAST_WORDS = 5.0
"""Seconds for the rest of the log, and for the report, of an attempt that had to end."""

FETCH = "The module and the inputs were not downloaded within {} s."
DELIVERY = "The results were not delivered within {} s."


class Run:
    """The run of one attempt. `bounds` may be stopped at any time."""

    def __init__(self, ticket: Ticket, bounds: Bounds) -> None:
        self._ticket, self._bounds = ticket, bounds
        self._client = self._connect(bounds)
        self._watchdog = Watchdog(bounds, self._client)
        # With bounds of their own, because only the lease ends heartbeats.
        self._heartbeat = Heartbeat(self._connect(Bounds(bounds.lease)), bounds)
        self._log: Log | None = None
        self._series: Series | None = None
        self._ran: Report = {}

    def run(self) -> int:
        """Run the attempt, report its end, and return the exit status of the runner. Raises `AttemptOver`."""
        try:
            self._complete()
        except AttemptOver:
            raise
        except Exception as error:  # noqa: BLE001 - whatever ends an attempt, in whatever phase, is reported here
            return self._conclude(error)
        finally:
            self._watchdog.stop()
            self._heartbeat.stop()
        return EXIT_REPORTED

    def _connect(self, bounds: Bounds) -> Client:
        return Client(self._ticket["attempt"], self._ticket["token"], bounds)

    def _complete(self) -> None:
        """Run the attempt to its end and report the result, or raise what ends it before."""
        bounds, client = self._bounds, self._client
        attempt = client.attempt()
        bounds.lease.set_length(attempt["lease"])
        bounds.patience = attempt.get("delivery_timeout", bounds.patience)
        self._heartbeat.send_first(client, attempt["heartbeat"])
        with self._workspace() as workspace:
            outputs, failure = self._result(attempt, workspace)
            bounds.begin_transfer(DELIVERY, attempt["timeout"])
            report = self._deliver(attempt, outputs, failure)
            try:
                self._report(client, report)
            except Refused as error:
                raise JobReturned(f"The report was refused for {bounds.patience:g} s: {error}", SERVICE) from error

    def _report(self, client: Client, report: Report) -> None:
        """Report the end of the attempt, with the exit code of the function and its usage if it was started."""
        report.update(self._ran)
        client.report(report)

    def _workspace(self) -> Workspace:
        """Create the folder of the attempt, which has the id of the attempt in its name."""
        number = self._ticket["attempt"].rpartition("/")[2]
        try:
            return Workspace(self._ticket["scratch"], number if number.isalnum() else "0")
        except OSError as error:
            raise JobReturned(f"The scratch folder of the machine cannot be used: {error.strerror}.", WORKER) from error

    def _result(self, attempt: Attempt, workspace: Workspace) -> tuple[Outputs | None, JobFailed | None]:
        """Download what the function needs and execute it. Returns its outputs, or why it failed."""
        try:
            self._bounds.begin_transfer(FETCH, attempt["timeout"])
            fetch(self._client, self._bounds, attempt, workspace)
            return collect(attempt, workspace, self._execute(attempt, workspace)), None
        except JobFailed as error:
            return None, explained(error, self._log)

    def _execute(self, attempt: Attempt, workspace: Workspace) -> Log:
        """Execute the function, or raise what ends it."""
        timeout = attempt["timeout"]
        self._bounds.begin(f"The function was stopped after its time limit of {timeout:g} s.", timeout)
        # Before the threads start: a fork is only safe in a process with one thread.
        child = start(attempt["command"], self._ticket["python"], workspace)
        try:
            workspace.record(child)
            log = self._start_threads(attempt, workspace)
            failure = watch(child, log, self._bounds)
        finally:
            child.close()
            kill_strays()
            status = child.reap()
            self._ran = {"exit_code": status if status >= 0 else SIGNALLED - status, "usage": child.usage()}
        if failure is not None:
            raise failure
        return log

    def _start_threads(self, attempt: Attempt, workspace: Workspace) -> Log:
        """Start the threads that send heartbeats, the log and the metrics, and that interrupt the others."""
        self._heartbeat.start()
        self._watchdog.start()
        log = Log(self._client, attempt["log_limit"], attempt.get("log_piece_limit", CHUNK))
        log.start()
        self._log = log
        if points := attempt.get("points_limit", 0):
            client, names = self._connect(self._bounds), attempt.get("names_limit", points)
            self._watchdog.watch(client)
            self._series = Series(client, self._bounds, log, workspace.output, points, names)
            self._series.start()
        return log

    def _deliver(self, attempt: Attempt, outputs: Outputs | None, failure: JobFailed | None) -> Report:
        """Upload the rest of the log and the outputs, and return the report."""
        problem = self._close_log()
        if isinstance(problem, Refused):
            raise JobReturned(f"The log was refused for {self._bounds.patience:g} s: {problem}", SERVICE)
        try:
            if outputs is None:
                raise failure or JobFailed("There is no result.")
            report = upload(self._client, attempt, outputs, self._bounds.patience)
        except JobFailed as error:
            report = failed(error)
        if problem is not None:
            report["reason"] = f"{report['reason'] or ''} The log is incomplete: {problem}".strip()
        return report

    def _close_log(self) -> Refused | Rejected | None:
        """Upload the rest of the metrics and of the log. Returns why the log is not complete, or None."""
        if self._series is not None:
            self._series.close()
        if self._log is None:
            return None
        self._log.close()
        return self._log.problem

    def _conclude(self, error: Exception) -> int:
        """Report what ended the attempt before it had a result, over a connection that no thread uses."""
        bounds = self._bounds
        bounds.conclude(LAST_WORDS)
        self._close_log()
        bounds.conclude(LAST_WORDS)
        client = self._connect(bounds)
        try:
            try:
                self._report(client, conclusion(error))
            except JobFailed as rejected:
                self._report(client, conclusion(rejected))
        except (Refused, JobFailed):
            return EXIT_STOPPED if isinstance(error, JobReturned) and error.fault is None else EXIT_UNREPORTED
        expected = isinstance(error, (JobFailed, JobCancelled, JobReturned, Refused)) or machine_fault(error)
        return EXIT_REPORTED if expected else EXIT_FAILED


def run(ticket: Ticket) -> int:
    """Run the attempt of a ticket and return the exit status of the runner."""
    bounds = Bounds(Lease())
    signal.signal(signal.SIGTERM, lambda *_: bounds.stop())
    try:
        return Run(ticket, bounds).run()
    except TokenRefused as error:
        sys.stderr.write(f"Attempt {ticket['attempt']}: the token was refused with status 401: {error}\n")
        return EXIT_REFUSED
    except AttemptOver as error:
        sys.stderr.write(f"Attempt {ticket['attempt']} abandoned: {error}\n")
        return EXIT_ABANDONED


def _parse_ticket(line: bytes) -> Ticket | None:
    """Return the ticket in a line, or None if it is invalid."""
    try:
        document = json.loads(line)
    except ValueError:
        return None
    keys = ("attempt", "token", "scratch", "python")
    if not isinstance(document, dict) or not all(isinstance(document.get(key), str) for key in keys):
        return None
    if not document["attempt"].startswith(("http://", "https://")):
        return None
    return {
        "attempt": document["attempt"],
        "token": document["token"],
        "scratch": document["scratch"],
        "python": document["python"],
    }


def load() -> None:
    """Import what every attempt needs, but not every process that imports this module (the codec is for host names)."""
    import encodings.idna  # noqa: F401

    import mlapi.archives.canonical  # noqa: F401


def main() -> int:
    """Wait for a ticket on stdin and run its attempt."""
    guard_self()
    load()
    line = sys.stdin.buffer.readline()
    if not line.strip():
        return EXIT_REPORTED
    ticket = _parse_ticket(line)
    if ticket is None:
        sys.stderr.write("The runner needs one line of JSON on stdin: attempt, token, scratch and python.\n")
        return EXIT_BAD_TICKET
    return run(ticket)


if __name__ == "__main__":
    sys.exit(main())
